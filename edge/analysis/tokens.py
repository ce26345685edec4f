"""Token statistics that the answers table does not hold, from one pass over a run's steps.

Only scalars stay in memory, never vectors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge.analysis.dynamics import CURVE_BINS, recorded_series, step_columns, step_series, trajectory
from edge.analysis.intervals import Float64, Interval, bootstrap_columns, bootstrap_each
from edge.runs.run_directory import Run
from edge.signals.groups import SERIES
from edge.signals.streaming import pearson

CACHE = "position"  # the memory of the cache grows with it and with nothing else
POINTS = 1500  # of a scatter plot


class TokenPass(NamedTuple):
    """Result of one pass over the steps of Q questions, T tokens and M metrics.

    - `questions` [Q]: indices of the questions that have rows, in the order of the other tables
    - `names` [M]: the metrics of `SERIES` that the run has, and last `position`
    - `pooled` [T, M] float32: every token, NaN where undefined
    - `first`, `last` [Q, M]: the ends of each answer
    - `within` [Q, M, M]: correlations over one answer's tokens, without row 0, which has no previous token
    - `trajectories` [Q, bins] by name: each answer's trajectory
    - `entropy_step` [Q]: mean |change| of output entropy from a token to the next
    - `entropy_memory` [Q]: lag-one autocorrelation of output entropy
    """

    questions: list[int]
    names: tuple[str, ...]
    pooled: Float64
    first: Float64
    last: Float64
    within: Float64
    trajectories: dict[str, Float64]
    entropy_step: Float64
    entropy_memory: Float64

    def column(self, name: str) -> Float64:
        """Every token's value [T], undefined ones left out; empty where the run has no such metric."""
        if name not in self.names:
            return np.empty(0)
        values = self.pooled[:, self.names.index(name)].astype(np.float64)
        return values[~np.isnan(values)]


def read_tokens(run: Run, bins: int = CURVE_BINS) -> TokenPass:
    """Read the steps part by part. Memory is one part's rows, and 4 bytes for each token and metric (16 MB
    for 790 x 360 tokens)."""
    columns = recorded_series(run, SERIES)
    names = (*columns, CACHE)
    questions: list[int] = []
    tables: list[Float64] = []
    ends: list[Float64] = []
    within: list[Float64] = []
    trajectories: dict[str, list[Float64]] = {name: [] for name in columns}
    entropy: list[tuple[float, float]] = []
    for question, table in run.each_question(step_columns(columns)):
        if table.num_rows == 0:
            continue
        series = step_series(table, run.manifest.model, columns)
        cached = table.column(CACHE).to_numpy().astype(np.float64)
        values = np.stack([*(series[name] for name in columns), cached], axis=1)
        questions.append(question)
        tables.append(values.astype(np.float32))
        ends.append(values[[0, -1]])
        within.append(correlations(values[1:]))
        for name in columns:
            trajectories[name].append(known_trajectory(series[name], bins))
        entropy.append(drift(series["output_entropy"]))
    count = len(names)
    steps = np.array(entropy, np.float64).reshape(-1, 2)
    edges = np.array(ends, np.float64).reshape(-1, 2, count)
    return TokenPass(
        questions=questions,
        names=names,
        pooled=np.concatenate(tables) if tables else np.empty((0, count), np.float32),
        first=edges[:, 0],
        last=edges[:, 1],
        within=np.array(within, np.float64).reshape(-1, count, count),
        trajectories={name: np.stack(rows) for name, rows in trajectories.items() if rows},
        entropy_step=steps[:, 0],
        entropy_memory=steps[:, 1],
    )


def known_trajectory(series: Float64, bins: int) -> Float64:
    """The trajectory of a series without an undefined first value. NaN if another value is undefined or none
    is left."""
    known = series[1:] if np.isnan(series[0]) else series
    return np.full(bins, np.nan) if known.size == 0 or np.isnan(known).any() else trajectory(known, bins)


def drift(entropy: Float64) -> tuple[float, float]:
    """Mean absolute change from one token to the next, and lag-one autocorrelation."""
    if entropy.size < 2:
        return np.nan, np.nan
    return float(np.abs(np.diff(entropy)).mean()), pearson(entropy[:-1], entropy[1:])


def correlations(values: Float64) -> Float64:
    """Pearson correlations [M, M] of the columns of rows [N, M]. NaN where a column is constant or has an
    undefined value."""
    n, count = values.shape
    if n < 3:
        return np.full((count, count), np.nan)
    centred = values - values.mean(axis=0)
    scale = np.sqrt(np.sum(centred**2, axis=0))
    constant = np.ptp(values, axis=0) == 0
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = centred / np.where(constant, np.nan, scale)
    matrix: Float64 = np.clip(unit.T @ unit, -1.0, 1.0)
    return matrix


class Correlation(NamedTuple):
    """Correlation of two metrics. `over_tokens` is over all tokens of all answers (the paper's way).
    `within` is the mean over questions of the correlation along one answer, with its interval."""

    x: str
    y: str
    over_tokens: float
    within: Interval


def correlate(tokens: TokenPass) -> tuple[Correlation, ...]:
    """Correlations of every pair of metrics, each pair once, in the order of `names`."""
    known = tokens.pooled[~np.isnan(tokens.pooled).any(axis=1)].astype(np.float64)
    pooled = correlations(known)
    later, earlier = np.tril_indices(len(tokens.names), -1)
    within = [mean.within(-1.0, 1.0) for mean in bootstrap_each(tokens.within[:, later, earlier])]
    return tuple(
        Correlation(tokens.names[j], tokens.names[i], float(pooled[i, j]), mean)
        for i, j, mean in zip(later, earlier, within, strict=True)
    )


class MeanTrajectory(NamedTuple):
    """A metric along the answer. `x` is t/N at the middle of each bin. The mean is over `questions`
    questions. Its 95% interval is for each bin by itself, not for the whole line at once."""

    x: Float64
    mean: Float64
    low: Float64
    high: Float64
    questions: int


def mean_trajectory(trajectories: Float64) -> MeanTrajectory:
    """Mean of trajectories [Q, bins]; questions with an undefined bin do not count."""
    bins = trajectories.shape[1]
    mean, low, high, _ = bootstrap_columns(trajectories)
    questions = int((~np.isnan(trajectories).any(axis=1)).sum())
    return MeanTrajectory((np.arange(bins) + 0.5) / bins, mean, low, high, questions)


def points(tokens: TokenPass, x: str, y: str) -> Float64:
    """At most POINTS tokens [n, 2], evenly spaced over the run."""
    table = tokens.pooled[:, [tokens.names.index(x), tokens.names.index(y)]].astype(np.float64)
    known = table[~np.isnan(table).any(axis=1)]
    if len(known) == 0:
        return known
    chosen = np.unique(np.linspace(0, len(known) - 1, POINTS).astype(np.int64))
    return known[chosen]
