"""Models x precisions: what quantisation changes, one measure a table, in a stronger colour where it changes
more."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge.analysis.intervals import UNDEFINED
from edge.report.formatting import ABSENT, interval, kl_text, percent
from edge.report.model import ModelGroup, bits_rank
from edge.report.overview import PrecisionPair, pairs
from edge.signals.metric import Shown
from edge.signals.metrics import BY_NAME, shown_in

STEPS = 10  # shades beside none at all


class Cell(NamedTuple):
    """`shade` is 0 (as full precision) to STEPS."""

    text: str
    shade: int = 0


class Matrix(NamedTuple):
    """A row for each model, a column for each precision of any; an en dash where a model has no such run."""

    caption: str
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]


def matrices(groups: Sequence[ModelGroup]) -> list[Matrix]:
    """Where at least two models have something to compare; one model's card says the same in fewer words."""
    compared = [group for group in groups if group.comparisons]
    if len(compared) < 2:
        return []
    rank = {
        c.quantised.run.manifest.precision: bits_rank(c.quantised.run)
        for group in compared
        for c in group.comparisons
    }
    names = sorted(rank, key=lambda name: rank[name])
    found = [(group, {pair.name: pair for pair in pairs(group)}) for group in compared]
    made = []
    for caption, cell in MEASURES.items():
        rows = [
            (g.model_id, [cell(g, by[name]) if name in by else Cell(ABSENT) for name in names])
            for g, by in found
        ]
        if any(each.text != ABSENT for _, cells in rows for each in cells):
            made.append(Matrix(caption, names, rows))
    return made


def shade(value: float, least: float, most: float) -> int:
    """On a logarithmic scale: 0 at `least` and below, STEPS at `most` and above."""
    if not value > least:
        return 0
    return min(STEPS, max(1, round(STEPS * math.log(value / least) / math.log(most / least))))


def kl(group: ModelGroup, pair: PrecisionPair) -> Cell:
    if (
        pair.forced is None
        or pair.forced.divergence.forced is None
        or pair.forced.divergence.forced.kl is None
    ):
        return Cell(ABSENT)
    return Cell(kl_text(pair.forced.divergence), shade(pair.forced.divergence.forced.kl.mean, 1e-5, 1.0))


def identical(group: ModelGroup, pair: PrecisionPair) -> Cell:
    if pair.free is None or pair.free.divergence.free is None:
        return Cell(ABSENT)
    same = pair.free.divergence.free.identical
    return Cell(percent(same), round(STEPS * (1.0 - same.value)) if math.isfinite(same.value) else 0)


def change(metric: str) -> Callable[[ModelGroup, PrecisionPair], Cell]:
    def cell(group: ModelGroup, pair: PrecisionPair) -> Cell:
        if pair.comparison is None:
            return Cell(ABSENT)
        found = next((c.change for c in pair.comparison.divergence.changes if c.metric == metric), UNDEFINED)
        sure = found.low > 0.0 or found.high < 0.0  # no colour for what may be chance
        return Cell(interval(found, signed=True), shade(abs(found.value), 1e-4, 1.0) if sure else 0)

    return cell


def model_class(group: ModelGroup, pair: PrecisionPair) -> Cell:
    """Of the precision's own answers: forced tokens are another model's."""
    if pair.free is None:
        return Cell(ABSENT)
    full, quantised = (
        group.reference.dynamics.model_class.label,
        pair.free.quantised.dynamics.model_class.label,
    )
    return Cell(quantised) if full == quantised else Cell(f"{quantised} (was {full})", STEPS // 2)


MEASURES: dict[str, Callable[[ModelGroup, PrecisionPair], Cell]] = {
    "KL(full ‖ quantised), nat a token ± standard error": kl,
    "Answers that stay the same": identical,
    **{
        f"Change of {BY_NAME[name].title.lower()}, {BY_NAME[name].unit}": change(name)
        for name in shown_in(Shown.MATRIX)
    },
    "Class": model_class,
}
