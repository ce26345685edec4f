"""Plots as plain plotly.js values: panels, their colours and axes.

plotly's Python classes are not used: they would add a template of 8 kB to each figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from edge.analysis.tokens import MeanTrajectory

Values = dict[str, Any]  # what plotly.js takes: JSON by nature, typed by its own schema
SIGNIFICANT = 4
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d1f", "#56b4e9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
SEQUENTIAL = "Cividis"
DIVERGING = [[0.0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f7f7f7"], [0.75, "#f4a582"], [1.0, "#b2182b"]]


class Panel(NamedTuple):
    """One plot. A trace's `meta` is [index of its run in the group, whether it is a band]."""

    title: str
    data: list[Values]
    layout: Values


class Variant(NamedTuple):
    """The panels for one choice of the figure's select (one variant alone has none)."""

    name: str
    panels: list[Panel]


class Figure(NamedTuple):
    """A figure of the report.

    `caption` says in a sentence what the figure is. `choice` labels the select, where there is more than one
    variant. With `hides`, a forced run starts hidden where the free run of its precision is drawn too, since
    its line would cover the others.
    """

    name: str
    title: str
    caption: str
    variants: list[Variant]
    choice: str = ""
    hides: bool = False

    def to_json(self) -> list[Values]:
        """The variants as plain values."""
        return [{"name": v.name, "panels": [panel._asdict() for panel in v.panels]} for v in self.variants]


def colour_of(index: int) -> str:
    """The colour of the run with this index in its group."""
    return COLOURS[index % len(COLOURS)]


def dash_of(index: int) -> str:
    """The dash pattern of the run with this index in its group."""
    return DASHES[index % len(DASHES)]


def symbol_of(index: int) -> str:
    """The marker of the run with this index in its group."""
    return SYMBOLS[index % len(SYMBOLS)]


def escaped(name: str) -> str:
    """A name for plotly, which reads names as a small HTML of its own."""
    return name.replace("&", "&amp;").replace("<", "&lt;")


def rounded(values: Iterable[float]) -> list[float | None]:
    """Values to four significant digits; None where not finite (plotly leaves a gap)."""
    return [float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None for value in values]


def axis(title: str, **options: Any) -> Values:
    """An axis with its title; `options` are plotly's."""
    return {"title": {"text": title}, "automargin": True, **options}


def place_axis() -> Values:
    """The axis along an answer, from its first token (0) to its last (1)."""
    return axis("place in the answer, t/N", range=[0, 1])


def mean_traces(trajectory: MeanTrajectory, colour: str, name: str) -> list[Values]:
    """The interval of a mean along the answer as a band, and the mean as a line."""
    band = {
        "type": "scatter",
        "mode": "none",
        "x": rounded([*trajectory.x, *trajectory.x[::-1]]),
        "y": rounded([*trajectory.high, *trajectory.low[::-1]]),
        "fill": "toself",
        "fillcolor": colour + "26",
        "hoverinfo": "skip",
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": rounded(trajectory.x),
        "y": rounded(trajectory.mean),
        "name": name,
        "line": {"color": colour, "width": 2.5},
        "hovertemplate": "%{y:.3g} at t/N = %{x:.2f}",
    }
    return [band, line]


def one_variant(
    name: str, title: str, caption: str, panels: Sequence[Panel | None], *, hides: bool = False
) -> Figure | None:
    """A figure without a select, of the panels that are not None; None where there are none."""
    drawn = [panel for panel in panels if panel is not None]
    return Figure(name, title, caption, [Variant("", drawn)], hides=hides) if drawn else None
