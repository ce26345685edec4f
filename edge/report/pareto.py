"""The figure of damage against cost: mean KL against size, memory and speed, with the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge.analysis.artifacts import Cost, Damage, lines_of
from edge.report.model import ModelGroup
from edge.report.plots import Figure, Panel, Values, Variant, axis, colour_of, escaped, rounded, symbol_of

CAPTION = (
    "Each mark is an artifact: down is less damage, and what lies on the dotted line is beaten by no other "
    "in both. KL is that of runs on the reference’s tokens, "
    "a lower bound unless they were made with --exact; bars are its standard error. "
    "Memory and speed are those of its run alone, or of the forced one."
)


class Axis(NamedTuple):
    """One cost of an artifact; `larger` where more is better."""

    name: str
    title: str
    value: Callable[[Cost], float | None]
    larger: bool = False


def megabytes(size: int | None) -> float | None:
    """Bytes in units of a million."""
    return None if size is None else size / 1e6


AXES = (
    Axis("size", "size of the files (MB)", lambda cost: megabytes(cost.bytes)),
    Axis("memory", "resident memory (MB)", lambda cost: megabytes(cost.rss_bytes)),
    Axis("speed", "decoded tokens a second", lambda cost: cost.tokens_per_second, larger=True),
)


class Point(NamedTuple):
    """One artifact's mark; `run` is the index of its forced run in the group."""

    run: int
    name: str
    x: float
    damage: Damage


def pareto_figures(group: ModelGroup) -> list[Figure]:
    """The figure, where at least two artifacts have a KL above 0 (a logarithmic axis has no place for 0)."""
    variants = [
        Variant(cost.name, [panel(cost, points)])
        for cost in AXES
        if len(points := points_of(group, cost)) > 1
    ]
    return [Figure("pareto", "Damage against cost", CAPTION, variants, "Cost")] if variants else []


def points_of(group: ModelGroup, along: Axis) -> list[Point]:
    """The artifacts whose cost and damage are known."""
    pairs = [(c.quantised.run, c.divergence) for c in group.comparisons]
    forced = {str(data.run.folder): i for i, data in enumerate(group.runs) if data.forced}
    points = []
    for line in lines_of(pairs):
        x, damage = along.value(line.cost), line.damage
        if x is not None and damage is not None and damage.kl > 0.0:
            run = next(forced[folder] for folder in line.folders if folder in forced)
            points.append(Point(run, line.precision, x, damage))
    return points


def front(points: Sequence[tuple[float, float]], *, larger: bool) -> list[int]:
    """Indices of the Pareto front of pairs (cost, damage), by cost.

    No other pair is at least as good in both. Less of each is better; with `larger`, more of the cost is.
    """
    signed = [(-x if larger else x, y) for x, y in points]
    best = [
        i
        for i, (x, y) in enumerate(signed)
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in signed)
    ]
    return sorted(best, key=lambda i: points[i][0])


def panel(along: Axis, points: Sequence[Point]) -> Panel:
    """The plot of one cost: a mark for each artifact and the dotted line of the front."""
    best = [points[i] for i in front([(p.x, p.damage.kl) for p in points], larger=along.larger)]
    line: Values = {
        "type": "scatter",
        "mode": "lines",
        "name": "beaten by none",
        "x": rounded(point.x for point in best),
        "y": rounded(point.damage.kl for point in best),
        "line": {"color": "#808080", "dash": "dot", "width": 1.5},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    layout = {
        "xaxis": axis(along.title),
        "yaxis": axis("mean KL(full ‖ quantised), nat", type="log", exponentformat="power"),
    }
    return Panel("", [line, *map(mark, points)], layout)


def mark(point: Point) -> Values:
    """The trace of one artifact: its mark with the standard error of KL."""
    name = escaped(point.name)
    bound = "" if point.damage.exact else "at least "
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": name,
        "text": [name],
        "textposition": "top center",
        "x": rounded([point.x]),
        "y": rounded([point.damage.kl]),
        "showlegend": False,
        "cliponaxis": False,
        "error_y": {"type": "data", "array": rounded([point.damage.kl_error]), "thickness": 1.5, "width": 4},
        "marker": {
            "size": 11,
            "symbol": symbol_of(point.run),
            "color": colour_of(point.run),
        },
        "hovertemplate": f"%{{x:.4g}}, KL {bound}%{{y:.3g}} nat<extra>{name}</extra>",
    }
