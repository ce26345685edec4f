"""Calibration of a score: the probability that an answer is untrue.

Probabilities and thresholds are always judged on questions that were not used to fit them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge.analysis.intervals import SEED, Float64, Interval
from edge.analysis.ranking import Bool, draws_of, percentile_interval

FOLDS = 5
BINS = 10
ITERATIONS = 50


class CrossFitted(NamedTuple):
    """Values from a fit on the other folds: `probability` [n] of being untrue, and `flagged` [n] (score
    above the threshold)."""

    probability: Float64
    flagged: Bool


class Calibration(NamedTuple):
    """Of cross-fitted values, with intervals over questions.

    `ece`: expected calibration error, the sum over equal-width bins of (share of questions) x |share untrue
    - mean probability| (Naeini et al. 2015, Guo et al. 2017); `brier`: mean squared error of the
    probability; `balanced_accuracy`: mean of the shares of untrue and of true answers told rightly (chance:
    0.5).
    """

    ece: Interval
    brier: Interval
    balanced_accuracy: Interval


class ReliabilityBin(NamedTuple):
    """Questions whose probability lies in one of `BINS` equal intervals: number, mean probability, share
    untrue."""

    questions: int
    probability: float
    untrue: float


def folds(untrue: Bool, count: int = FOLDS) -> Float64:
    """Fold of each question [n], stratified by outcome, with a fixed seed."""
    rng = np.random.default_rng(SEED)
    members = np.concatenate([rng.permutation(np.flatnonzero(untrue == kind)) for kind in (True, False)])
    fold = np.empty(untrue.size)
    fold[members] = np.arange(untrue.size) % count
    return fold


def platt(scores: Float64, untrue: Bool) -> tuple[float, float]:
    """Fit a and b of probability = 1 / (1 + exp(-(a score + b))) by maximum likelihood (Platt 1999).

    Platt's smoothed targets keep the fit finite where a score separates perfectly. The fit is by Newton's
    method on the standardised score.
    """
    bad = float(untrue.sum())
    target = np.where(untrue, (bad + 1) / (bad + 2), 1 / (untrue.size - bad + 2))
    centre, scale = float(scores.mean()), float(scores.std())
    if scale == 0.0:
        rate = float(target.mean())
        return 0.0, math.log(rate / (1 - rate))
    x = np.stack([(scores - centre) / scale, np.ones(scores.size)])
    weights = np.zeros(2)
    for _ in range(ITERATIONS):
        p = logistic(weights @ x)
        gradient, curvature = x @ (p - target), (x * (p * (1 - p))) @ x.T
        step = np.linalg.solve(curvature + 1e-12 * np.eye(2), gradient)
        size = float(np.abs(step).max())
        # A step of at most one standard deviation: far from the optimum Newton's method overshoots.
        weights = weights - step / max(1.0, size)
        if size < 1e-10:
            break
    return float(weights[0] / scale), float(weights[1] - weights[0] * centre / scale)


def logistic(x: Float64) -> Float64:
    """1 / (1 + exp(-x)) without overflow."""
    probability: Float64 = 0.5 * (1.0 + np.tanh(0.5 * x))
    return probability


def threshold(scores: Float64, untrue: Bool) -> float:
    """The threshold above which a score means untrue, with the largest balanced accuracy (Youden 1950). It
    is halfway between two scores; of equally good ones it is the lowest."""
    values, inverse = np.unique(scores, return_inverse=True)
    bad, good = (np.bincount(inverse, weights=kind, minlength=values.size) for kind in (untrue, ~untrue))
    # Entry i: sensitivity + specificity - 1 with the cut below values[i].
    gain = (bad[::-1].cumsum()[::-1] / bad.sum()) - (good[::-1].cumsum()[::-1] / good.sum())
    best = int(np.argmax(gain))
    return float(values[0] - 1.0 if best == 0 else (values[best - 1] + values[best]) / 2)


def cross_fit(scores: Float64, untrue: Bool) -> CrossFitted:
    """Fit on all folds but one and apply to that one, for each fold. Needs at least two answers of each kind
    in every set of all folds but one."""
    fold = folds(untrue)
    probability, flagged = np.empty(scores.size), np.empty(scores.size, np.bool_)
    for i in range(FOLDS):
        seen, held = fold != i, fold == i
        a, b = platt(scores[seen], untrue[seen])
        probability[held] = logistic(a * scores[held] + b)
        flagged[held] = scores[held] > threshold(scores[seen], untrue[seen])
    return CrossFitted(probability, flagged)


def bin_of(probability: Float64, bins: int) -> npt.NDArray[np.int64]:
    """Index of the equal-width bin of each probability. A bin holds its upper edge (Guo et al. 2017), the
    first also 0."""
    index: npt.NDArray[np.int64] = np.clip(np.ceil(probability * bins) - 1, 0, bins - 1).astype(np.int64)
    return index


def bin_residuals(probability: Float64, untrue: Bool, bins: int) -> Float64:
    """Outcome - probability [bins, n] of each question, in the row of its bin."""
    members = np.zeros((bins, probability.size))
    members[bin_of(probability, bins), np.arange(probability.size)] = untrue - probability
    return members


def judge(fitted: CrossFitted, untrue: Bool) -> Calibration:
    """Measures of cross-fitted values against the outcome, with intervals over questions."""
    right = fitted.flagged == untrue
    sums = [(fitted.probability - untrue) ** 2, right & untrue, untrue, right & ~untrue, ~untrue]
    residuals = bin_residuals(fitted.probability, untrue, BINS)
    # One product for all sums: a resample costs as much for fifteen rows as for one.
    rows = np.concatenate([np.array(sums, np.float32), residuals.astype(np.float32)])
    drawn = rows @ draws_of(untrue.size)
    squares, right_bad, bad, right_good, good = drawn[:5].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may hold answers of one kind only
        balanced = (right_bad / bad + right_good / good) / 2
    return Calibration(
        percentile_interval(np.abs(drawn[5:]).sum(axis=0) / untrue.size),
        percentile_interval(squares / untrue.size),
        percentile_interval(balanced),
    )


def reliability(probability: Float64, untrue: Bool, bins: int = BINS) -> list[ReliabilityBin]:
    """The bins that hold a question, in order."""
    index = bin_of(probability, bins)
    held = [index == i for i in range(bins)]
    return [
        ReliabilityBin(int(h.sum()), float(probability[h].mean()), float(untrue[h].mean()))
        for h in held
        if h.any()
    ]
