"""Statistics of a sequence as it comes, in memory that does not grow with it, and the exact ones of a short
series."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class Moments:
    """Running mean, population variance, minimum, maximum and slope of `width` numbers at once.

    Welford's update (1962) for the moments, and its co-moment form for the least squares slope against the
    index t = 0, 1, ... of the values that were added.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean: Float64 = np.zeros(width)
        self._squares: Float64 = np.zeros(width)
        self._products: Float64 = np.zeros(width)
        self.minimum: Float64 = np.full(width, np.inf)
        self.maximum: Float64 = np.full(width, -np.inf)

    def add(self, values: npt.ArrayLike) -> None:
        """Adds one number for each column."""
        x = np.asarray(values, np.float64)
        t = self.count
        self.count += 1
        delta = x - self.mean
        # The index's own mean before this value is (t - 1) / 2, so its distance to t is (t + 1) / 2.
        self.mean += delta / self.count
        self._squares += delta * (x - self.mean)
        self._products += (t + 1) / 2 * (x - self.mean)
        np.minimum(self.minimum, x, out=self.minimum)
        np.maximum(self.maximum, x, out=self.maximum)

    @property
    def sd(self) -> Float64:
        """Population standard deviation; NaN of nothing."""
        return (
            np.sqrt(np.maximum(self._squares, 0.0) / self.count)
            if self.count
            else np.full_like(self.mean, np.nan)
        )

    @property
    def slope(self) -> Float64:
        """Change for each step, NaN with fewer than two values."""
        n = self.count
        return self._products / (n * (n * n - 1) / 12) if n > 1 else np.full_like(self.mean, np.nan)


class SeriesSummary(NamedTuple):
    """One metric over one answer of N rows, NaN where it is not defined.

    `slope` is the least squares change over the whole answer (against t/N), `slope_per_token` against t;
    `early` and `late` are means over the first and last 20% of the rows (rounded up), `shift` is late -
    early; an answer under SHORTEST rows has none of the three. `spearman` is the rank correlation with t.
    """

    mean: float
    sd: float
    min: float
    max: float
    slope: float
    slope_per_token: float
    p10: float
    p50: float
    p90: float
    early: float
    late: float
    shift: float
    spearman: float


SHORTEST = 10  # rows of an answer from which on its first and last fifth say something apart


def window(n: int) -> int:
    """Rows in the early and in the late window of an answer of n rows: 20%, rounded up."""
    return max(1, -(-n // 5))


def ranks(values: Float64) -> Float64:
    """Ranks 1..n with the mean rank for equals."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def pearson(x: Float64, y: Float64) -> float:
    """Correlation; NaN where either is constant or has fewer than two values."""
    if x.size < 2 or np.ptp(x) == 0.0 or np.ptp(y) == 0.0:
        return math.nan
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(np.dot(x, x)) * float(np.dot(y, y)))
    return float(np.dot(x, y)) / scale if scale > 0 else math.nan


def spearman(x: Float64, y: Float64) -> float:
    """Rank correlation; NaN where either is constant or has fewer than two values."""
    return pearson(ranks(x), ranks(y))


class AnswerStatistics:
    """Collects the scalar metrics of one answer: moments as they come, the rest from the kept scalars.

    An undefined value (NaN) may stand in the first row only (drift between tokens); it is left out.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._rows: list[Float64] = []
        self._first: Moments = Moments(len(names))
        self._rest: Moments = Moments(len(names))

    def add(self, values: npt.ArrayLike) -> None:
        """Takes one row; it is only reduced when somebody asks, since a decoding step has no time to
        lose."""
        self._rows.append(np.asarray(values, np.float64))

    def _catch_up(self) -> None:
        for i in range(self._first.count, len(self._rows)):
            self._first.add(self._rows[i])
            if i:
                self._rest.add(self._rows[i])

    @property
    def rows(self) -> int:
        return len(self._rows)

    def live(self, name: str) -> tuple[float, float]:
        """Mean and slope per token so far."""
        self._catch_up()
        column = self.names.index(name)
        return float(self._first.mean[column]), float(self._first.slope[column])

    def summaries(self) -> dict[str, SeriesSummary]:
        """The summary of each metric, by name; every field NaN for an answer without rows."""
        if not self._rows:
            return {name: SeriesSummary(*[math.nan] * len(SeriesSummary._fields)) for name in self.names}
        self._catch_up()
        table = np.stack(self._rows)
        return {name: self._summary(table[:, i], i) for i, name in enumerate(self.names)}

    def _summary(self, series: Float64, column: int) -> SeriesSummary:
        moments = self._first
        if math.isnan(series[0]):
            series, moments = series[1:], self._rest
        n = series.size
        if n == 0 or np.isnan(series).any():
            return SeriesSummary(*[math.nan] * len(SeriesSummary._fields))
        p10, p50, p90 = np.percentile(series, (10, 50, 90))
        early, late = math.nan, math.nan
        if self.rows >= SHORTEST:
            early, late = float(series[: window(n)].mean()), float(series[-window(n) :].mean())
        slope = float(moments.slope[column])
        return SeriesSummary(
            mean=float(moments.mean[column]),
            sd=float(moments.sd[column]),
            min=float(moments.minimum[column]),
            max=float(moments.maximum[column]),
            slope=slope * self.rows,
            slope_per_token=slope,
            p10=float(p10),
            p50=float(p50),
            p90=float(p90),
            early=early,
            late=late,
            shift=late - early,
            spearman=pearson(ranks(series), np.arange(n, dtype=np.float64)),  # places are their own ranks
        )
