"""Quantised against full precision, from two run directories.

A forced run (`edge force --like FULL`) is compared position by position; a free-running one by its answers and the
first position where they differ. Either way each metric's change is paired by question.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.dynamics import DELTA, DynamicsClass, classify, matrix, mean_vectors, numbers, width_of
from edge.analysis.intervals import Distribution, Float64, Interval, bootstrap, bootstrap_columns, distribution, mean_rows
from edge.analysis.perplexity import Statistic, statistics
from edge.columns import ATTENTION_BY_HEAD, ATTENTION_BY_LAYER, EXACT, HIDDEN, mean_column
from edge.errors import UserError
from edge.signals import SCALARS
from edge.streaming import pearson, spearman
from edge.trace import Run

STEP_SCALARS = ("output_entropy", "varentropy", "top1_probability", "top1_top2_gap", "surprisal")
BY_LAYER = (*ATTENTION_BY_LAYER, *HIDDEN)


class MetricChange(NamedTuple):
    """Mean over questions of a metric in both runs, and of its paired change (quantised - full)."""

    metric: str
    full: Interval
    quantised: Interval
    change: Interval


class TokenChange(NamedTuple):
    """Change of a metric position by position: mean, RMS, and correlation of the two series over all tokens."""

    metric: str
    mean: float
    rms: float
    pearson: float
    spearman: float


class LayerChange(NamedTuple):
    """Change of a by-layer metric: mean over questions with its interval, each [L] or [L+1].

    `rms` and `pearson` are position by position (forced runs only, else None).
    """

    metric: str
    mean: Float64
    low: Float64
    high: Float64
    rms: Float64 | None
    pearson: Float64 | None


class HeadChange(NamedTuple):
    """Change of a by-head metric, mean over questions: [L, H]."""

    metric: str
    mean: Float64


class Perplexity(NamedTuple):
    """exp of the mean surprisal of the same tokens under each model, and the log of their ratio with its interval over
    questions (each token weighs the same)."""

    full: float
    quantised: float
    log_ratio: Interval
    correlation: float


@dataclass(frozen=True)
class ForcedPart:
    """Position by position on the same tokens. `kl` is KL(full || quantised): over the whole vocabulary where `exact`, else
    with all but the reference's K tokens as one bucket (a lower bound), None where the reference kept no distributions.

    `statistics` is llama-perplexity's list. `hidden_error` and `hidden_similarity`: relative L2 error and cosine of the residual
    stream before layer 1 and after each, None unless exact and tapped.
    """

    tokens: int
    exact: bool
    reference_k: int
    statistics: tuple[Statistic, ...]
    kl: Distribution | None
    kl_by_question: Interval | None
    same_top1: Interval
    probability_change: Distribution
    perplexity: Perplexity
    changes: tuple[TokenChange, ...]
    hidden_error: LayerChange | None
    hidden_similarity: LayerChange | None


class FirstDivergence(NamedTuple):
    """Where one question's two answers part: `step` is the first differing row, with both tokens' text ("" past an end)."""

    question_index: int
    question: str
    step: int
    full_token: str
    quantised_token: str


@dataclass(frozen=True)
class FreePart:
    """Each decodes alone. `identical` is the share of answers with the same tokens; `first` lists those that differ in
    order of question; `common_prefix` is the share of the full answer's tokens before the first difference."""

    identical: Interval
    common_prefix: Interval
    median_step: float
    first: tuple[FirstDivergence, ...]


@dataclass(frozen=True)
class Divergence:
    """What quantisation (or any other change of an artifact) did, from two runs over the same questions."""

    full: str
    quantised: str
    notice: str
    questions: int
    same_checkpoint: bool
    forced: ForcedPart | None
    free: FreePart | None
    changes: tuple[MetricChange, ...]
    layers: tuple[LayerChange, ...]
    heads: tuple[HeadChange, ...]
    full_class: DynamicsClass
    quantised_class: DynamicsClass

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; NaN becomes None."""
        value: dict[str, Any] = plain(asdict(self))
        return value


def plain(value: Any) -> Any:
    """NamedTuples to dicts, arrays to lists, NaN to None."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def compare(full: Run, quantised: Run, delta: float = DELTA) -> Divergence:
    """Raises UserError when the two runs are not over the same questions, prompts and tokens."""
    check_pair(full, quantised)
    a, b = full.answers(), quantised.answers()
    if not a.column("question_index").equals(b.column("question_index")):
        raise UserError(f"{full.folder} and {quantised.folder} hold different questions: trace the same ones")
    if a.column("prompt_ids") != b.column("prompt_ids"):
        raise UserError(f"{full.folder} and {quantised.folder} have different prompts: use the same --prompt and --date")
    forced = forced_part(full, quantised, b) if quantised.manifest.kind == "force" else None
    token_layers = layer_token_changes(full, quantised) if forced else {}
    tapped = "none" not in (full.manifest.artifact["taps"], quantised.manifest.artifact["taps"])
    return Divergence(
        full=full.manifest.label,
        quantised=quantised.manifest.label,
        notice=full.manifest.notice,
        questions=a.num_rows,
        same_checkpoint=full.manifest.same_checkpoint(quantised.manifest),
        forced=forced,
        free=None if forced else free_part(full, quantised, a),
        changes=tuple(metric_change(metric, a, b) for metric in SCALARS),
        layers=tuple(layer_change(name, a, b, full, token_layers) for name in BY_LAYER) if tapped else (),
        heads=tuple(head_change(name, a, b, full) for name in ATTENTION_BY_HEAD) if tapped else (),
        full_class=classify(numbers(a, "output_entropy_shift"), delta),
        quantised_class=classify(numbers(b, "output_entropy_shift"), delta),
    )


def check_pair(full: Run, quantised: Run) -> None:
    a, b = full.manifest, quantised.manifest
    if a.kind != "run":
        raise UserError(f"{full.folder} is a forced run: give the free-running full-precision run first")
    for what, one, other in (
        ("questions", a.questions["sha256"], b.questions["sha256"]),
        ("tokenizers", a.artifact["tokenizer_sha256"], b.artifact["tokenizer_sha256"]),
        ("vocabularies", a.model.vocabulary, b.model.vocabulary),
        ("layers and heads", (a.model.layers, a.model.heads), (b.model.layers, b.model.heads)),
        ("prompts", a.settings["prompt"], b.settings["prompt"]),
    ):
        if one != other:
            raise UserError(f"{full.folder} and {quantised.folder} have different {what}: compare runs of one model and setting")
    if b.like is not None and b.like["artifact"] != a.artifact:
        raise UserError(
            f"{quantised.folder} was forced on another run than {full.folder}: "
            f"make one with 'edge force ARTIFACT --like {full.folder}'"
        )


def metric_change(metric: str, a: pa.Table, b: pa.Table) -> MetricChange:
    one, other = numbers(a, f"{metric}_mean"), numbers(b, f"{metric}_mean")
    return MetricChange(metric, bootstrap(one), bootstrap(other), bootstrap(other - one))


def layer_change(name: str, a: pa.Table, b: pa.Table, full: Run, tokens: dict[str, tuple[Float64, Float64]]) -> LayerChange:
    width = width_of(name, full.manifest.model)
    mean, low, high = bootstrap_columns(mean_vectors(b, name, width) - mean_vectors(a, name, width))
    rms, correlation = tokens.get(name, (None, None))
    return LayerChange(name, mean, low, high, rms, correlation)


def head_change(name: str, a: pa.Table, b: pa.Table, full: Run) -> HeadChange:
    width = width_of(name, full.manifest.model)
    mean = mean_rows(mean_vectors(b, name, width) - mean_vectors(a, name, width))
    return HeadChange(name, mean.reshape(full.manifest.model.layers, full.manifest.model.heads))


# Forced


def paired_steps(full: Run, quantised: Run, columns: list[str], extra: list[str]) -> tuple[pa.Table, pa.Table]:
    """The same rows of both runs; raises UserError when their tokens differ."""
    keys = ["question_index", "step", "token_id"]
    a, b = full.steps([*keys, *columns]), quantised.steps([*keys, *columns, *extra])
    if not a.select(keys).equals(b.select(keys)):
        raise UserError(f"{quantised.folder} was forced on other tokens than {full.folder} holds: force it again")
    return a, b


def forced_part(full: Run, quantised: Run, answers: pa.Table) -> ForcedPart:
    a, b = paired_steps(full, quantised, list(STEP_SCALARS), ["kl", "reference_surprisal", "same_top1"])
    if a.num_rows == 0:
        raise UserError(f"{full.folder} has no traced tokens: no question fitted the context")
    questions = a.column("question_index").to_numpy()
    # Of the full model as it was asked here: with both at hand that is this machine's, else the run's.
    one, other = numbers(b, "reference_surprisal"), numbers(b, "surprisal")
    kl = numbers(b, "kl")
    known = not np.isnan(kl).any()
    same = numbers(b, "same_top1")
    changes = []
    for metric in STEP_SCALARS:
        x, y = numbers(a, metric), numbers(b, metric)
        changes.append(
            TokenChange(metric, float((y - x).mean()), float(np.sqrt(np.mean((y - x) ** 2))), pearson(x, y), spearman(x, y))
        )
    exact = bool(quantised.manifest.like and quantised.manifest.like.get("exact"))
    error, similarity = (hidden_change(name, answers, quantised) if exact else None for name in EXACT)
    return ForcedPart(
        tokens=a.num_rows,
        exact=exact,
        reference_k=quantised.manifest.model.vocabulary if exact else int(full.manifest.settings["reference_k"]),
        statistics=statistics(one, other, kl if known else None, same, questions),
        kl=distribution(kl, questions) if known else None,
        kl_by_question=bootstrap(by_question(kl, questions)[0]) if known else None,
        same_top1=weighted(same, questions),
        probability_change=distribution(np.exp(-other) - np.exp(-one), questions),
        perplexity=Perplexity(
            float(np.exp(one.mean())), float(np.exp(other.mean())), weighted(other - one, questions), pearson(one, other)
        ),
        changes=tuple(changes),
        hidden_error=error,
        hidden_similarity=similarity,
    )


def hidden_change(name: str, answers: pa.Table, run: Run) -> LayerChange | None:
    """Distance of the residual streams by layer, mean over questions; None where one of the models had no taps."""
    if answers.column(mean_column(name)).null_count == answers.num_rows:
        return None
    mean, low, high = bootstrap_columns(mean_vectors(answers, name, run.manifest.model.layers + 1))
    return LayerChange(name, mean, low, high, None, None)


def by_question(values: Float64, questions: Float64) -> tuple[Float64, Float64]:
    """Mean and number of tokens of each question."""
    _, inverse, counts = np.unique(questions, return_inverse=True, return_counts=True)
    return np.bincount(inverse, weights=values) / counts, counts.astype(np.float64)


def weighted(values: Float64, questions: Float64) -> Interval:
    """Mean over tokens, with an interval over questions."""
    return bootstrap(*by_question(values, questions))


def layer_token_changes(full: Run, quantised: Run) -> dict[str, tuple[Float64, Float64]]:
    """RMS change and correlation over tokens of each by-layer metric, each [L] or [L+1]; {} without taps."""
    if "none" in (full.manifest.artifact["taps"], quantised.manifest.artifact["taps"]):
        return {}
    result = {}
    for name in BY_LAYER:  # one metric at a time: a long run's vectors of all metrics would not fit a board
        a, b = paired_steps(full, quantised, [name], [])
        x, y = (matrix(table.column(name)) for table in (a, b))
        if x.size == 0:
            continue  # no row has it: every answer is one token long
        result[name] = (
            np.sqrt(np.mean((y - x) ** 2, axis=0)),
            np.array([pearson(x[:, i], y[:, i]) for i in range(x.shape[1])]),
        )
    return result


# Free-running


def free_part(full: Run, quantised: Run, answers: pa.Table) -> FreePart:
    columns = ["question_index", "step", "token_id", "token"]
    one, other = token_lists(full.steps(columns)), token_lists(quantised.steps(columns))
    identical, shares, first = [], [], []
    for index, question in zip(*(answers.column(c).to_pylist() for c in ("question_index", "question")), strict=True):
        a, b = one.get(index, []), other.get(index, [])
        if not a and not b:
            continue  # the question fitted neither context: nothing was answered, so nothing is the same
        step = first_difference([i for i, _ in a], [i for i, _ in b])
        identical.append(float(step is None))
        shares.append(1.0 if step is None else step / len(a) if a else math.nan)
        if step is not None:
            texts = [side[step][1] if step < len(side) else "" for side in (a, b)]
            first.append(FirstDivergence(index, question, step, *texts))
    return FreePart(
        identical=bootstrap(identical),
        common_prefix=bootstrap(shares),
        median_step=float(np.median([d.step for d in first])) if first else math.nan,
        first=tuple(first),
    )


def token_lists(steps: pa.Table) -> dict[int, list[tuple[int, str]]]:
    """(id, text) of each token by question."""
    lists: dict[int, list[tuple[int, str]]] = {}
    for row in zip(*(steps.column(c).to_pylist() for c in ("question_index", "token_id", "token")), strict=True):
        lists.setdefault(row[0], []).append((row[1], row[2]))
    return lists


def first_difference(a: list[int], b: list[int]) -> int | None:
    """Index of the first differing element, the shorter length where one is a prefix of the other, None if equal."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))
