"""Measures of how well a score ranks untrue answers above true ones, and their tests.

The measures are AUROC, area under the risk-coverage curve, and prediction rejection ratio. Each takes
resamples as the number of times that each question was drawn. One sort then serves all resamples, and two
models judged on the same draws can be compared in pairs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge.analysis.intervals import Float64, Interval, resampled
from edge.signals.streaming import ranks

DRAWS = 1000  # the first so many resamples of `intervals`: a hundred scores a run are judged on them
Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]


class RankingDraws(NamedTuple):
    """Measures of one score, [1 + draws] each. The first entry is on the questions as they are, the others
    are on the resamples. NaN where a resample holds answers of one kind only."""

    auroc: Float64
    aurc: Float64
    prr: Float64


@functools.lru_cache(maxsize=8)
def harmonic(count: int) -> Float32:
    """Harmonic numbers H(0) to H(count), with H(k) = 1 + 1/2 + ... + 1/k."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, count + 1))]).astype(np.float32)


@functools.lru_cache(maxsize=4)  # every score of a run asks for the same draws
def draws_of(count: int) -> Float32:
    """Number of times each question occurs in each resample of `intervals`, [count, 1 + draws].

    The first column is the questions as they are. float32 holds such counts exactly. Each resample is a
    column, so that sums over questions add rows.
    """
    counts = np.concatenate([np.ones((1, count)), resampled(count)[:DRAWS]])
    return np.ascontiguousarray(counts.T, np.float32)


def rank_draws(scores: Float64, untrue: Bool, draws: Float32) -> RankingDraws:
    """AUROC, AURC and PRR of one score [n] on each of the draws [n, B]. A higher score means "more likely
    untrue". Equal scores count as if in random order.

    - AUROC: probability that an untrue answer scores above a true one, where ties count half (Mann and
      Whitney 1947; Hanley and McNeil 1982).
    - AURC: mean over k = 1..n of the share of untrue answers among the k lowest scores (Geifman, Uziel and
      El-Yaniv 2019).
    - PRR: (base rate - AURC) / (base rate - AURC of a perfect ranking). This is the prediction rejection
      ratio with the accuracy of the answers kept, and rejection up to all of them (Malinin et al. 2017 as in
      lm-polygraph, Fadeeva et al. 2023). 1 is perfect, 0 is rejection at random.
    """
    errors, counts = grouped(scores, untrue, draws)
    wrong, covered = running_sum(errors), running_sum(counts)
    area = risk_area(errors, counts, wrong, covered)
    n, bad = covered[-1].astype(np.float64), wrong[-1].astype(np.float64)
    h = harmonic(int(n.max())).astype(np.float64)
    best = (bad - (n - bad) * (h[n.astype(np.int64)] - h[(n - bad).astype(np.int64)])) / n
    room = bad / n - best
    return RankingDraws(
        roc_area(errors, counts, wrong, covered),
        area,
        np.divide(bad / n - area, room, out=np.full(n.size, np.nan), where=room > 1e-6),
    )


def auroc_draws(scores: Float64, untrue: Bool, draws: Float32) -> Float64:
    """AUROC alone, [B], as in `rank_draws`."""
    errors, counts = grouped(scores, untrue, draws)
    return roc_area(errors, counts, running_sum(errors), running_sum(counts))


def grouped(scores: Float64, untrue: Bool, draws: Float32) -> tuple[Float32, Float32]:
    """Numbers of untrue answers and of all answers by group of equal scores, [groups, B], lowest first."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) != 0]))
    counts = draws[order]
    errors = counts * untrue[order, None].astype(np.float32)
    if starts.size < scores.size:
        return np.add.reduceat(errors, starts, axis=0), np.add.reduceat(counts, starts, axis=0)
    return errors, counts


def roc_area(errors: Float32, counts: Float32, wrong: Float32, covered: Float32) -> Float64:
    """AUROC [B]: wins of untrue over true answers, as a share of all pairs. A true answer in a lower group
    is a win; one in the same group counts half."""
    n, bad = covered[-1], wrong[-1]
    below = covered - wrong - (counts - errors) / 2
    pairs = (bad * (n - bad)).astype(np.float64)
    wins = np.einsum("ij,ij->j", errors, below, dtype=np.float64)
    area: Float64 = np.divide(wins, pairs, out=np.full(pairs.size, np.nan), where=pairs > 0)
    return area


def running_sum(rows: Float32) -> Float32:
    """Cumulative sum over the first axis. np.cumsum works by columns here and is eight times slower."""
    total = rows.copy()
    for i in range(1, len(total)):
        total[i] += total[i - 1]
    return total


def risk_area(errors: Float32, counts: Float32, wrong: Float32, covered: Float32) -> Float64:
    """AURC [B] from errors and answers in each group of equal scores [groups, B], and their cumulative sums.
    Within a group errors grow evenly: its part is the sum over k of (wrong0 + rate (k - covered0)) / k."""
    rate = errors / np.maximum(counts, 1)
    steps = harmonic(int(covered[-1].max()))[covered.astype(np.int32)]
    steps[1:] -= steps[:-1].copy()
    offset = wrong - errors - rate * (covered - counts)
    total = errors.sum(axis=0, dtype=np.float64)
    total += np.einsum("ij,ij->j", offset, steps, dtype=np.float64)
    area: Float64 = total / covered[-1]
    return area


def percentile_interval(values: Float64) -> Interval:
    """The first entry with the 95% percentile interval of the others. The bounds are NaN if half or more are
    undefined."""
    known = values[1:][~np.isnan(values[1:])]
    if known.size < (values.size - 1) / 2 or known.size == 0:
        return Interval(float(values[0]), math.nan, math.nan)
    low, high = np.percentile(known, (2.5, 97.5))
    return Interval(float(values[0]), float(low), float(high))


class RiskCoverage(NamedTuple):
    """`risk[i]` is the share of untrue answers among the share `coverage[i]` with the lowest scores. `best`
    is the risk of a perfect ranking."""

    coverage: Float64
    risk: Float64
    best: Float64


def risk_coverage(scores: Float64, untrue: Bool) -> RiskCoverage:
    """Risk-coverage curve for k = 1..n; equal scores share their errors evenly."""
    n = scores.size
    _, inverse = np.unique(scores, return_inverse=True)
    shared = (np.bincount(inverse, weights=untrue) / np.bincount(inverse))[inverse]
    k = np.arange(1, n + 1)
    good = n - int(untrue.sum())
    errors = np.cumsum(shared[np.argsort(scores, kind="stable")])
    return RiskCoverage(k / n, errors / k, np.maximum(k - good, 0) / k)


# Tests


def mann_whitney_p(scores: Float64, untrue: Bool) -> float:
    """Two-sided p of "AUROC is 0.5", by the normal approximation with corrections for ties and continuity
    (as scipy.stats.mannwhitneyu, method "asymptotic"). NaN if all scores or all outcomes are equal."""
    n, m = scores.size, int(untrue.sum())
    _, ties = np.unique(scores, return_counts=True)
    if n < 2:
        return math.nan
    tied = float(np.sum(ties.astype(np.float64) ** 3 - ties)) / (n * (n - 1))
    variance = m * (n - m) / 12 * (n + 1 - tied)
    if variance <= 0:
        return math.nan
    u = float(ranks(scores)[untrue].sum()) - m * (m + 1) / 2
    z = max(0.0, abs(u - m * (n - m) / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def holm(p: npt.ArrayLike) -> Float64:
    """Adjusted p by Holm (1979). The chance of any false rejection below alpha is at most alpha, for any
    dependence. NaN stays NaN and does not count as a test."""

    def adjusted(ascending: Float64) -> Float64:
        return np.maximum.accumulate(ascending * np.arange(ascending.size, 0, -1))

    return on_sorted(p, adjusted)


def benjamini_hochberg(p: npt.ArrayLike) -> Float64:
    """Adjusted p by Benjamini and Hochberg (1995). The expected share of false rejections below alpha is at
    most alpha if tests are independent or positively dependent. NaN stays NaN and does not count as a
    test."""

    def adjusted(ascending: Float64) -> Float64:
        scaled = ascending * ascending.size / np.arange(1, ascending.size + 1)
        return np.minimum.accumulate(scaled[::-1])[::-1]

    return on_sorted(p, adjusted)


def on_sorted(p: npt.ArrayLike, adjusted: Callable[[Float64], Float64]) -> Float64:
    """Apply `adjusted` to the defined p in ascending order; at most 1, in the order of `p`."""
    values = np.asarray(p, np.float64)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    result = np.full(values.shape, np.nan)
    result[order] = np.minimum(1.0, adjusted(values[order]))
    return result
