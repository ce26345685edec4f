"""Bootstrap intervals over questions, and distributions of values over tokens."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
RESAMPLES = 2000
SEED = 20260403  # any fixed number: reports of the same runs must agree


class Interval(NamedTuple):
    """An estimate with its 95% interval (percentile bootstrap over questions); NaN if it is undefined."""

    value: float
    low: float
    high: float


UNDEFINED = Interval(math.nan, math.nan, math.nan)


@functools.lru_cache(maxsize=4)  # every metric of a run asks for the same draws
def resampled(count: int) -> Float64:
    """Number of times each question occurs in each of RESAMPLES draws with replacement, [RESAMPLES,
    count]."""
    rng = np.random.default_rng(SEED)
    return rng.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)


def bootstrap(values: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Interval:
    """Mean over questions with its interval, weighted if there are weights.

    Numbers of tokens as weights give the paper's mean over tokens. A question whose value is NaN does not
    count. One question alone has no interval (NaN bounds).
    """
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    known = ~np.isnan(x) & (w > 0)
    x, w = x[known], w[known]
    if x.size == 0:
        return UNDEFINED
    value = float(np.dot(x, w) / w.sum())
    if x.size == 1:
        return Interval(value, math.nan, math.nan)
    draws = resampled(x.size)
    low, high = np.percentile((draws @ (x * w)) / (x.size if weights is None else draws @ w), (2.5, 97.5))
    return Interval(value, float(low), float(high))


def bootstrap_each(values: Float64) -> list[Interval]:
    """Apply `bootstrap` to each column of values [Q, columns], in one product. Values may be NaN."""
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    filled = np.where(known, values, 0.0)
    draws = resampled(len(values)) if len(values) else np.empty((0, 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        means, drawn = filled.sum(axis=0) / counts, (draws @ filled) / (draws @ known)
    if len(values) == 0:
        return [UNDEFINED] * values.shape[1]
    several = np.flatnonzero(counts > 1)
    low, high = np.nanpercentile(drawn[:, several], (2.5, 97.5), axis=0) if several.size else ((), ())
    bounds = dict(zip(several, zip(low, high, strict=True), strict=True))
    undefined = (math.nan, math.nan)
    return [Interval(float(mean), *map(float, bounds.get(i, undefined))) for i, mean in enumerate(means)]


def mean_rows(values: Float64) -> Float64:
    """Mean over questions (rows) of each column, [columns]. Rows with NaN do not count; NaN if none is
    left."""
    known = values[~np.isnan(values).any(axis=1)]
    mean: Float64 = known.mean(axis=0) if len(known) else np.full(values.shape[1], math.nan)
    return mean


def bootstrap_columns(values: npt.ArrayLike) -> tuple[Float64, Float64, Float64]:
    """Mean over questions (rows) of each column with its interval, as three arrays [columns]. Rows with NaN
    do not count. One question alone has no interval (NaN bounds)."""
    x = np.asarray(values, np.float64)
    x = x[~np.isnan(x).any(axis=1)]
    if len(x) == 0:
        empty = np.full(x.shape[1], math.nan)
        return empty, empty, empty
    if len(x) == 1:
        return x[0], np.full_like(x[0], math.nan), np.full_like(x[0], math.nan)
    low, high = np.percentile(resampled(len(x)) @ x / len(x), (2.5, 97.5), axis=0)
    return x.mean(axis=0), low, high


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
