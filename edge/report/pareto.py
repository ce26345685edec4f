"""Damage against what an artifact costs: mean KL against size, memory and speed, with the artifacts that no
other one beats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge.analysis.artifacts import Cost, Damage, lines_of
from edge.report.model import ModelGroup
from edge.report.plots import COLOURS, SYMBOLS, Figure, Panel, Values, Variant, axis, rounded

CAPTION = (
    "Each mark is an artifact: down is less damage, and what lies on the dotted line is beaten by no other "
    "in both. KL is that "
    "of runs on the reference’s tokens, a lower bound unless they were made with --exact; bars are its "
    "standard error. Memory "
    "and speed are those of its run alone, or of the forced one."
)


class Axis(NamedTuple):
    """One thing that an artifact costs; `larger` where more of it is better."""

    name: str
    title: str
    value: Callable[[Cost], float | None]
    larger: bool = False


def megabytes(size: int | None) -> float | None:
    return None if size is None else size / 1e6


AXES = (
    Axis("size", "size of the files (MB)", lambda cost: megabytes(cost.bytes)),
    Axis("memory", "resident memory (MB)", lambda cost: megabytes(cost.rss_bytes)),
    Axis("speed", "decoded tokens a second", lambda cost: cost.tokens_per_second, larger=True),
)


class Point(NamedTuple):
    """`run` is the index of the artifact's forced run in the group."""

    run: int
    name: str
    x: float
    damage: Damage


def pareto_figures(group: ModelGroup) -> list[Figure]:
    """The figure, where at least two artifacts have a KL above 0 (a logarithmic axis has no place for 0)."""
    variants = [
        Variant(each.name, [panel(each, points)])
        for each in AXES
        if len(points := points_of(group, each)) > 1
    ]
    return [Figure("pareto", "Damage against cost", CAPTION, variants, "Cost")] if variants else []


def points_of(group: ModelGroup, along: Axis) -> list[Point]:
    pairs = [(c.quantised.run, c.divergence) for c in group.comparisons]
    forced = {str(data.run.folder): i for i, data in enumerate(group.runs) if data.forced}
    made = []
    for line in lines_of(pairs):
        x, harm = along.value(line.cost), line.damage
        if x is not None and harm is not None and harm.kl > 0.0:
            made.append(
                Point(
                    next(forced[folder] for folder in line.folders if folder in forced),
                    line.precision,
                    x,
                    harm,
                )
            )
    return made


def front(points: Sequence[tuple[float, float]], *, larger: bool) -> list[int]:
    """Indices of the pairs (cost, damage) that no other beats in one without losing in the other, by cost.
    Less of both is better; `larger`: more of the first is."""
    signed = [(-x if larger else x, y) for x, y in points]
    best = [
        i
        for i, (x, y) in enumerate(signed)
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in signed)
    ]
    return sorted(best, key=lambda i: points[i][0])


def panel(along: Axis, points: Sequence[Point]) -> Panel:
    edge = [points[i] for i in front([(p.x, p.damage.kl) for p in points], larger=along.larger)]
    line: Values = {
        "type": "scatter",
        "mode": "lines",
        "name": "beaten by none",
        "x": rounded(p.x for p in edge),
        "y": rounded(p.damage.kl for p in edge),
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
    name, bound = (
        point.name.replace("&", "&amp;").replace("<", "&lt;"),
        "" if point.damage.exact else "at least ",
    )
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
            "symbol": SYMBOLS[point.run % len(SYMBOLS)],
            "color": COLOURS[point.run % len(COLOURS)],
        },
        "hovertemplate": f"%{{x:.4g}}, KL {bound}%{{y:.3g}} nat<extra>{name}</extra>",
    }
