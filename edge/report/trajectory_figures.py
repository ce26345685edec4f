"""Figures of metrics along the answer."""

from __future__ import annotations

import numpy as np

from edge.analysis.dynamics import Curve
from edge.report.model import ATTENTION, DISPERSION, NORMALISED, OUTPUT, ModelGroup, RunData
from edge.report.plots import (
    Figure,
    Panel,
    Values,
    axis,
    colour_of,
    dash_of,
    escaped,
    one_variant,
    place_axis,
    rounded,
)
from edge.signals.groups import BY_NAME, shown_in
from edge.signals.metric import Shown

BAND = "Lines are means over questions, bands run from the 10th to the 90th percentile of questions."


def along_answer(group: ModelGroup) -> Figure | None:
    """Output entropy along the answer, a line and a band for each run."""
    caption = (
        "How unsure the model is of its next token from the first (0) to the last (1) token of an answer. "
        f"{BAND} A forced run reads the reference's tokens."
    )
    panel = curve_panel(group, OUTPUT, "Output entropy", "output entropy (nat)")
    return one_variant("entropy", "Output entropy along the answer", caption, [panel], hides=True)


def attention_along_answer(group: ModelGroup) -> Figure | None:
    """Attention entropy along the answer, in nats and as a share of its bound ln K."""
    caption = (
        f"How widely attention spreads, mean over layers and heads. {BAND} "
        "The raw value may rise with the context alone, "
        "for its bound is ln K with K visible keys; the second plot divides by that bound."
    )
    panels = [
        curve_panel(group, ATTENTION, "Raw", "attention entropy (nat)"),
        curve_panel(group, NORMALISED, "Divided by ln K", "share of the bound"),
    ]
    return one_variant("attention", "Attention entropy along the answer", caption, panels, hides=True)


def dispersion_along_answer(group: ModelGroup) -> Figure | None:
    """Head dispersion along the answer."""
    caption = (
        "How far the heads of a layer differ (standard deviation of their attention entropies), "
        f"mean over layers. {BAND}"
    )
    panel = curve_panel(group, DISPERSION, "Head dispersion", "head dispersion (nat)")
    return one_variant("dispersion", "Head dispersion along the answer", caption, [panel], hides=True)


def others_along_answer(group: ModelGroup) -> list[Figure | None]:
    """A figure for each further metric that the table of metrics shows along the answer."""
    figures = []
    for name in shown_in(Shown.CURVE):
        if name not in (OUTPUT, ATTENTION, NORMALISED, DISPERSION):
            metric = BY_NAME[name]
            caption = f"{metric.title}: {metric.definition}. {BAND}"
            panel = curve_panel(group, name, metric.title, f"{metric.title.lower()} ({metric.unit})")
            title = f"{metric.title} along the answer"
            figures.append(one_variant(name, title, caption, [panel], hides=True))
    return figures


def curve_panel(group: ModelGroup, metric: str, title: str, unit: str) -> Panel | None:
    """One metric along the answer, bands below lines; None where no run has it."""
    traces = [
        trace
        for i, data in enumerate(group.runs)
        if metric in data.curves
        for trace in curve_traces(i, data, data.curves[metric])
    ]
    if not traces:
        return None
    layout = {
        "xaxis": place_axis(),
        "yaxis": axis(unit, **({"rangemode": "tozero"} if metric == OUTPUT else {})),
    }
    return Panel(title, sorted(traces, key=lambda trace: not trace["meta"][1]), layout)


def curve_traces(index: int, data: RunData, curve: Curve) -> list[Values]:
    """One run's band (10th to 90th percentile over questions) and mean line."""
    colour, name = colour_of(index), escaped(data.name)
    band = {
        "x": rounded(np.concatenate([curve.x, curve.x[::-1]])),
        "y": rounded(np.concatenate([curve.high, curve.low[::-1]])),
        "fill": "toself",
        "fillcolor": colour + "26",
        "mode": "none",
        "type": "scatter",
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": [index, True],
        "name": name,
    }
    line = {
        "x": rounded(curve.x),
        "y": rounded(curve.mean),
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "line": {"color": colour, "width": 2.5, "dash": dash_of(index)},
        "meta": [index, False],
        "hovertemplate": "%{y:.3g} nat at t/N = %{x:.2f}",
    }
    return [band, line]
