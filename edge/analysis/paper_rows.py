"""Rows of the paper's tables (arXiv 2604.03589) for one run.

Each measure has three values: over questions with an interval, weighted by tokens as in the paper, and for
one chosen question. Measures have the names of the paper's columns in `data/paper.json`, so that each can be
shown beside the paper's number. Measures without one there are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from edge.analysis.dynamics import mean_vectors, numbers, pooled_sd, width_of
from edge.analysis.intervals import UNDEFINED, Float64, Interval, bootstrap
from edge.analysis.published import MEBIBYTE, layer_measures, paper_kv_mebibytes
from edge.analysis.tokens import TokenPass
from edge.errors import UserError
from edge.runs.run_directory import Run
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
    """One measure of one table.

    `questions` is the mean over questions, where each answer weighs the same. In `tokens` each token weighs
    the same; it has an interval (over questions) if the measure is a mean. `question` is the value of the
    chosen question alone. NaN stands for none.
    """

    table: int
    measure: str
    questions: Interval
    tokens: Interval
    question: float


class Answers:
    """A run's answers table, with token counts and the row of the chosen question (`place`)."""

    def __init__(self, run: Run, question: int | None) -> None:
        self.table = run.answers()
        self.model = run.manifest.model
        self.tokens = numbers(self.table, "tokens")
        prompts = self.table.column("prompt_ids").to_pylist()
        self.prompts = np.array([len(ids) for ids in prompts], np.float64)
        indices = self.table.column("question_index").to_pylist()
        if question is not None and question not in indices:
            raise UserError(
                f"{run.folder} has no question {question}: give one of {indices[0]} to {indices[-1]}"
            )
        self.place = None if question is None else indices.index(question)

    def values(self, column: str) -> Float64:
        """A numeric column, null as NaN."""
        return numbers(self.table, column)

    def row(self, table: int, measure: str, values: Float64, tokens: Interval = UNDEFINED) -> Row:
        """A row from one value for each answer."""
        chosen = math.nan if self.place is None else float(values[self.place])
        return Row(table, measure, bootstrap(values), tokens, chosen)

    def mean(self, table: int, measure: str, column: str, weights: Float64 | None = None) -> Row:
        """A row from a column of means over each answer's tokens. Their mean weighted by the numbers of
        tokens (`weights`) is the mean over all tokens."""
        values = self.values(column)
        over_tokens = bootstrap(values, self.tokens if weights is None else weights)
        return self.row(table, measure, values, over_tokens)

    def layers(self, vector: str) -> Float64:
        """Means of a by-layer metric over each answer's rows, [questions, layers]."""
        return mean_vectors(self.table, vector, width_of(vector, self.model))


def point(value: float) -> Interval:
    """An Interval without bounds (NaN)."""
    return Interval(value, math.nan, math.nan)


def paper_rows(answers: Answers, tokens: TokenPass, tapped: bool) -> Iterator[Row]:
    """Rows of all tables, in order; without taps those of attention and hidden states are left out."""
    yield from summary(answers, tapped)
    yield from spread(2, "output_entropy", answers, tokens)
    if tapped:
        yield from spread(3, "attention_entropy", answers, tokens)
        yield from layer_profile(answers)
    yield from shifts(answers, tapped)
    if tapped:
        yield from layer_extremes(answers)
        yield from hidden(answers)
    yield from beyond(answers, tokens, tapped)


def summary(answers: Answers, tapped: bool) -> Iterator[Row]:
    """Table 1: sizes, and means of the main metrics."""
    yield answers.row(1, "prompt_tokens", answers.prompts)
    yield answers.row(1, "generated_tokens", answers.tokens)
    yield from mean_sd(1, answers, "output_entropy", "output_entropy")
    yield from mean_sd(1, answers, "top1_probability", "top1_probability")
    yield answers.mean(1, "top1_top2_gap_mean", "top1_top2_gap_mean")
    if tapped:
        yield from mean_sd(1, answers, "attention_entropy", "attention_entropy")
        yield from mean_sd(1, answers, "head_dispersion", "head_dispersion")
    sizes = zip(answers.prompts, answers.tokens, strict=True)
    totals = [paper_kv_mebibytes(answers.model, int(p), int(n)) if n else math.nan for p, n in sizes]
    yield answers.row(1, "kv_total_mb_max", np.array(totals))
    cached = np.where(answers.tokens > 0, answers.values("kv_bytes") / MEBIBYTE, np.nan)
    yield answers.row(1, "kv_cached_mb", cached)
    yield Row(1, "kv_cached_mb_largest", point(float(np.nanmax(cached))), UNDEFINED, math.nan)


def mean_sd(table: int, answers: Answers, metric: str, name: str) -> Iterator[Row]:
    """Mean and SD over tokens: within each answer (then the mean over questions), and over all tokens."""
    yield answers.mean(table, f"{name}_mean", f"{metric}_mean")
    means, sds = answers.values(f"{metric}_mean"), answers.values(f"{metric}_sd")
    yield answers.row(table, f"{name}_sd", sds, point(pooled_sd(means, sds, answers.tokens)))


def spread(table: int, metric: str, answers: Answers, tokens: TokenPass) -> Iterator[Row]:
    """Tables 2 and 3: percentiles and extremes of each answer, and of all tokens."""
    pooled = tokens.column(metric)
    whole = dict(zip(("p10", "p90", "min", "max"), np.percentile(pooled, (10, 90, 0, 100)), strict=True))
    for name, value in whole.items():
        yield answers.row(table, name, answers.values(f"{metric}_{name}"), point(float(value)))


def layer_profile(answers: Answers) -> Iterator[Row]:
    """Table 4: the mean of each layer, and which are lowest and highest. SD is the population SD over
    layers."""
    layers = answers.layers("attention_entropy_layer")
    known = ~np.isnan(layers).any(axis=1)
    depth = float(layers.shape[1])
    yield Row(4, "layers", point(depth), point(depth), depth if answers.place is not None else math.nan)
    means = layers.mean(axis=1)
    yield answers.row(4, "mean_layer_entropy", means, bootstrap(means, answers.tokens))
    profiles, weights = layers[known], answers.tokens[known]
    chosen = None if answers.place is None else layers[answers.place]
    sds = profile_sd(profiles, np.ones(len(profiles))), profile_sd(profiles, weights)
    yield Row(4, "sd_across_layers", *sds, math.nan if chosen is None else float(chosen.std()))
    by_questions, by_tokens = ordered_layers(profiles, None), ordered_layers(profiles, weights)
    own = ordered_layers(chosen[None], None) if chosen is not None and not np.isnan(chosen).any() else None
    for side, place in (("lowest", 0), ("highest", -1)):
        (layer, entropy), (token_layer, token_entropy) = by_questions[place], by_tokens[place]
        own_layer, own_entropy = own[place] if own else (math.nan, UNDEFINED)
        yield Row(4, f"{side}_layer_1based", point(layer), point(token_layer), own_layer)
        yield Row(4, f"{side}_layer_entropy", entropy, token_entropy, own_entropy.value)


def profile_sd(layers: Float64, weights: Float64) -> Interval:
    """SD over layers of the weighted mean of profiles [questions, layers], with an interval over questions:
    that of its linear part (the delta method), a mean over questions."""
    if len(layers) == 0:
        return UNDEFINED
    mean = np.average(layers, axis=0, weights=weights)
    value, around = float(mean.std()), mean - mean.mean()
    if value == 0.0:
        return point(value)
    linear = bootstrap(value + (layers - mean) @ around / (around.size * value), weights)
    return linear._replace(value=value).within(0.0)


def ordered_layers(profiles: Float64, weights: Float64 | None) -> list[tuple[float, Interval]]:
    """Every layer (from 1) with its mean over questions, the lowest first."""
    layers = [(float(i + 1), bootstrap(profiles[:, i], weights)) for i in range(profiles.shape[1])]
    return sorted(layers, key=lambda layer: layer[1].value)


def shifts(answers: Answers, tapped: bool) -> Iterator[Row]:
    """Table 5 and the slopes. Windows are 20% of the rows, rounded up; means over tokens weigh windows by
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
    """Table 6: the layers of lowest and highest attention entropy by the mean over questions."""
    entropy, dispersion = answers.layers("attention_entropy_layer"), answers.layers("head_dispersion")
    ordered = ordered_layers(entropy, None)
    for side, chosen in (("lowest", ordered[:SHOWN_LAYERS]), ("highest", ordered[::-1][:SHOWN_LAYERS])):
        for rank, (layer, _) in enumerate(chosen, start=1):
            number, of_entropy, of_dispersion = layer_measures(side, rank)
            i = int(layer) - 1
            yield Row(6, number, point(layer), UNDEFINED, math.nan)
            yield answers.row(6, of_entropy, entropy[:, i], bootstrap(entropy[:, i], answers.tokens))
            over_tokens = bootstrap(dispersion[:, i], answers.tokens)
            yield answers.row(6, of_dispersion, dispersion[:, i], over_tokens)


def hidden(answers: Answers) -> Iterator[Row]:
    """Table 7: means over layers. The norm counts the embedding output as a layer."""
    yield from mean_sd(7, answers, "hidden_norm", "hidden_l2")
    yield from mean_sd(7, answers, "layer_delta", "delta_l2")


def beyond(answers: Answers, tokens: TokenPass, tapped: bool) -> Iterator[Row]:
    """Measures that the paper leaves for later."""
    row_of = {question: i for i, question in enumerate(tokens.questions)}
    order = [row_of.get(question) for question in answers.table.column("question_index").to_pylist()]

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
