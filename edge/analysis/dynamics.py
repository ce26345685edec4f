"""Description of one run: metrics over questions and over tokens, trajectories, and class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edge.analysis.classes import DELTA, DynamicsClass, classify
from edge.analysis.intervals import Float64, Interval, bootstrap, mean_rows
from edge.artifact import ModelSpec
from edge.errors import UserError
from edge.runs.columns import mean_column
from edge.runs.run_directory import Run
from edge.signals.groups import BY_NAME, SCALARS, SERIES, shown_in
from edge.signals.metric import Shown
from edge.signals.streaming import SHORTEST

WINDOWED = ("early", "late", "shift")  # summaries that need two windows
CURVE_BINS = 20


class MetricLine(NamedTuple):
    """One metric of a run: mean over questions (each answer weighs the same), mean over tokens (the paper's
    way), and SD over all tokens. Both means have intervals over questions."""

    metric: str
    over_questions: Interval
    over_tokens: Interval
    token_sd: float


class Curve(NamedTuple):
    """A metric along the answer. `x` is t/N at the middle of each bin. The others are statistics over
    questions of the metric's mean in that bin: mean, median, and 10th (`low`) and 90th percentile."""

    x: Float64
    mean: Float64
    median: Float64
    low: Float64
    high: Float64


@dataclass(frozen=True)
class Dynamics:
    """Results of one run by itself. `slope` is the change of output entropy over the answer,
    `attention_shift` the shift (late - early) of attention entropy."""

    label: str
    questions: int
    tokens: int
    stop_reasons: dict[str, int]
    lines: tuple[MetricLine, ...]
    slope: Interval
    attention_shift: Interval
    model_class: DynamicsClass


def describe(run: Run, delta: float = DELTA) -> Dynamics:
    """Means, shift, slope and class of a run from its answers table."""
    answers = run.answers()
    tokens = numbers(answers, "tokens")
    lines = []
    for metric in recorded(SCALARS, answers.column_names, column=summary_column):
        means, sds = numbers(answers, f"{metric}_mean"), numbers(answers, f"{metric}_sd")
        rows = tokens - BY_NAME[metric].first_row
        lines.append(
            MetricLine(metric, bootstrap(means), bootstrap(means, rows), pooled_sd(means, sds, rows))
        )
    return Dynamics(
        label=run.manifest.label,
        questions=answers.num_rows,
        tokens=int(tokens.sum()),
        stop_reasons=dict(Counter(answers.column("stop_reason").to_pylist())),
        lines=tuple(lines),
        slope=bootstrap(numbers(answers, "output_entropy_slope")),
        attention_shift=bootstrap(numbers(answers, "attention_entropy_shift")),
        model_class=classify(numbers(answers, "output_entropy_shift"), delta),
    )


def recorded(
    names: Iterable[str], *tables: Collection[str], column: Callable[[str], str]
) -> tuple[str, ...]:
    """Names of the metrics that all the tables hold, which are given by their columns; `column` names a
    metric's column.

    A metric that is newer than a run is left out. One that all versions record stays, so that reading its
    column fails if it is not there.
    """
    return tuple(
        name
        for name in names
        if not BY_NAME[name].since or all(column(name) in columns for columns in tables)
    )


def summary_column(metric: str) -> str:
    """Column of `answers` that every summarised metric has."""
    return f"{metric}_mean"


def recorded_series(run: Run, names: Iterable[str]) -> list[str]:
    """Those of the metrics that a run has as one number a token."""
    known = recorded(names, run.columns("steps"), column=SERIES.__getitem__)
    return [name for name in known if run.manifest.artifact.tapped or not BY_NAME[name].is_tapped]


def numbers(table: pa.Table, column: str) -> Float64:
    """A numeric column as float64, null as NaN. Raises UserError if the table has no such column.

    Answers under SHORTEST tokens have no early or late part and no shift: earlier versions wrote numbers
    there, which are NaN here.
    """
    values: Float64 = column_of(table, column).to_numpy(zero_copy_only=False).astype(np.float64)
    if column.rpartition("_")[2] in WINDOWED:
        values = np.where(numbers(table, "tokens") < SHORTEST, np.nan, values)
    return values


def column_of(table: pa.Table, column: str) -> pa.ChunkedArray:
    """A column of a table. Raises UserError if there is none: the run is of another version, or was
    edited."""
    if column not in table.column_names:
        raise UserError(
            f"the run's table lacks the column {column}: trace it again with this version of Edgetrace"
        )
    return table.column(column)


def pooled_sd(means: Float64, sds: Float64, counts: Float64) -> float:
    """Population SD over all tokens from each answer's mean and SD (variance within plus variance
    between)."""
    known = ~np.isnan(means) & (counts > 0)
    means, sds, counts = means[known], sds[known], counts[known]
    if means.size == 0:
        return float("nan")
    weights = counts / counts.sum()
    centre = np.dot(weights, means)
    return float(np.sqrt(np.dot(weights, sds**2 + (means - centre) ** 2)))


def mean_vectors(answers: pa.Table, vector: str, width: int) -> Float64:
    """Means over each answer's rows, [questions, width]; NaN for answers without rows."""
    cells = column_of(answers, mean_column(vector)).to_pylist()
    rows = [[np.nan] * width if cell is None else cell for cell in cells]
    return np.array(rows, np.float64).reshape(-1, width)


def width_of(vector: str, model: ModelSpec) -> int:
    """Number of values in one cell of a list column."""
    return BY_NAME[vector].shape.size(model)


def head_map(run: Run, vector: str = "attention_entropy") -> Float64:
    """Mean over questions of a by-head metric, [L, H]; NaN if no answer has it."""
    model = run.manifest.model
    return layer_means(run, vector).reshape(model.layers, model.heads)


def layer_means(run: Run, vector: str) -> Float64:
    """Mean over questions of a list column, [L], [L+1] or [L*H]; NaN if no answer has it."""
    answers = run.answers([mean_column(vector), "question_index"])
    return mean_rows(mean_vectors(answers, vector, width_of(vector, run.manifest.model)))


def curves(run: Run, bins: int = CURVE_BINS) -> dict[str, Curve]:
    """Curves along the answer of the metrics that the report draws so, by name. Layers are averaged. Empty
    if nothing was traced.

    Each answer is cut into `bins` equal parts of its length. Token t of N covers [t/N, (t+1)/N), so that an
    answer with fewer tokens than bins fills every bin. The steps, a run's largest table, are read once.
    """
    names = recorded_series(run, shown_in(Shown.CURVE))
    trajectories: dict[str, list[Float64]] = {}
    for _, table in run.each_question(step_columns(names)):
        for metric, values in step_series(table, run.manifest.model, names).items():
            # A run whose taps were lost has rows without them.
            if values.size and not np.isnan(values).any():
                trajectories.setdefault(metric, []).append(trajectory(values, bins))
    return {metric: over_questions(np.stack(rows)) for metric, rows in trajectories.items()}


def step_columns(names: Iterable[str]) -> list[str]:
    """Columns of `steps` that `step_series` needs for these metrics."""
    return list(dict.fromkeys(["position", *(SERIES[name] for name in names)]))


def step_series(table: pa.Table, model: ModelSpec, names: Iterable[str]) -> dict[str, Float64]:
    """One answer's metrics as one number for each token, [N] each. A list is averaged over layers; a row
    without one is NaN."""
    columns = {SERIES[name]: table.column(SERIES[name]) for name in names}
    layers = {name: column for name, column in columns.items() if pa.types.is_list(column.type)}
    filled = {name: rows_of(column) for name, column in layers.items()}
    series = {}
    for name in names:
        source = SERIES[name]
        if name == "attention_entropy_normalised":
            positions = table.column("position").to_numpy()
            series[name] = normalised(filled[source], positions, model).mean(axis=1)
        else:
            series[name] = filled[source].mean(axis=1) if source in filled else numbers(table, source)
    return series


def normalised(entropy: Float64, positions: npt.NDArray[np.int32], model: ModelSpec) -> Float64:
    """Attention entropy / ln K of each row and layer [N, L], 0 where K = 1."""
    windows = np.array([window or np.iinfo(np.int32).max for window in model.windows])
    bound = np.log(np.minimum(positions[:, None].astype(np.int64) + 1, windows))
    if entropy.shape[1] != bound.shape[1]:
        return entropy  # no row has it
    zeros = np.where(np.isnan(entropy), np.nan, 0.0)
    shares: Float64 = np.divide(entropy, bound, out=zeros, where=bound > 0)
    return shares


def rows_of(column: pa.ChunkedArray) -> Float64:
    """List cells of one width as [rows, width], a null cell as a row of NaN. One column of NaN if all are
    null."""
    known = matrix(column)
    if len(known) == len(column):
        return known if known.size else np.empty((0, 1))
    rows = np.full((len(column), known.shape[1] or 1), np.nan)
    if known.size:
        rows[column.is_valid().to_numpy()] = known
    return rows


def over_questions(trajectories: Float64) -> Curve:
    """Statistics over questions of trajectories [questions, bins]."""
    low, median, high = np.percentile(trajectories, (10, 50, 90), axis=0)
    bins = trajectories.shape[1]
    return Curve((np.arange(bins) + 0.5) / bins, trajectories.mean(axis=0), median, low, high)


def matrix(column: pa.ChunkedArray) -> Float64:
    """List cells of one width as [rows, width], without null cells (the first row of a change between
    tokens)."""
    kept = column.drop_null().combine_chunks()
    if len(kept) == 0:
        return np.empty((0, 0))
    values: Float64 = kept.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    return values.reshape(len(kept), -1)


def trajectory(values: Float64, bins: int) -> Float64:
    """Means of a step function with N equal pieces over `bins` equal intervals of [0, 1], [bins]."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    edges = np.linspace(0, values.size, bins + 1)
    means: Float64 = np.diff(np.interp(edges, np.arange(values.size + 1), total)) * bins / values.size
    return means
