"""Comparison of a quantised run with a full-precision run, from their directories.

A forced run (`edge force --like FULL`) is compared position by position. A free-running run is compared by
its answers and the first position where they differ. In both cases each metric's change is paired by
question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.classes import DELTA, DynamicsClass, classify, same_class
from edge.analysis.dynamics import numbers, recorded, summary_column
from edge.analysis.forced import ForcedPart, forced_part
from edge.analysis.free import FreePart, free_part
from edge.analysis.intervals import Interval, bootstrap_each
from edge.analysis.layers import HeadChange, LayerChange, head_change, layer_change, tapped, token_statistics
from edge.analysis.pairs import check_pair, paired_answers
from edge.analysis.plain import plain
from edge.analysis.truth_change import TruthChange, truth_change
from edge.runs.columns import mean_column
from edge.runs.run_directory import Run
from edge.signals.groups import BY_HEAD, BY_LAYER, SCALARS
from edge.signals.metrics import METRICS
from edge.signals.streaming import SeriesSummary

TRAJECTORY = tuple(f"{metric.name}_{part}" for metric in METRICS for part in metric.summaries)


class MetricChange(NamedTuple):
    """Mean over questions of a metric in both runs, and of its paired change (quantised - full)."""

    metric: str
    full: Interval
    quantised: Interval
    change: Interval


@dataclass(frozen=True)
class Divergence:
    """What quantisation (or any other change of an artifact) did, from two runs over the same questions.

    `changes` are of each metric's mean over the answer, `summaries` of every other summary (METRIC_SUMMARY).
    `truth` is None if the answers were not judged.
    """

    full: str
    quantised: str
    notice: str
    questions: int
    same_checkpoint: bool
    forced: ForcedPart | None
    free: FreePart | None
    changes: tuple[MetricChange, ...]
    summaries: tuple[MetricChange, ...]
    layers: tuple[LayerChange, ...]
    heads: tuple[HeadChange, ...]
    full_class: DynamicsClass
    quantised_class: DynamicsClass
    truth: TruthChange | None

    @property
    def same_class(self) -> bool | None:
        """Whether both runs have the same class; None if either has too few answers for one."""
        return same_class(self.full_class, self.quantised_class)

    @property
    def trajectory(self) -> tuple[MetricChange, ...]:
        """Changes of the summaries that describe the answer's trajectory: slope, early and late part,
        shift."""
        return tuple(change for change in self.summaries if change.metric in TRAJECTORY)

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; NaN becomes None."""
        value: dict[str, Any] = plain(asdict(self))
        return value | {"same_class": self.same_class}


def compare(full: Run, quantised: Run, delta: float = DELTA, *, outcomes: bool = True) -> Divergence:
    """Compare two runs. With `outcomes`, judge the metrics by the runs' outcomes too, if there are any,
    which takes seconds. Raises UserError if the runs have different questions, prompts or tokens."""
    check_pair(full, quantised)
    a, b = paired_answers(full, quantised)
    forced = forced_part(full, quantised, b) if quantised.manifest.kind == "force" else None
    both_tapped = tapped(full, quantised)
    scalars = recorded(SCALARS, a.column_names, b.column_names, column=summary_column)
    by_layer, by_head = (
        recorded(group, a.column_names, b.column_names, column=mean_column) for group in (BY_LAYER, BY_HEAD)
    )
    tokens = token_statistics(full, quantised, (*by_layer, *by_head)) if forced and both_tapped else {}
    changes = summary_changes([f"{metric}_mean" for metric in scalars], a, b)
    others = [part for part in SeriesSummary._fields if part != "mean"]
    return Divergence(
        full=full.manifest.label,
        quantised=quantised.manifest.label,
        notice=full.manifest.notice,
        questions=a.num_rows,
        same_checkpoint=full.manifest.same_checkpoint(quantised.manifest),
        forced=forced,
        free=None if forced else free_part(full, quantised, a),
        changes=tuple(
            change._replace(metric=metric) for change, metric in zip(changes, scalars, strict=True)
        ),
        summaries=summary_changes([f"{metric}_{part}" for metric in scalars for part in others], a, b),
        layers=tuple(layer_change(name, a, b, full, tokens) for name in by_layer) if both_tapped else (),
        heads=tuple(head_change(name, a, b, full, tokens) for name in by_head) if both_tapped else (),
        full_class=classify(numbers(a, "output_entropy_shift"), delta),
        quantised_class=classify(numbers(b, "output_entropy_shift"), delta),
        truth=truth_change(full, quantised) if outcomes else None,
    )


def summary_changes(columns: Sequence[str], a: pa.Table, b: pa.Table) -> tuple[MetricChange, ...]:
    """Changes of numeric columns of `answers`, one for each column."""
    one, other = (np.stack([numbers(table, name) for name in columns], axis=1) for table in (a, b))
    rows = zip(columns, *map(bootstrap_each, (one, other, other - one)), strict=True)
    return tuple(MetricChange(*row) for row in rows)
