"""Does a metric tell untrue answers from true ones? Every metric and summary against the outcome, corrected
for their number.

A score is a summary of a metric over the answer, turned so that higher means "more likely untrue" by what
the metric is taken to say (entropy up, probability down), never by looking at the outcomes.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge.analysis.calibration import ReliabilityBin, cross_fit, judge, reliability
from edge.analysis.dynamics import numbers, recorded
from edge.analysis.intervals import UNDEFINED, Float64, Interval, bootstrap
from edge.analysis.labels import Labels
from edge.analysis.ranking import (
    Bool,
    RiskCoverage,
    auroc_draws,
    benjamini_hochberg,
    draws_of,
    holm,
    mann_whitney_p,
    percentile_interval,
    rank_draws,
    risk_coverage,
)
from edge.analysis.tokens import MeanTrajectory, TokenPass, mean_trajectory
from edge.errors import UserError
from edge.runs.outcomes import OUTCOMES, UNTRUE
from edge.runs.run_directory import Run
from edge.signals.metric import LOWER, Summary
from edge.signals.metrics import BY_NAME, names

ALPHA = 0.05  # family-wise error rate over all scores of a run
# answers of each kind below which nothing is judged: two in each fold, and a test that can say anything
MINIMUM = 10
# Of the answers table; extreme: the most untrue-like value.
SUMMARIES = ("mean", "sd", "extreme", "slope", "early", "late", "shift")
PREDICTORS = names(lambda metric: metric.summary == Summary.PREDICTS)
ENDS = ("first", "last")  # of the steps


class Prediction(NamedTuple):
    """One score against the outcome over `questions` answers. `p` tests AUROC = 0.5 (two-sided); `holm`
    bounds the chance of any false finding, `q` (Benjamini and Hochberg) the share of false ones among those
    below it, over all scores of the run. ECE, Brier score and balanced accuracy are of cross-fitted
    probabilities and thresholds."""

    metric: str
    summary: str
    questions: int
    auroc: Interval
    prr: Interval
    aurc: Interval
    ece: Interval
    brier: Interval
    balanced_accuracy: Interval
    p: float
    holm: float
    q: float


class Shown(NamedTuple):
    """Curves of one score (metric, summary), for figures."""

    score: tuple[str, str]
    risk: RiskCoverage
    reliability: list[ReliabilityBin]


@dataclass(frozen=True)
class Truth:
    """What a run's outcomes say. `predictions` are the best first (by p), empty with `problem` where too few
    answers are of one kind; `found` are those with holm below ALPHA. `true_trajectory` and
    `untrue_trajectory` are of output entropy along the answer."""

    label: str
    source: str
    questions: int
    untrue: Interval
    counts: dict[str, int]
    disagreed: int
    unlabelled: int
    tests: int
    predictions: tuple[Prediction, ...]
    problem: str
    shown: tuple[Shown, ...]
    true_trajectory: MeanTrajectory | None
    untrue_trajectory: MeanTrajectory | None
    trajectory_difference: MeanTrajectory | None

    @property
    def found(self) -> tuple[Prediction, ...]:
        return tuple(p for p in self.predictions if p.holm < ALPHA)


class Scores(NamedTuple):
    """Scores of a run's answers: `names` are (metric, summary), `values` [questions, scores] turned so that
    higher means "more likely untrue", NaN where undefined; rows in the order of `asked`."""

    asked: list[int]
    names: list[tuple[str, str]]
    values: Float64


def scores_of(run: Run, tokens: TokenPass) -> Scores:
    """Every metric and summary that the run has, the number of tokens, and the answer's whole surprisal."""
    answers = run.answers()
    asked = answers.column("question_index").to_pylist()
    columns: dict[tuple[str, str], Float64] = {}
    for metric in recorded(PREDICTORS, answers, column="{}_mean"):
        falls = BY_NAME[metric].less_certain == LOWER
        for summary in SUMMARIES:
            part = ("min" if falls else "max") if summary == "extreme" else summary
            sign = -1.0 if falls and summary != "sd" else 1.0
            columns[metric, summary] = sign * numbers(answers, f"{metric}_{part}")
    place = {question: i for i, question in enumerate(tokens.asked)}
    order = np.array([place.get(question, -1) for question in asked])
    for metric in (name for name in tokens.names if name in PREDICTORS):
        for summary, ends in zip(ENDS, (tokens.first, tokens.last), strict=True):
            values = ends[:, tokens.names.index(metric)] if len(ends) else np.empty(0)
            found = np.where(order >= 0, np.append(values, np.nan)[order], np.nan)
            columns[metric, summary] = -found if BY_NAME[metric].less_certain == LOWER else found
    count = numbers(answers, "tokens")
    columns["tokens", ""] = np.where(count > 0, count, np.nan)
    columns["surprisal", "sum"] = numbers(answers, "surprisal_mean") * count
    kept = {
        name: values for name, values in columns.items() if np.unique(values[~np.isnan(values)]).size > 1
    }
    table = np.stack(list(kept.values()), axis=1) if kept else np.empty((len(asked), 0))
    return Scores(asked, list(kept), table)


def analyse_truth(run: Run, labels: Labels, tokens: TokenPass, scores: Scores) -> Truth:
    """Raises UserError where no label belongs to a question of the run."""
    known = [i for i, question in enumerate(scores.asked) if question in labels.outcome]
    if not known:
        raise UserError(
            f"{run.folder} has no outcome of a question that it holds: label its answers with 'edge label'"
        )
    outcomes = [labels.outcome[scores.asked[i]] for i in known]
    untrue = np.array([outcome in UNTRUE for outcome in outcomes])
    bad, good = int(untrue.sum()), int((~untrue).sum())
    problem = ""
    if min(bad, good) < MINIMUM:
        problem = (
            f"{bad} untrue and {good} true answers are too few to judge a metric by: "
            f"at least {MINIMUM} of each are needed"
        )
    predictions = () if problem else predict(scores.names, scores.values[known], untrue)
    by_question = dict(zip([scores.asked[i] for i in known], untrue.tolist(), strict=True))
    true_trajectory, untrue_trajectory, difference = split_trajectories(tokens, by_question)
    return Truth(
        label=run.manifest.label,
        source=labels.source,
        questions=len(known),
        untrue=bootstrap(untrue),
        counts={name: Counter(outcomes)[name] for name in OUTCOMES},
        disagreed=labels.disagreed,
        unlabelled=labels.unlabelled,
        tests=sum(not math.isnan(p.p) for p in predictions),
        predictions=predictions,
        problem=problem,
        shown=shown(predictions, scores, known, untrue),
        true_trajectory=true_trajectory,
        untrue_trajectory=untrue_trajectory,
        trajectory_difference=difference,
    )


def judge_scores(values: Float64, untrue: Bool) -> tuple[Float64, Float64, Float64]:
    """p, Holm's and Benjamini and Hochberg's adjusted p of each column of values [questions, scores]; NaN
    where a column is constant or has fewer than MINIMUM answers of a kind."""
    p = np.full(values.shape[1], np.nan)
    for i in range(values.shape[1]):
        known = ~np.isnan(values[:, i])
        if enough(untrue[known]):
            p[i] = mann_whitney_p(values[known, i], untrue[known])
    return p, holm(p), benjamini_hochberg(p)


def enough(untrue: Bool) -> bool:
    return min(int(untrue.sum()), int((~untrue).sum())) >= MINIMUM


def predict(names: list[tuple[str, str]], values: Float64, untrue: Bool) -> tuple[Prediction, ...]:
    """One Prediction for each column of values [questions, scores], the smallest p first."""
    p, corrected, q = judge_scores(values, untrue)
    made = []
    for i in np.argsort(np.where(np.isnan(p), np.inf, p), kind="stable"):
        known = ~np.isnan(values[:, i])
        x, y = values[known, i], untrue[known]
        metric, summary = names[i]
        found = measure(x, y, p[i])
        made.append(
            Prediction(metric, summary, int(y.size), *found, float(p[i]), float(corrected[i]), float(q[i]))
        )
    return tuple(made)


class Measures(NamedTuple):
    """The measured fields of a Prediction, in its order."""

    auroc: Interval = UNDEFINED
    prr: Interval = UNDEFINED
    aurc: Interval = UNDEFINED
    ece: Interval = UNDEFINED
    brier: Interval = UNDEFINED
    balanced_accuracy: Interval = UNDEFINED


def measure(x: Float64, untrue: Bool, p: float) -> Measures:
    """Undefined where the score could not be tested."""
    if math.isnan(p):
        return Measures()
    ranked = rank_draws(x, untrue, draws_of(untrue.size))
    auroc, aurc, prr = (percentile_interval(values) for values in ranked)
    return Measures(auroc, prr, aurc, **judge(cross_fit(x, untrue), untrue)._asdict())


def shown(
    predictions: tuple[Prediction, ...], scores: Scores, known: list[int], untrue: Bool
) -> tuple[Shown, ...]:
    """Curves of the strongest score and of mean output entropy and length, which everybody would try
    first."""
    wanted = [(p.metric, p.summary) for p in predictions[:1] if not math.isnan(p.p)]
    wanted += [
        name for name in (("output_entropy", "mean"), ("tokens", "")) if predictions and name in scores.names
    ]
    made = []
    for metric, summary in dict.fromkeys(wanted):
        values = scores.values[known, scores.names.index((metric, summary))]
        kept = ~np.isnan(values)
        x, y = values[kept], untrue[kept]
        if enough(y):
            made.append(
                Shown((metric, summary), risk_coverage(x, y), reliability(cross_fit(x, y).probability, y))
            )
    return tuple(made)


def split_trajectories(
    tokens: TokenPass, untrue: dict[int, bool]
) -> tuple[MeanTrajectory | None, MeanTrajectory | None, MeanTrajectory | None]:
    """Output entropy along true and along untrue answers, and untrue - true with the interval of two
    independent means."""
    table = tokens.trajectories.get("output_entropy")
    if table is None:
        return None, None, None
    bad = [i for i, question in enumerate(tokens.asked) if untrue.get(question) is True]
    good = [i for i, question in enumerate(tokens.asked) if untrue.get(question) is False]
    if not bad or not good:
        return (
            (mean_trajectory(table[good]) if good else None),
            (mean_trajectory(table[bad]) if bad else None),
            None,
        )
    one, other = mean_trajectory(table[good]), mean_trajectory(table[bad])
    spread = np.sqrt(((one.high - one.low) / 2) ** 2 + ((other.high - other.low) / 2) ** 2)
    apart = other.mean - one.mean
    return (
        one,
        other,
        MeanTrajectory(one.x, apart, apart - spread, apart + spread, one.questions + other.questions),
    )


# Two models


class AurocChange(NamedTuple):
    """How much better a score ranks the second run's answers than the first's, each against its own
    outcomes, on the `questions` that both hold: difference of AUROC, paired by question; `p` from the
    bootstrap's standard error, `holm` over all scores."""

    metric: str
    summary: str
    questions: int
    first: float
    second: float
    difference: Interval
    p: float
    holm: float


def compare_truth(one: tuple[Scores, Labels], other: tuple[Scores, Labels]) -> tuple[AurocChange, ...]:
    """Scores that both runs have, the smallest p first; none where too few answers of a kind are left in
    either."""
    tables = []
    shared = [
        q for q in one[0].asked if q in set(other[0].asked) and q in one[1].outcome and q in other[1].outcome
    ]
    for scores, labels in (one, other):
        place = {question: i for i, question in enumerate(scores.asked)}
        untrue = np.array([labels.outcome[q] in UNTRUE for q in shared], np.bool_)
        tables.append((scores.values[[place[q] for q in shared]], untrue))
    made = []
    for name in (name for name in one[0].names if name in other[0].names):
        x, y = (
            table[:, scores.names.index(name)]
            for (table, _), (scores, _) in zip(tables, (one, other), strict=True)
        )
        known = ~(np.isnan(x) | np.isnan(y))
        first, second = tables[0][1][known], tables[1][1][known]
        if not (enough(first) and enough(second)):
            continue
        draws = draws_of(int(known.sum()))
        a, b = auroc_draws(x[known], first, draws), auroc_draws(y[known], second, draws)
        error = float(np.nanstd((b - a)[1:]))
        p = math.erfc(abs(float(b[0] - a[0])) / error / math.sqrt(2)) if error > 0 else math.nan
        made.append((*name, int(known.sum()), float(a[0]), float(b[0]), percentile_interval(b - a), p))
    corrected = holm([line[-1] for line in made])
    changes = [AurocChange(*line, float(adjusted)) for line, adjusted in zip(made, corrected, strict=True)]
    return tuple(sorted(changes, key=lambda change: math.inf if math.isnan(change.p) else change.p))
