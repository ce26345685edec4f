"""The columns of a run directory's tables, for writer and reader, from the table of metrics."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from edge.signals.metric import Kind, Level, Metric
from edge.signals.metrics import METRICS
from edge.signals.streaming import SeriesSummary

FLOAT = pa.float32()
TYPES = {"float32": FLOAT, "int32": pa.int32(), "bool": pa.bool_()}

STEP = [
    pa.field("question_index", pa.int32()),
    pa.field("question_id", pa.string()),
    pa.field("step", pa.int32()),
    pa.field("phase", pa.string()),
    pa.field("position", pa.int32()),
    pa.field("token_id", pa.int32()),
    pa.field("token", pa.string()),
]
STEP_TIME = pa.field("step_ms", FLOAT)
ANSWER = [
    pa.field("question_index", pa.int32()),
    pa.field("question_id", pa.string()),
    pa.field("question", pa.string()),
    pa.field("category", pa.string()),
    pa.field("prompt_ids", pa.list_(pa.int32())),
    pa.field("prompt_text", pa.string()),
    pa.field("answer", pa.string()),
    pa.field("tokens", pa.int32()),
    pa.field("stop_reason", pa.string()),
    pa.field("note", pa.string()),
    pa.field("kv_bytes", pa.int64()),
    pa.field("prefill_ms", FLOAT),
    pa.field("decode_ms", FLOAT),
]


def storable(text: str) -> str:
    """The text with U+FFFD for each half character (surrogate), which Parquet cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def metrics_of(*, reference: bool = False, forced: bool = False, exact: bool = False) -> tuple[Metric, ...]:
    """The metrics of a run: those of every run, and those of a reference, a forced or an exact one."""
    kinds = {Kind.EVERY: True, Kind.REFERENCE: reference, Kind.FORCED: forced, Kind.EXACT: exact}
    return tuple(metric for metric in METRICS if kinds[metric.kind])


def token_metrics(metrics: Iterable[Metric]) -> list[Metric]:
    """The metrics that have a column of `steps`."""
    return [metric for metric in metrics if metric.level == Level.TOKEN]


def mean_column(vector: str) -> str:
    """Name of the answers column that holds a vector's mean over the answer's rows."""
    return f"{vector}_mean_vector"


def column(metric: Metric) -> pa.Field:
    """A metric's column: of `steps`, or of `answers` for a metric of a whole answer."""
    kind = TYPES[metric.dtype]
    return pa.field(metric.name, pa.list_(kind) if metric.is_list else kind)


def steps_schema(*, reference: bool, forced: bool, exact: bool = False) -> pa.Schema:
    """Columns of `steps`: those of every run, then those of its kind."""
    metrics = token_metrics(metrics_of(reference=reference, forced=forced, exact=exact))
    every = [column(metric) for metric in metrics if metric.kind == Kind.EVERY]
    own = [column(metric) for metric in metrics if metric.kind != Kind.EVERY]
    return pa.schema([*STEP, *every, STEP_TIME, *own])


def summarised(*, forced: bool) -> tuple[str, ...]:
    """Names of the metrics that every answer has a summary of."""
    return tuple(metric.name for metric in metrics_of(forced=forced) if metric.is_summarised)


def has_mean_vector(metric: Metric) -> bool:
    """Whether `answers` holds the mean of a metric's vectors; a reference's kept tokens have no mean."""
    return metric.is_list and metric.level == Level.TOKEN and metric.kind != Kind.REFERENCE


def answers_schema(*, forced: bool, exact: bool = False) -> pa.Schema:
    """Columns of `answers`: METRIC_STATISTIC for each summary, METRIC_mean_vector for each vector."""
    metrics = metrics_of(forced=forced, exact=exact)
    summaries = [
        pa.field(f"{name}_{part}", FLOAT)
        for name in summarised(forced=forced)
        for part in SeriesSummary._fields
    ]
    means = [pa.field(mean_column(m.name), pa.list_(FLOAT)) for m in metrics if has_mean_vector(m)]
    whole = [column(m) for m in metrics if m.level == Level.ANSWER and not m.is_summarised]
    return pa.schema([*ANSWER, *summaries, *means, *whole])
