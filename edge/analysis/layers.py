"""Changes by layer and by head between two runs, and the distance of their residual streams."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.dynamics import mean_vectors, rows_of, width_of
from edge.analysis.intervals import Float64, Interval, bootstrap_columns, mean_rows
from edge.analysis.pairs import paired_steps
from edge.runs.columns import mean_column
from edge.runs.run_directory import Run
from edge.signals.streaming import pearson, spearman


class LayerChange(NamedTuple):
    """Change of a by-layer metric: mean over questions with its interval, each [L] or [L+1].

    `few` marks intervals of few answers, as in Interval. `rms`, `pearson` and `spearman` are position by
    position (forced runs only, else None).
    """

    metric: str
    mean: Float64
    low: Float64
    high: Float64
    few: bool
    rms: Float64 | None = None
    pearson: Float64 | None = None
    spearman: Float64 | None = None

    def interval(self, row: int) -> Interval:
        """The change of one row, which counts from 0."""
        return Interval(float(self.mean[row]), float(self.low[row]), float(self.high[row]), self.few)


class HeadChange(NamedTuple):
    """Change of a by-head metric, mean over questions: [L, H]; the others as in LayerChange."""

    metric: str
    mean: Float64
    rms: Float64 | None = None
    pearson: Float64 | None = None
    spearman: Float64 | None = None


class TokenStatistics(NamedTuple):
    """RMS change and correlations of two series position by position, each [columns] of a list column."""

    rms: Float64
    pearson: Float64
    spearman: Float64


def tapped(full: Run, quantised: Run) -> bool:
    """Whether both runs have attention and hidden states."""
    return full.manifest.artifact.tapped and quantised.manifest.artifact.tapped


def layer_change(
    name: str, a: pa.Table, b: pa.Table, full: Run, tokens: Mapping[str, TokenStatistics]
) -> LayerChange:
    """Change of a by-layer metric from the answers `a` to `b`; `tokens` has its token statistics, if any."""
    width = width_of(name, full.manifest.model)
    means = bootstrap_columns(mean_vectors(b, name, width) - mean_vectors(a, name, width))
    return LayerChange(name, *means, *tokens.get(name, ()))


def head_change(
    name: str, a: pa.Table, b: pa.Table, full: Run, tokens: Mapping[str, TokenStatistics]
) -> HeadChange:
    """Change of a by-head metric from the answers `a` to `b`; `tokens` has its token statistics, if any."""
    model = full.manifest.model
    width = width_of(name, model)
    mean = mean_rows(mean_vectors(b, name, width) - mean_vectors(a, name, width))
    vectors = (mean, *tokens.get(name, ()))
    return HeadChange(name, *(vector.reshape(model.layers, model.heads) for vector in vectors))


def token_statistics(full: Run, quantised: Run, names: Iterable[str]) -> dict[str, TokenStatistics]:
    """Token statistics of list columns of a forced run and its reference. A column that no row of both holds
    is left out."""
    columns = {}
    for name in names:  # one at a time: a long run's vectors of all metrics would not fit a board
        a, b = paired_steps(full, quantised, [name], [])
        x, y = rows_of(a.column(name)), rows_of(b.column(name))
        known = ~(np.isnan(x[:, 0]) | np.isnan(y[:, 0]))  # row 0 has no previous token; taps may be lost
        if known.any():
            columns[name] = by_column(x[known], y[known])
    return columns


def by_column(x: Float64, y: Float64) -> TokenStatistics:
    """Token statistics of each column of two tables [tokens, columns]."""
    pairs = [(x[:, i], y[:, i]) for i in range(x.shape[1])]
    return TokenStatistics(
        np.sqrt(np.mean((y - x) ** 2, axis=0)),
        np.array([pearson(*pair) for pair in pairs]),
        np.array([spearman(*pair) for pair in pairs]),
    )


def hidden_change(name: str, answers: pa.Table, run: Run) -> LayerChange | None:
    """Distance of the residual streams by layer, mean over questions; None if a model had no taps."""
    if answers.column(mean_column(name)).null_count == answers.num_rows:
        return None
    return LayerChange(name, *bootstrap_columns(mean_vectors(answers, name, run.manifest.model.layers + 1)))
