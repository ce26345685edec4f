"""The tables of arXiv 2604.03589 for one run: over questions with intervals, token-weighted as there, and
for one question.

Measures have the names of the paper's own columns in `data/paper.json`, so that each stands beside its
number; measures without one there are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.dynamics import DELTA, DynamicsClass, classify, mean_vectors, numbers, pooled_sd, width_of
from edge.analysis.intervals import UNDEFINED, Float64, Interval, bootstrap, bootstrap_columns, resampled
from edge.analysis.published import MEBIBYTE, PublishedClass, layer_measures, paper_kv_mebibytes, published
from edge.analysis.tokens import (
    Correlation,
    MeanTrajectory,
    TokenPass,
    correlate,
    mean_trajectory,
    read_tokens,
)
from edge.errors import UserError
from edge.runs.run_directory import Run
from edge.signals.metric import Shown
from edge.signals.metrics import BY_NAME, shown_in
from edge.signals.streaming import window

BEYOND = 8
TITLES = {
    1: "Summary",
    2: "Output entropy",
    3: "Step-level attention entropy",
    4: "Attention entropy by layer",
    5: "Early to late shift",
    6: "Layers of lowest and highest attention entropy",
    7: "Hidden states",
    BEYOND: "Beyond the paper: drift from token to token, attention entropy / ln K",
}
SHOWN_LAYERS = 5  # lowest and highest of Table 6


class Row(NamedTuple):
    """One measure of one table. `questions`: mean over questions, each answer weighs the same. `tokens`:
    each token weighs the same, with an interval (over questions) where the measure is a mean. `question`: of
    the chosen question alone. NaN: none."""

    table: int
    measure: str
    questions: Interval
    tokens: Interval
    question: float


class Diffusion(NamedTuple):
    """Whether attention spreads along the answer: slope over the answer of attention entropy and of
    attention entropy / ln K, and the share of answers in which each rises."""

    raw: Interval
    normalised: Interval
    raw_rises: Interval
    normalised_rises: Interval


@dataclass(frozen=True)
class PaperRun:
    """What one run says in the paper's terms. `verdicts` are the paper's own on this model, None where it
    has none; `trajectories` are by metric; `question` is the chosen question's index; `layers` is long:
    metric, layer, mean, low, high (None without taps)."""

    label: str
    model_id: str
    notice: str
    questions: int
    tokens: int
    question: int | None
    rows: tuple[Row, ...]
    model_class: DynamicsClass
    verdicts: PublishedClass | None
    diffusion: Diffusion | None
    correlations: tuple[Correlation, ...]
    trajectories: dict[str, MeanTrajectory]
    layers: pa.Table | None

    def row(self, table: int, measure: str) -> Row:
        return next(row for row in self.rows if (row.table, row.measure) == (table, measure))


class Answers:
    """A run's answers table with what every measure needs of it: token counts, and the chosen question's
    place."""

    def __init__(self, run: Run, question: int | None) -> None:
        self.table = run.answers()
        self.model = run.manifest.model
        self.tokens = numbers(self.table, "tokens")
        self.prompts = np.array(
            [len(ids) for ids in self.table.column("prompt_ids").to_pylist()], np.float64
        )
        indices = self.table.column("question_index").to_pylist()
        if question is not None and question not in indices:
            raise UserError(
                f"{run.folder} has no question {question}: give one of {indices[0]} to {indices[-1]}"
            )
        self.place = None if question is None else indices.index(question)

    def values(self, column: str) -> Float64:
        return numbers(self.table, column)

    def row(self, table: int, measure: str, values: Float64, tokens: Interval = UNDEFINED) -> Row:
        return Row(
            table,
            measure,
            bootstrap(values),
            tokens,
            math.nan if self.place is None else float(values[self.place]),
        )

    def mean(self, table: int, measure: str, column: str, weights: Float64 | None = None) -> Row:
        """A measure that is a mean over tokens in each answer, so that the weighted mean is the mean over
        all tokens."""
        values = self.values(column)
        return self.row(
            table, measure, values, bootstrap(values, self.tokens if weights is None else weights)
        )

    def layers(self, vector: str) -> Float64:
        return mean_vectors(self.table, vector, width_of(vector, self.model))


def point(value: float) -> Interval:
    """A value that has no interval."""
    return Interval(value, math.nan, math.nan)


def analyse_paper(
    run: Run, *, question: int | None = None, delta: float = DELTA, tokens: TokenPass | None = None
) -> PaperRun:
    """All of it; `tokens` saves the pass over the steps where the caller has made it. Raises UserError for a
    question that the run does not hold, and for a run without a single token."""
    answers = Answers(run, question)
    if not answers.tokens.sum() > 0:
        raise UserError(f"{run.folder} has no traced tokens: no question fitted the context")
    tokens = read_tokens(run) if tokens is None else tokens
    tapped = bool(tokens.column("attention_entropy").size)
    rows = [*summary(answers, tapped), *spread(2, "output_entropy", answers, tokens)]
    if tapped:
        rows += [*spread(3, "attention_entropy", answers, tokens), *layer_profile(answers)]
    rows += shifts(answers, tapped)
    if tapped:
        rows += [*layer_extremes(answers), *hidden(answers)]
    rows += beyond(answers, tokens, tapped)
    return PaperRun(
        label=run.manifest.label,
        model_id=run.manifest.model_id,
        notice=run.manifest.notice,
        questions=answers.table.num_rows,
        tokens=int(answers.tokens.sum()),
        question=question,
        rows=tuple(rows),
        model_class=classify(answers.values("output_entropy_shift"), delta),
        verdicts=published().classes.get(run.manifest.model_id),
        diffusion=diffusion(answers) if tapped else None,
        correlations=correlate(tokens),
        trajectories={name: mean_trajectory(found) for name, found in tokens.trajectories.items()},
        layers=layer_table(answers) if tapped else None,
    )


def summary(answers: Answers, tapped: bool) -> Iterator[Row]:
    """Table 1."""
    yield answers.row(1, "prompt_tokens", answers.prompts)
    yield answers.row(1, "generated_tokens", answers.tokens)
    yield from mean_sd(1, answers, "output_entropy", "output_entropy")
    yield from mean_sd(1, answers, "top1_probability", "top1_probability")
    yield answers.mean(1, "top1_top2_gap_mean", "top1_top2_gap_mean")
    if tapped:
        yield from mean_sd(1, answers, "attention_entropy", "attention_entropy")
        yield from mean_sd(1, answers, "head_dispersion", "head_dispersion")
    sizes = zip(answers.prompts, answers.tokens, strict=True)
    counted = np.array(
        [paper_kv_mebibytes(answers.model, int(p), int(n)) if n else math.nan for p, n in sizes]
    )
    yield answers.row(1, "kv_total_mb_max", counted)
    cached = np.where(answers.tokens > 0, answers.values("kv_bytes") / MEBIBYTE, np.nan)
    yield answers.row(1, "kv_cached_mb", cached)
    yield Row(1, "kv_cached_mb_largest", point(float(np.nanmax(cached))), UNDEFINED, math.nan)


def mean_sd(table: int, answers: Answers, metric: str, name: str) -> Iterator[Row]:
    """A mean and the SD over tokens: within each answer (then the mean over questions), and over all
    tokens."""
    yield answers.mean(table, f"{name}_mean", f"{metric}_mean")
    sds = answers.values(f"{metric}_sd")
    yield answers.row(
        table, f"{name}_sd", sds, point(pooled_sd(answers.values(f"{metric}_mean"), sds, answers.tokens))
    )


def spread(table: int, metric: str, answers: Answers, tokens: TokenPass) -> Iterator[Row]:
    """Tables 2 and 3: percentiles and extremes of each answer, and of all tokens."""
    pooled = tokens.column(metric)
    whole = dict(zip(("p10", "p90", "min", "max"), np.percentile(pooled, (10, 90, 0, 100)), strict=True))
    for name, value in whole.items():
        yield answers.row(table, name, answers.values(f"{metric}_{name}"), point(float(value)))


def layer_profile(answers: Answers) -> Iterator[Row]:
    """Table 4: the mean of each layer, and which are lowest and highest; SD is the population's over
    layers."""
    layers = answers.layers("attention_entropy_layer")
    known = ~np.isnan(layers).any(axis=1)
    depth = float(layers.shape[1])
    yield Row(4, "layers", point(depth), point(depth), depth if answers.place is not None else math.nan)
    yield answers.row(
        4, "mean_layer_entropy", layers.mean(axis=1), bootstrap(layers.mean(axis=1), answers.tokens)
    )
    profiles = (layers[known], answers.tokens[known])
    alone = None if answers.place is None else layers[answers.place]
    yield Row(
        4,
        "sd_across_layers",
        profile_sd(profiles[0], np.ones(len(profiles[0]))),
        profile_sd(*profiles),
        math.nan if alone is None else float(alone.std()),
    )
    by_questions, by_tokens = extremes(layers[known], None), extremes(layers[known], answers.tokens[known])
    own = extremes(alone[None], None) if alone is not None and not np.isnan(alone).any() else None
    for side, place in (("lowest", 0), ("highest", -1)):
        chosen = own[place] if own else None
        yield Row(
            4,
            f"{side}_layer_1based",
            point(by_questions[place][0]),
            point(by_tokens[place][0]),
            chosen[0] if chosen else math.nan,
        )
        yield Row(
            4,
            f"{side}_layer_entropy",
            by_questions[place][1],
            by_tokens[place][1],
            chosen[1].value if chosen else math.nan,
        )


def profile_sd(layers: Float64, weights: Float64) -> Interval:
    """SD over layers of the mean profile, with an interval over questions."""
    if len(layers) == 0:
        return UNDEFINED
    value = float(np.average(layers, axis=0, weights=weights).std())
    if len(layers) < 2:
        return point(value)
    draws = resampled(len(layers)) * weights
    low, high = np.percentile((draws @ layers / draws.sum(axis=1, keepdims=True)).std(axis=1), (2.5, 97.5))
    return Interval(value, float(low), float(high))


def extremes(layers: Float64, weights: Float64 | None) -> list[tuple[float, Interval]]:
    """Every layer (from 1) with its attention entropy, the lowest first."""
    found = [bootstrap(layers[:, i], weights) for i in range(layers.shape[1])]
    return sorted(((float(i + 1), value) for i, value in enumerate(found)), key=lambda pair: pair[1].value)


def shifts(answers: Answers, tapped: bool) -> Iterator[Row]:
    """Table 5 and the slopes: windows are 20% of the rows, rounded up; token-weighted means weigh windows by
    their rows."""
    rows = np.array([window(int(n)) if n else 0 for n in answers.tokens], np.float64)
    names = [("output", "output_entropy")]
    if tapped:
        names += [
            ("attention", "attention_entropy"),
            ("attention_normalised", "attention_entropy_normalised"),
        ]
    for name, metric in names:
        for part in ("early", "late", "shift"):
            yield answers.mean(5, f"{name}_{part}", f"{metric}_{part}", rows)
        yield answers.row(5, f"{name}_slope", answers.values(f"{metric}_slope"))


def layer_extremes(answers: Answers) -> Iterator[Row]:
    """Table 6: which layers by the mean over questions."""
    entropy, dispersion = answers.layers("attention_entropy_layer"), answers.layers("head_dispersion")
    ordered = extremes(entropy, None)
    for side, chosen in (("lowest", ordered[:SHOWN_LAYERS]), ("highest", ordered[::-1][:SHOWN_LAYERS])):
        for rank, (layer, _) in enumerate(chosen, start=1):
            number, of_entropy, of_dispersion = layer_measures(side, rank)
            i = int(layer) - 1
            yield Row(6, number, point(layer), UNDEFINED, math.nan)
            yield answers.row(6, of_entropy, entropy[:, i], bootstrap(entropy[:, i], answers.tokens))
            yield answers.row(
                6, of_dispersion, dispersion[:, i], bootstrap(dispersion[:, i], answers.tokens)
            )


def hidden(answers: Answers) -> Iterator[Row]:
    """Table 7: mean over layers (the embedding output is one of them for the norm)."""
    yield from mean_sd(7, answers, "hidden_norm", "hidden_l2")
    yield from mean_sd(7, answers, "layer_delta", "delta_l2")


def beyond(answers: Answers, tokens: TokenPass, tapped: bool) -> Iterator[Row]:
    """What the paper leaves for later."""
    place = {question: i for i, question in enumerate(tokens.questions)}
    order = [place.get(question) for question in answers.table.column("question_index").to_pylist()]

    def aligned(values: Float64) -> Float64:
        return np.array([math.nan if i is None else values[i] for i in order])

    yield answers.row(BEYOND, "entropy_step_mean", aligned(tokens.entropy_step))
    yield answers.row(BEYOND, "entropy_lag1_correlation", aligned(tokens.entropy_memory))
    if not tapped:
        return
    pairs = np.maximum(answers.tokens - 1, 0)  # row 0 has no previous token
    for name in ("token_delta", "token_cosine"):
        yield answers.mean(BEYOND, f"{name}_mean", f"{name}_mean", pairs)
        yield answers.row(BEYOND, f"{name}_slope", answers.values(f"{name}_slope"))
        yield answers.row(BEYOND, f"{name}_shift", answers.values(f"{name}_shift"))
    yield answers.mean(BEYOND, "attention_normalised_mean", "attention_entropy_normalised_mean")


def diffusion(answers: Answers) -> Diffusion:
    raw, share = (
        answers.values("attention_entropy_slope"),
        answers.values("attention_entropy_normalised_slope"),
    )

    def rises(slopes: Float64) -> Interval:
        return bootstrap(np.where(np.isnan(slopes), np.nan, slopes > 0))

    return Diffusion(bootstrap(raw), bootstrap(share), rises(raw), rises(share))


def direction(slope: Interval) -> str:
    """What an interval of a slope says: rises, falls, or neither beyond chance."""
    if math.isnan(slope.low):
        return "has no interval"
    return (
        "rises" if slope.low > 0 else "falls" if slope.high < 0 else "neither rises nor falls beyond chance"
    )


def layer_table(answers: Answers) -> pa.Table:
    """By-layer means over questions with intervals, long form: metric, layer (0 is the embedding), mean,
    low, high."""
    columns: dict[str, list[object]] = {"metric": [], "layer": [], "mean": [], "low": [], "high": []}
    for metric in shown_in(Shown.PAPER_LAYERS):
        mean, low, high = bootstrap_columns(answers.layers(metric))
        first = BY_NAME[metric].first_layer
        for i in range(len(mean)):
            for name, value in zip(columns, (metric, first + i, mean[i], low[i], high[i]), strict=True):
                columns[name].append(value)
    return pa.table(columns)
