"""Figures by layer and head: maps of attention entropy, and the change of each layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge.analysis.intervals import Float64
from edge.analysis.layers import LayerChange
from edge.report.model import Comparison, ModelGroup, relative_to
from edge.report.plots import (
    DIVERGING,
    SEQUENTIAL,
    SIGNIFICANT,
    Figure,
    Panel,
    Values,
    Variant,
    axis,
    colour_of,
    dash_of,
    escaped,
    one_variant,
    rounded,
    symbol_of,
)
from edge.signals.groups import BY_NAME, shown_in
from edge.signals.metric import Metric, Shown


def head_maps(group: ModelGroup) -> Figure | None:
    """Maps of each head's attention entropy: the reference, then each other run and its change."""
    full = group.reference.heads
    if full is None:
        return None
    maps = [
        (c.quantised.name, c.quantised.heads, c.divergence.heads[0].mean)
        for c in group.comparisons
        if c.quantised.heads is not None and c.divergence.heads
    ]
    # One scale for all runs of the group, so that maps can be compared when the reader switches runs.
    entropies = np.concatenate([full.ravel(), *(heads.ravel() for _, heads, _ in maps)])
    low, high = (value or 0.0 for value in rounded((np.nanmin(entropies), np.nanmax(entropies))))
    largest = max([float(np.nanmax(np.abs(change))) for *_, change in maps], default=0.0) or 1.0
    largest = float(f"{largest:.{SIGNIFICANT}g}")
    reference = Panel(group.reference.name, *heat(full, low, high, SEQUENTIAL, "nat"))
    variants = [
        Variant(
            name,
            [
                reference,
                Panel(name, *heat(heads, low, high, SEQUENTIAL, "nat")),
                Panel("Difference", *heat(change, -largest, largest, DIVERGING, "nat")),
            ],
        )
        for name, heads, change in maps
    ]
    caption = "Attention entropy of every head in every layer, mean over questions."
    if variants:
        caption += (
            " Both runs share one colour scale; the difference (quantised − full) is red where attention "
            "spreads more, blue where it narrows. "
            "Free-running answers differ in their tokens too, forced ones do not."
        )
    return Figure(
        "heads",
        "Attention entropy by layer and head",
        caption,
        variants or [Variant("", [reference])],
        "Set beside it",
    )


def heat(values: Float64, low: float, high: float, scale: Any, unit: str) -> tuple[list[Values], Values]:
    """Traces and layout of a heat map of `values` [L, H], coloured from `low` to `high`."""
    layers, heads = values.shape
    trace = {
        "type": "heatmap",
        "z": [rounded(row) for row in values],
        "x0": 1,
        "dx": 1,
        "y0": 1,
        "dy": 1,
        "zmin": low,
        "zmax": high,
        "colorscale": scale,
        "hovertemplate": f"layer %{{y}}, head %{{x}}: %{{z:.3g}} {unit}<extra></extra>",
        "colorbar": {"title": {"text": unit}, "thickness": 10, "len": 1},
        "xgap": 1,
        "ygap": 1,
    }
    layout = {
        "xaxis": axis("head", dtick=max(1, heads // 8), tick0=1, showgrid=False),
        "yaxis": axis("layer", dtick=max(1, layers // 8), tick0=1, showgrid=False),
    }
    return [trace], layout


def by_layer(group: ModelGroup) -> Figure | None:
    """The change of each by-layer metric in each layer, a panel for each metric."""
    panels = [layer_panel(group, BY_NAME[name]) for name in shown_in(Shown.LAYERS)]
    caption = (
        "Change (quantised − full) in each layer, mean over questions with its 95% interval; "
        "one that leaves out 0 is a change beyond chance. Layer 0 of the hidden state is the embedding."
    )
    return one_variant("layers", "Change by layer", caption, panels)


def layer_panel(group: ModelGroup, metric: Metric) -> Panel | None:
    """The change of one metric by layer, in nats.

    A length, which means little by itself, changes in percent of the full value.
    """
    full = group.reference.layers.get(metric.name)
    if full is None:
        return None
    traces = []
    for i, comparison in enumerate(group.comparisons, start=1):
        changes = (change for change in comparison.divergence.layers if change.metric == metric.name)
        change = next(changes, None)
        if change is not None:
            traces.append(layer_trace(i, comparison, metric, change, full))
    if not traces:
        return None
    depth = len(traces[0]["x"])
    unit = "nat" if metric.unit == "nat" else "%"
    layout = {
        "xaxis": axis("layer", dtick=max(1, depth // 8)),
        "yaxis": axis(f"change ({unit})", zeroline=True),
    }
    return Panel(metric.title, traces, layout)


def layer_trace(
    index: int, comparison: Comparison, metric: Metric, change: LayerChange, full: Float64
) -> Values:
    """One run's change by layer with its interval; `full` [L] are the reference's values."""
    mean, low, high, unit = change.mean, change.low, change.high, "nat"
    if metric.unit != "nat":
        mean, low, high = (100 * relative_to(full, values) for values in (mean, low, high))
        unit = "%"
    layers = np.arange(len(mean)) + metric.first_layer
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escaped(comparison.quantised.name),
        "meta": [index, False],
        "x": layers.tolist(),
        "y": rounded(mean),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": rounded(high - mean),
            "arrayminus": rounded(mean - low),
            "thickness": 1.5,
            "width": 4,
        },
        "line": {"color": colour_of(index), "width": 1, "dash": dash_of(index)},
        "marker": {"size": 7, "symbol": symbol_of(index)},
        "hovertemplate": f"layer %{{x}}: %{{y:.3g}} {unit}",
    }
