"""95% intervals of means and shares over questions, and distributions of values over tokens."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
RESAMPLES = 2000
SEED = 20260403  # any fixed number: reports of the same runs must agree
ENOUGH = 10  # answers: from here on means are bootstrapped, and a run has a class; fewer are marked
# 97.5% quantile of Student's t with 1 to 8 degrees of freedom, for 2 to 9 answers.
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060)
NORMAL = 1.959964  # the same quantile of the normal distribution
# Least variance of a resample as a share of the sample's. A resample of equal values has none, and would
# make the interval as wide as one likes.
FLOOR = 0.05


class Interval(NamedTuple):
    """An estimate with its 95% interval over questions; NaN if it is undefined. `few` marks an estimate from
    fewer than ENOUGH answers, whose interval takes them as normal."""

    value: float
    low: float
    high: float
    few: bool = False

    @property
    def marked(self) -> bool:
        """Whether there are bounds, and few answers gave them."""
        return self.few and not math.isnan(self.low)

    def within(self, least: float, most: float = math.inf) -> Interval:
        """The interval with its bounds moved into the range of what is estimated."""
        if math.isnan(self.low):
            return self
        return self._replace(low=max(self.low, least), high=min(self.high, most))


UNDEFINED = Interval(math.nan, math.nan, math.nan)


class Columns(NamedTuple):
    """Means of several columns with their intervals, [columns] each, from the same answers."""

    mean: Float64
    low: Float64
    high: Float64
    few: bool


@functools.lru_cache(maxsize=4)  # every metric of a run asks for the same draws
def resampled(count: int) -> Float64:
    """Number of times each question occurs in each of RESAMPLES draws with replacement, [RESAMPLES,
    count]."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def mean_columns(x: Float64, weights: Float64 | None = None) -> Columns:
    """Mean over questions (rows) of each column of x [questions, columns] with its 95% interval.

    `weights` [questions] above 0 make it a weighted mean. From ENOUGH questions on it is a studentised
    bootstrap (Efron 1979; Hall 1988), whose standard error for a weighted mean is that of a ratio (Cochran
    1977). From 2 on it is Student's t. Fewer have no interval (NaN). No value may be NaN. Columns of equal
    values have intervals without width.
    """
    n, few = len(x), len(x) < ENOUGH
    if n == 0:
        empty = np.full(x.shape[1], math.nan)
        return Columns(empty, empty, empty, few=False)
    share = None if weights is None else weights / weights.mean()
    constant = x.max(axis=0) == x.min(axis=0)
    mean = np.where(constant, x[0], x.mean(axis=0) if share is None else share @ x / n)
    if n == 1:
        return Columns(mean, np.full_like(mean, math.nan), np.full_like(mean, math.nan), few)
    centred = x - mean
    error = np.sqrt(np.mean((centred if share is None else share[:, None] * centred) ** 2, axis=0))
    if few:
        reach = STUDENT[n - 2] / math.sqrt(n - 1) * error
        return Columns(mean, mean - reach, mean + reach, few)
    unit = centred / np.where(error > 0, error, 1.0)
    low, high = np.percentile(pivots(unit, share), (2.5, 97.5), axis=0)
    unbiased = math.sqrt(n / (n - 1)) * error
    return Columns(mean, mean - high * unbiased, mean - low * unbiased, few)


def pivots(unit: Float64, share: Float64 | None) -> Float64:
    """Mean of each resample over its own standard error, [RESAMPLES, columns], both in the sample's units.

    `unit` [n, columns] has mean 0 and error 1. All sums over a resample come from one product with its
    counts, so that no resample is ever made.
    """
    n, columns = unit.shape
    if share is None:
        sums = resampled(n) @ np.concatenate([unit, unit**2], axis=1) / n
        mean = sums[:, :columns]
        variance = sums[:, columns:] - mean**2
    else:
        of_row, of_cell = share[:, None], share[:, None] * unit
        terms = (of_cell, of_cell**2, of_row * of_cell, of_row, of_row**2)
        sums = resampled(n) @ np.concatenate(terms, axis=1) / n
        first, squares, products = (sums[:, i * columns : (i + 1) * columns] for i in range(3))
        total, total_squares = sums[:, [-2]], sums[:, [-1]]
        mean = first / total
        variance = (squares - 2 * mean * products + mean**2 * total_squares) / total**2
    ratios: Float64 = mean / np.sqrt(np.maximum(variance, FLOOR))
    return ratios


def bootstrap(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Interval:
    """Mean over questions with its interval as in `mean_columns`, weighted if there are weights.

    Numbers of tokens as weights give the paper's mean over tokens. A question whose value is NaN does not
    count. One question alone has no interval (NaN bounds).
    """
    x = np.asarray(values, np.float64)
    w = None if weights is None else np.asarray(weights, np.float64)
    known = ~np.isnan(x) if w is None else ~np.isnan(x) & (w > 0)
    return one(mean_columns(x[known][:, None], None if w is None else w[known]), 0)


def one(columns: Columns, i: int) -> Interval:
    """One of several intervals."""
    return Interval(float(columns.mean[i]), float(columns.low[i]), float(columns.high[i]), columns.few)


def bootstrap_each(values: Float64) -> list[Interval]:
    """Apply `bootstrap` to each column of values [Q, columns], in one product for all columns whose values
    are known for the same questions. Values may be NaN."""
    intervals = [UNDEFINED] * values.shape[1]
    known = ~np.isnan(values)
    patterns, pattern_of = np.unique(known, axis=1, return_inverse=True)
    for i in range(patterns.shape[1]):
        places = np.flatnonzero(pattern_of.reshape(-1) == i)
        columns = mean_columns(values[np.ix_(patterns[:, i], places)])
        for k, place in enumerate(places):
            intervals[place] = one(columns, k)
    return intervals


def bootstrap_columns(values: npt.ArrayLike) -> Columns:
    """Mean over questions (rows) of each column with its interval. Rows with NaN do not count. One question
    alone has no interval (NaN bounds)."""
    x = np.asarray(values, np.float64)
    return mean_columns(x[~np.isnan(x).any(axis=1)])


def share(values: npt.ArrayLike) -> Interval:
    """Share of ones among zeros and ones, with Wilson's score interval (1927): it has a width where all are
    equal, too. NaN does not count. One value alone has no interval."""
    x = np.asarray(values, np.float64)
    x = x[~np.isnan(x)]
    n = x.size
    if n == 0:
        return UNDEFINED
    p = float(x.mean())
    if n == 1:
        return Interval(p, math.nan, math.nan, few=True)
    weight = NORMAL**2 / n
    middle = (p + weight / 2) / (1 + weight)
    reach = NORMAL / (1 + weight) * math.sqrt(p * (1 - p) / n + weight / (4 * n))
    low = 0.0 if p == 0 else middle - reach
    high = 1.0 if p == 1 else middle + reach
    return Interval(p, low, high, n < ENOUGH)


def share_change(before: Float64, after: Float64) -> Interval:
    """Change of a share from `before` to `after`, zeros and ones of the same questions, with the interval of
    Bonett and Price (2012) for paired shares. One question alone has no interval."""
    n = before.size
    if n == 0:
        return UNDEFINED
    up, down = int(np.sum(after > before)), int(np.sum(after < before))
    value = (up - down) / n
    if n == 1:
        return Interval(value, math.nan, math.nan, few=True)
    rise, fall = (up + 1) / (n + 2), (down + 1) / (n + 2)
    reach = NORMAL * math.sqrt((rise + fall - (rise - fall) ** 2) / (n + 2))
    middle = rise - fall
    return Interval(value, middle - reach, middle + reach, n < ENOUGH).within(-1.0, 1.0)


def mean_rows(values: Float64) -> Float64:
    """Mean over questions (rows) of each column, [columns]. Rows with NaN do not count; NaN if none is
    left."""
    known = values[~np.isnan(values).any(axis=1)]
    mean: Float64 = known.mean(axis=0) if len(known) else np.full(values.shape[1], math.nan)
    return mean


class Distribution(NamedTuple):
    """Statistics of values over tokens, in the order in which llama-perplexity lists them. `error` is the
    standard error of the mean with each question as one cluster, since tokens of one answer are not
    independent. It is NaN for a single question."""

    mean: float
    error: float
    rms: float
    max: float
    p99_9: float
    p99: float
    p95: float
    p90: float
    p75: float
    median: float
    p25: float
    p10: float
    p5: float
    p1: float
    p0_1: float
    min: float


def distribution(values: npt.ArrayLike, questions: npt.ArrayLike) -> Distribution:
    """Distribution of one value for each token; `questions` has each token's question. Raises ValueError if
    empty."""
    x, q = np.asarray(values, np.float64), np.asarray(questions)
    if x.size == 0:
        raise ValueError("a distribution of nothing")
    percentiles = np.percentile(x, (100, 99.9, 99, 95, 90, 75, 50, 25, 10, 5, 1, 0.1, 0))
    rms = float(np.sqrt(np.mean(x * x)))
    return Distribution(float(x.mean()), cluster_error(x, q), rms, *map(float, percentiles))


def cluster_error(x: Float64, questions: npt.NDArray[np.int64]) -> float:
    """Standard error of the mean over tokens with each question as one cluster (linearised ratio estimator,
    Cochran 1977). NaN for fewer than two questions."""
    _, inverse = np.unique(questions, return_inverse=True)
    clusters = int(inverse.max()) + 1
    if clusters < 2:
        return math.nan
    residuals = np.bincount(inverse, weights=x - x.mean())
    return float(np.sqrt(clusters / (clusters - 1) * np.sum(residuals**2)) / x.size)
