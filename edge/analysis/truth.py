"""Test of whether a metric tells untrue answers from true ones.

Every score of a run (`scores.py`) is held against the outcomes. Its p is corrected for the number of scores.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge.analysis.calibration import ReliabilityBin, cross_fit, judge, reliability
from edge.analysis.intervals import UNDEFINED, Float64, Interval, share
from edge.analysis.labels import Labels
from edge.analysis.ranking import (
    Bool,
    RiskCoverage,
    benjamini_hochberg,
    draws_of,
    holm,
    mann_whitney_p,
    percentile_interval,
    rank_draws,
    risk_coverage,
)
from edge.analysis.scores import MINIMUM, Scores, enough
from edge.analysis.tokens import MeanTrajectory, TokenPass, mean_trajectory
from edge.errors import UserError
from edge.runs.outcomes import OUTCOMES, UNTRUE
from edge.runs.run_directory import Run

ALPHA = 0.05  # family-wise error rate over all scores of a run


class Prediction(NamedTuple):
    """One score against the outcome over `questions` answers.

    `p` tests AUROC = 0.5 (two-sided). `holm` bounds the chance of any false finding over all scores of the
    run. `q` (Benjamini and Hochberg) bounds the share of false findings among the scores with a q at most as
    high. ECE, Brier score and balanced accuracy are of cross-fitted probabilities and thresholds.
    """

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


class ScoreCurves(NamedTuple):
    """Curves of one score (metric, summary), for figures."""

    score: tuple[str, str]
    risk: RiskCoverage
    reliability: list[ReliabilityBin]


@dataclass(frozen=True)
class Truth:
    """What a run's outcomes say.

    `predictions` are ordered by p, the best first. If too few answers are of one kind, they are empty and
    `problem` says why. `shown` has the curves of the scores that figures show. `true_trajectory` and
    `untrue_trajectory` are of output entropy along the answer.
    """

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
    shown: tuple[ScoreCurves, ...]
    true_trajectory: MeanTrajectory | None
    untrue_trajectory: MeanTrajectory | None
    trajectory_difference: MeanTrajectory | None

    @property
    def found(self) -> tuple[Prediction, ...]:
        """Predictions with an adjusted p (`holm`) below ALPHA."""
        return tuple(p for p in self.predictions if p.holm < ALPHA)


def analyse_truth(run: Run, labels: Labels, tokens: TokenPass, scores: Scores) -> Truth:
    """Test every score against the labels. Raises UserError if no label belongs to a question of the run."""
    judged = scores.at([question for question in scores.questions if question in labels.outcome])
    if not judged.questions:
        raise UserError(
            f"{run.folder} has no outcome of a question that it holds: label its answers with 'edge label'"
        )
    outcomes = [labels.outcome[question] for question in judged.questions]
    untrue = np.array([outcome in UNTRUE for outcome in outcomes])
    bad, good = int(untrue.sum()), int((~untrue).sum())
    problem = ""
    if min(bad, good) < MINIMUM:
        problem = (
            f"{bad} untrue and {good} true answers are too few to judge a metric by: "
            f"at least {MINIMUM} of each are needed"
        )
    predictions = () if problem else predict(judged, untrue)
    by_question = dict(zip(judged.questions, untrue.tolist(), strict=True))
    true_trajectory, untrue_trajectory, difference = split_trajectories(tokens, by_question)
    return Truth(
        label=run.manifest.label,
        source=labels.source,
        questions=len(judged.questions),
        untrue=share(untrue),
        counts={name: Counter(outcomes)[name] for name in OUTCOMES},
        disagreed=labels.disagreed,
        unlabelled=labels.unlabelled,
        tests=sum(not math.isnan(p.p) for p in predictions),
        predictions=predictions,
        problem=problem,
        shown=score_curves(predictions, judged, untrue),
        true_trajectory=true_trajectory,
        untrue_trajectory=untrue_trajectory,
        trajectory_difference=difference,
    )


def judge_scores(values: Float64, untrue: Bool) -> tuple[Float64, Float64, Float64]:
    """p, Holm's adjusted p, and Benjamini and Hochberg's adjusted p of each column of values [questions,
    scores]. NaN where a column is constant or has fewer than MINIMUM answers of a kind."""
    p = np.full(values.shape[1], np.nan)
    for i in range(values.shape[1]):
        known = ~np.isnan(values[:, i])
        if enough(untrue[known]):
            p[i] = mann_whitney_p(values[known, i], untrue[known])
    return p, holm(p), benjamini_hochberg(p)


def predict(scores: Scores, untrue: Bool) -> tuple[Prediction, ...]:
    """One Prediction for each score, the smallest p first; `untrue` has the outcome of each row."""
    p, corrected, q = judge_scores(scores.values, untrue)
    predictions = []
    for i in np.argsort(np.where(np.isnan(p), np.inf, p), kind="stable"):
        metric, summary = scores.names[i]
        known = ~np.isnan(scores.values[:, i])
        measures = measure(scores.values[known, i], untrue[known], p[i])
        tests = (float(p[i]), float(corrected[i]), float(q[i]))
        predictions.append(Prediction(metric, summary, int(known.sum()), *measures, *tests))
    return tuple(predictions)


class Measures(NamedTuple):
    """The measured fields of a Prediction, in its order."""

    auroc: Interval = UNDEFINED
    prr: Interval = UNDEFINED
    aurc: Interval = UNDEFINED
    ece: Interval = UNDEFINED
    brier: Interval = UNDEFINED
    balanced_accuracy: Interval = UNDEFINED


def measure(x: Float64, untrue: Bool, p: float) -> Measures:
    """Measures of one score; undefined where it could not be tested (`p` is NaN)."""
    if math.isnan(p):
        return Measures()
    ranked = rank_draws(x, untrue, draws_of(untrue.size))
    auroc, aurc, prr = (percentile_interval(values) for values in ranked)
    return Measures(auroc, prr, aurc, **judge(cross_fit(x, untrue), untrue)._asdict())


def score_curves(
    predictions: tuple[Prediction, ...], scores: Scores, untrue: Bool
) -> tuple[ScoreCurves, ...]:
    """Curves of the strongest score, and of mean output entropy and length, which are the usual first
    choices."""
    chosen = [(p.metric, p.summary) for p in predictions[:1] if not math.isnan(p.p)]
    usual = (("output_entropy", "mean"), ("tokens", ""))
    chosen += [name for name in usual if predictions and name in scores.names]
    curves = []
    for name in dict.fromkeys(chosen):
        values = scores.values[:, scores.names.index(name)]
        known = ~np.isnan(values)
        x, y = values[known], untrue[known]
        if enough(y):
            calibration = reliability(cross_fit(x, y).probability, y)
            curves.append(ScoreCurves(name, risk_coverage(x, y), calibration))
    return tuple(curves)


def split_trajectories(
    tokens: TokenPass, untrue: dict[int, bool]
) -> tuple[MeanTrajectory | None, MeanTrajectory | None, MeanTrajectory | None]:
    """Output entropy along true and along untrue answers, and untrue - true.

    The difference has the interval of two independent means, from both intervals (MOVER, Zou and Donner
    2008).
    """
    entropy = tokens.trajectories.get("output_entropy")
    if entropy is None:
        return None, None, None
    outcomes = [untrue.get(question) for question in tokens.questions]
    good, bad = (
        mean_trajectory(entropy[[i for i, outcome in enumerate(outcomes) if outcome is kind]])
        if kind in outcomes
        else None
        for kind in (False, True)
    )
    if good is None or bad is None:
        return good, bad, None
    apart = bad.mean - good.mean
    low = apart - np.hypot(bad.mean - bad.low, good.high - good.mean)
    high = apart + np.hypot(bad.high - bad.mean, good.mean - good.low)
    return good, bad, MeanTrajectory(good.x, apart, low, high, good.questions + bad.questions)
