"""Metrics of the table chosen by what its rows say."""

from __future__ import annotations

from collections.abc import Callable

from edge.signals.metric import Kind, Level, Metric, Range, Shape, Shown, Source
from edge.signals.metrics import METRICS

BY_NAME = {metric.name: metric for metric in METRICS}


def names(wanted: Callable[[Metric], bool]) -> tuple[str, ...]:
    """Names of the metrics for which `wanted` holds, in the order of the table."""
    return tuple(metric.name for metric in METRICS if wanted(metric))


def shown_in(place: Shown) -> tuple[str, ...]:
    """Names of the metrics that a table or figure shows."""
    return names(lambda metric: place in metric.shown)


def measured(source: Source) -> tuple[Metric, ...]:
    """What one pass gives from attention or hidden states, in the order of the signals' fields and of C."""
    return tuple(
        metric
        for metric in METRICS
        if metric.source == source and metric.level == Level.TOKEN and metric.kind == Kind.EVERY
    )


def column_range(column: str) -> Range:
    """The range of METRIC_STATISTIC, a column of `answers`."""
    name = max((name for name in BY_NAME if column.startswith(f"{name}_")), key=len)
    return BY_NAME[name].range_of(column.removeprefix(f"{name}_"))


# What every answer has a summary of: one number a token.
SCALARS = names(lambda metric: metric.is_summarised and metric.kind == Kind.EVERY)
# The list columns of every run.
VECTORS = names(lambda m: m.is_list and m.level == Level.TOKEN and m.kind == Kind.EVERY)
BY_HEAD = names(lambda m: m.name in VECTORS and m.shape == Shape.HEADS)
BY_LAYER = names(lambda m: m.name in VECTORS and m.shape != Shape.HEADS)
# Metrics of `steps` that are one number a token: the column that they come from.
SERIES = {metric.name: metric.series_column for metric in METRICS if metric.series_column}
