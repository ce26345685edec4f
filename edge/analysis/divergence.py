"""Quantised against full precision, from two run directories.

A forced run (`edge force --like FULL`) is compared position by position; a free-running one by its answers
and the first position where they differ. Either way each metric's change is paired by question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.dynamics import DELTA, DynamicsClass, classify, numbers, recorded
from edge.analysis.intervals import Distribution, Interval, bootstrap, bootstrap_each, distribution
from edge.analysis.layers import (
    HeadChange,
    LayerChange,
    head_change,
    hidden_change,
    layer_change,
    tapped,
    token_statistics,
)
from edge.analysis.pairs import by_question, check_pair, paired_answers, paired_steps, weighted
from edge.analysis.perplexity import Statistic, statistics
from edge.analysis.warning import TruthChange, truth_change
from edge.errors import UserError
from edge.runs.columns import mean_column
from edge.runs.run_directory import Run
from edge.signals.metric import Kind, Source
from edge.signals.metrics import BY_HEAD, BY_LAYER, METRICS, SCALARS, SERIES, names
from edge.signals.streaming import SeriesSummary, pearson, spearman

# Compared token by token: what the logits of one position give as a number.
STEP_SCALARS = names(lambda m: m.name in SERIES and m.source == Source.LOGITS)
DISTANCES = names(lambda m: m.kind == Kind.EXACT)  # of the residual streams
TRAJECTORY = tuple(f"{metric.name}_{part}" for metric in METRICS for part in metric.summaries)


class MetricChange(NamedTuple):
    """Mean over questions of a metric in both runs, and of its paired change (quantised - full)."""

    metric: str
    full: Interval
    quantised: Interval
    change: Interval


class TokenChange(NamedTuple):
    """Change of a metric position by position: mean, RMS, and correlation of the two series over all
    tokens."""

    metric: str
    mean: float
    rms: float
    pearson: float
    spearman: float


class Perplexity(NamedTuple):
    """exp of the mean surprisal of the same tokens under each model, and the log of their ratio with its
    interval over questions (each token weighs the same)."""

    full: float
    quantised: float
    log_ratio: Interval
    correlation: float


@dataclass(frozen=True)
class ForcedPart:
    """Position by position on the same tokens. `kl` is KL(full || quantised): over the whole vocabulary
    where `exact`, else with all but the reference's K tokens as one bucket (a lower bound), None where the
    reference kept no distributions.

    `statistics` is llama-perplexity's list. `hidden_error` and `hidden_similarity`: relative L2 error and
    cosine of the residual stream before layer 1 and after each, None unless exact and tapped.
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
    """Where one question's two answers part: `step` is the first differing row, with both tokens' text and
    the probability that each model gave its own ("" and NaN past an end)."""

    question_index: int
    question: str
    step: int
    full_token: str
    quantised_token: str
    full_probability: float
    quantised_probability: float


@dataclass(frozen=True)
class FreePart:
    """Each decodes alone. `identical` is the share of answers with the same tokens; `first` lists those that
    differ in order of question; `common_prefix` is the share of the full answer's tokens before the first
    difference."""

    identical: Interval
    common_prefix: Interval
    median_step: float
    first: tuple[FirstDivergence, ...]


@dataclass(frozen=True)
class Divergence:
    """What quantisation (or any other change of an artifact) did, from two runs over the same questions.

    `changes` are of each metric's mean over the answer, `summaries` of every other summary (METRIC_SUMMARY).
    `truth` is None where the answers were not judged.
    """

    full: str
    quantised: str
    notice: str
    questions: int
    same_checkpoint: bool
    forced: ForcedPart | None
    free: FreePart | None
    changes: tuple[MetricChange, ...]
    summaries: tuple[MetricChange, ...]
    layers: tuple[LayerChange, ...]
    heads: tuple[HeadChange, ...]
    full_class: DynamicsClass
    quantised_class: DynamicsClass
    truth: TruthChange | None

    @property
    def same_class(self) -> bool:
        return self.full_class.label == self.quantised_class.label

    @property
    def trajectory(self) -> tuple[MetricChange, ...]:
        """What the answer's trajectory is judged by: slope, early and late part, shift."""
        return tuple(change for change in self.summaries if change.metric in TRAJECTORY)

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; NaN becomes None."""
        value: dict[str, Any] = plain(asdict(self))
        return value | {"same_class": self.same_class}


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


def compare(full: Run, quantised: Run, delta: float = DELTA, *, outcomes: bool = True) -> Divergence:
    """`outcomes`: also what the runs' outcomes say, where there are some, which takes seconds. Raises
    UserError when the two runs are not over the same questions, prompts and tokens."""
    check_pair(full, quantised)
    a, b = paired_answers(full, quantised)
    forced = forced_part(full, quantised, b) if quantised.manifest.kind == "force" else None
    both = tapped(full, quantised)
    scalars = recorded(SCALARS, a, b, column="{}_mean")
    by_layer, by_head = (recorded(group, a, b, column=mean_column("{}")) for group in (BY_LAYER, BY_HEAD))
    tokens = token_statistics(full, quantised, (*by_layer, *by_head)) if forced and both else {}
    means = tuple(f"{metric}_mean" for metric in scalars)
    others = tuple(
        f"{metric}_{part}" for metric in scalars for part in SeriesSummary._fields if part != "mean"
    )
    return Divergence(
        full=full.manifest.label,
        quantised=quantised.manifest.label,
        notice=full.manifest.notice,
        questions=a.num_rows,
        same_checkpoint=full.manifest.same_checkpoint(quantised.manifest),
        forced=forced,
        free=None if forced else free_part(full, quantised, a),
        changes=tuple(
            c._replace(metric=m) for c, m in zip(summary_changes(means, a, b), scalars, strict=True)
        ),
        summaries=summary_changes(others, a, b),
        layers=tuple(layer_change(name, a, b, full, tokens) for name in by_layer) if both else (),
        heads=tuple(head_change(name, a, b, full, tokens) for name in by_head) if both else (),
        full_class=classify(numbers(a, "output_entropy_shift"), delta),
        quantised_class=classify(numbers(b, "output_entropy_shift"), delta),
        truth=truth_change(full, quantised) if outcomes else None,
    )


def summary_changes(columns: Sequence[str], a: pa.Table, b: pa.Table) -> tuple[MetricChange, ...]:
    """One for each numeric column of `answers`."""
    one, other = (np.stack([numbers(table, name) for name in columns], axis=1) for table in (a, b))
    found = zip(columns, *map(bootstrap_each, (one, other, other - one)), strict=True)
    return tuple(MetricChange(*line) for line in found)


# Forced


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
            TokenChange(
                metric,
                float((y - x).mean()),
                float(np.sqrt(np.mean((y - x) ** 2))),
                pearson(x, y),
                spearman(x, y),
            )
        )
    exact = quantised.manifest.exact
    error, similarity = (hidden_change(name, answers, quantised) if exact else None for name in DISTANCES)
    return ForcedPart(
        tokens=a.num_rows,
        exact=exact,
        reference_k=quantised.manifest.model.vocabulary if exact else full.manifest.settings.reference_k,
        statistics=statistics(one, other, kl if known else None, same, questions),
        kl=distribution(kl, questions) if known else None,
        kl_by_question=bootstrap(by_question(kl, questions)[0]) if known else None,
        same_top1=weighted(same, questions),
        probability_change=distribution(np.exp(-other) - np.exp(-one), questions),
        perplexity=Perplexity(
            float(np.exp(one.mean())),
            float(np.exp(other.mean())),
            weighted(other - one, questions),
            pearson(one, other),
        ),
        changes=tuple(changes),
        hidden_error=error,
        hidden_similarity=similarity,
    )


# Free-running


class Said(NamedTuple):
    """One token of an answer, with the probability that the model gave it."""

    token_id: int
    text: str
    probability: float


def free_part(full: Run, quantised: Run, answers: pa.Table) -> FreePart:
    one, other = token_lists(full), token_lists(quantised)
    identical, shares, first = [], [], []
    for index, question in zip(
        *(answers.column(c).to_pylist() for c in ("question_index", "question")), strict=True
    ):
        a, b = one.get(index, []), other.get(index, [])
        if not a and not b:
            continue  # the question fitted neither context: nothing was answered, so nothing is the same
        step = first_difference([said.token_id for said in a], [said.token_id for said in b])
        identical.append(float(step is None))
        shares.append(1.0 if step is None else step / len(a) if a else math.nan)
        if step is not None:
            mine, theirs = (side[step] if step < len(side) else Said(-1, "", math.nan) for side in (a, b))
            first.append(
                FirstDivergence(
                    index, question, step, mine.text, theirs.text, mine.probability, theirs.probability
                )
            )
    return FreePart(
        identical=bootstrap(identical),
        common_prefix=bootstrap(shares),
        median_step=float(np.median([d.step for d in first])) if first else math.nan,
        first=tuple(first),
    )


def token_lists(run: Run) -> dict[int, list[Said]]:
    """What was said, by question."""
    steps = run.steps(["question_index", "step", "token_id", "token", "surprisal"])
    lists: dict[int, list[Said]] = {}
    names = ("question_index", "token_id", "token", "surprisal")
    for index, token, text, surprisal in zip(*(steps.column(c).to_pylist() for c in names), strict=True):
        lists.setdefault(index, []).append(Said(token, text, math.exp(-surprisal)))
    return lists


def first_difference(a: list[int], b: list[int]) -> int | None:
    """Index of the first differing element, the shorter length where one is a prefix of the other, None if
    equal."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))
