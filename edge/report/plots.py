"""Plots as plain plotly.js values: panels, their colours and axes. Built by hand, not by plotly's Python
classes, which add a template of 8 kB to each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from edge.report.model import RunData

Values = dict[str, Any]  # what plotly.js takes: JSON by nature, typed by its own schema
SIGNIFICANT = 4
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#8c6d1f",
    "#56b4e9",
)  # Okabe and Ito, told apart by the colour-blind
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
    """`caption` says in a sentence what is shown; `choice` labels the select, where there is more than one
    variant; `hides` starts without forced runs whose free ones are drawn too: on the reference's tokens they
    hide it."""

    name: str
    title: str
    caption: str
    variants: list[Variant]
    choice: str = ""
    hides: bool = False

    def to_json(self) -> list[Values]:
        return [{"name": v.name, "panels": [panel._asdict() for panel in v.panels]} for v in self.variants]


def label(data: RunData) -> str:
    """A run's name for plotly, which reads names as a small HTML of its own."""
    return data.name.replace("&", "&amp;").replace("<", "&lt;")


def rounded(values: Iterable[float]) -> list[float | None]:
    """To four significant digits; None where not finite (plotly leaves a gap)."""
    return [float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None for value in values]


def axis(title: str, **more: Any) -> Values:
    return {"title": {"text": title}, "automargin": True, **more}


def one_variant(
    name: str, title: str, caption: str, panels: Sequence[Panel | None], *, hides: bool = False
) -> Figure | None:
    drawn = [panel for panel in panels if panel is not None]
    return Figure(name, title, caption, [Variant("", drawn)], hides=hides) if drawn else None
