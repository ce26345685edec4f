"""Tables of models by precisions: what quantisation changes, one measure in each table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge.analysis.classes import class_name, same_class
from edge.analysis.intervals import UNDEFINED
from edge.report.formatting import ABSENT, interval, kl_text, percent
from edge.report.model import ModelGroup, exactness
from edge.report.overview import PrecisionRuns, runs_by_precision
from edge.signals.groups import BY_NAME, shown_in
from edge.signals.metric import Shown

STEPS = 10  # shades beside none at all


class Cell(NamedTuple):
    """A cell's text and shade, from 0 (no change) to STEPS."""

    text: str
    shade: int = 0


class Matrix(NamedTuple):
    """A row for each model, a column for each precision; an en dash where a model has no such run."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


def matrices(groups: Sequence[ModelGroup]) -> list[Matrix]:
    """A table for each measure; none with fewer than two compared models, whose cards say the same."""
    compared = [group for group in groups if group.comparisons]
    if len(compared) < 2:
        return []
    rank = {
        c.quantised.run.manifest.precision: exactness(c.quantised.run)
        for group in compared
        for c in group.comparisons
    }
    names = sorted(rank, key=lambda name: rank[name])
    by_precision = [(group, {runs.name: runs for runs in runs_by_precision(group)}) for group in compared]
    tables = []
    for caption, measure in MEASURES.items():
        rows = [
            (group.model_id, [measure(group, by[name]) if name in by else Cell(ABSENT) for name in names])
            for group, by in by_precision
        ]
        if any(cell.text != ABSENT for _, cells in rows for cell in cells):
            tables.append(Matrix(caption, names, rows))
    return tables


def shade(value: float, least: float, most: float) -> int:
    """The shade of `value` on a logarithmic scale: 0 up to `least`, STEPS from `most` on."""
    if not value > least:
        return 0
    return min(STEPS, max(1, round(STEPS * math.log(value / least) / math.log(most / least))))


def kl(group: ModelGroup, runs: PrecisionRuns) -> Cell:
    """Mean KL of the forced run, in nats."""
    divergence = runs.forced.divergence if runs.forced is not None else None
    if divergence is None or divergence.forced is None or divergence.forced.kl is None:
        return Cell(ABSENT)
    return Cell(kl_text(divergence), shade(divergence.forced.kl.mean, 1e-5, 1.0))


def identical(group: ModelGroup, runs: PrecisionRuns) -> Cell:
    """The share of the free run's answers that are the reference's."""
    if runs.free is None or runs.free.divergence.free is None:
        return Cell(ABSENT)
    same = runs.free.divergence.free.identical
    return Cell(percent(same), round(STEPS * (1.0 - same.value)) if math.isfinite(same.value) else 0)


def change_cell(metric: str) -> Callable[[ModelGroup, PrecisionRuns], Cell]:
    """A function that makes the cell of a metric's change."""

    def cell(group: ModelGroup, runs: PrecisionRuns) -> Cell:
        if runs.comparison is None:
            return Cell(ABSENT)
        changes = (row.change for row in runs.comparison.divergence.changes if row.metric == metric)
        change = next(changes, UNDEFINED)
        beyond_chance = change.low > 0.0 or change.high < 0.0  # no colour for what may be chance
        colour = shade(abs(change.value), 1e-4, 1.0) if beyond_chance else 0
        return Cell(interval(change, signed=True), colour)

    return cell


def model_class(group: ModelGroup, runs: PrecisionRuns) -> Cell:
    """The class by the precision's own answers, for forced tokens are another model's."""
    if runs.free is None:
        return Cell(ABSENT)
    full = group.reference.dynamics.model_class
    quantised = runs.free.quantised.dynamics.model_class
    name = class_name(quantised.label, quantised.left_out)
    # No colour where either has too few answers: that is no change.
    return (
        Cell(name)
        if same_class(full, quantised) is not False
        else Cell(f"{name}, was {full.label}", STEPS // 2)
    )


MEASURES: dict[str, Callable[[ModelGroup, PrecisionRuns], Cell]] = {
    "KL(full ‖ quantised), nat a token ± standard error": kl,
    "Answers that stay the same": identical,
    **{
        f"Change of {BY_NAME[name].title.lower()}, {BY_NAME[name].unit}": change_cell(name)
        for name in shown_in(Shown.MATRIX)
    },
    "Class": model_class,
}
