"""Figures of a model's runs: along the answer, by layer and head, and distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edge.analysis.dynamics import Curve
from edge.analysis.intervals import Distribution, Float64
from edge.report.model import (
    ATTENTION,
    DISPERSION,
    NORMALISED,
    OUTPUT,
    Comparison,
    ModelGroup,
    RunData,
    relative_to,
)
from edge.report.plots import (
    COLOURS,
    DASHES,
    DIVERGING,
    SEQUENTIAL,
    SIGNIFICANT,
    SYMBOLS,
    Figure,
    Panel,
    Values,
    Variant,
    axis,
    label,
    one_variant,
    rounded,
)
from edge.signals.metric import Metric, Shown
from edge.signals.metrics import BY_NAME, shown_in

HISTOGRAM_BINS = 30
PERCENTILES = (
    ("min", "min"),
    ("p0_1", "0.1"),
    ("p1", "1"),
    ("p5", "5"),
    ("p10", "10"),
    ("p25", "25"),
    ("median", "50"),
    ("p75", "75"),
    ("p90", "90"),
    ("p95", "95"),
    ("p99", "99"),
    ("p99_9", "99.9"),
    ("max", "max"),
)


def figures(group: ModelGroup) -> list[Figure]:
    """All figures that the group's runs allow, in the order of the page."""
    made = [
        along_answer(group),
        attention_along_answer(group),
        dispersion_along_answer(group),
        head_maps(group),
        by_layer(group),
        kl_percentiles(group),
        shifts(group),
    ]
    return [figure for figure in made if figure is not None]


# Along the answer


def curve_traces(index: int, data: RunData, curve: Curve) -> list[Values]:
    """A band (10th to 90th percentile over questions) and a mean line of one run."""
    colour, name = COLOURS[index % len(COLOURS)], label(data)
    around = np.concatenate([curve.x, curve.x[::-1]])
    edge = np.concatenate([curve.high, curve.low[::-1]])
    band = {
        "x": rounded(around),
        "y": rounded(edge),
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
        "line": {"color": colour, "width": 2.5, "dash": DASHES[index % len(DASHES)]},
        "meta": [index, False],
        "hovertemplate": "%{y:.3g} nat at t/N = %{x:.2f}",
    }
    return [band, line]


def curve_panel(group: ModelGroup, metric: str, title: str, unit: str) -> Panel | None:
    traces = [
        trace
        for i, data in enumerate(group.runs)
        if metric in data.curves
        for trace in curve_traces(i, data, data.curves[metric])
    ]
    if not traces:
        return None
    layout = {
        "xaxis": axis("place in the answer, t/N", range=[0, 1]),
        "yaxis": axis(unit, **({"rangemode": "tozero"} if metric == OUTPUT else {})),
    }
    return Panel(title, sorted(traces, key=lambda trace: not trace["meta"][1]), layout)


BAND = "Lines are means over questions, bands run from the 10th to the 90th percentile of questions."


def along_answer(group: ModelGroup) -> Figure | None:
    caption = (
        f"How unsure the model is of its next token from the first (0) to the last (1) token of an answer. "
        f"{BAND} "
        "A forced run reads the reference's tokens."
    )
    panel = curve_panel(group, OUTPUT, "Output entropy", "output entropy (nat)")
    return one_variant("entropy", "Output entropy along the answer", caption, [panel], hides=True)


def attention_along_answer(group: ModelGroup) -> Figure | None:
    caption = (
        f"How widely attention spreads, mean over layers and heads. {BAND} The raw value may rise with the "
        f"context alone, "
        "for its bound is ln K with K visible keys; the second plot divides by that bound."
    )
    panels = [
        curve_panel(group, ATTENTION, "Raw", "attention entropy (nat)"),
        curve_panel(group, NORMALISED, "Divided by ln K", "share of the bound"),
    ]
    return one_variant("attention", "Attention entropy along the answer", caption, panels, hides=True)


def dispersion_along_answer(group: ModelGroup) -> Figure | None:
    caption = (
        "How far the heads of a layer differ (standard deviation of their attention entropies), "
        f"mean over layers. {BAND}"
    )
    panel = curve_panel(group, DISPERSION, "Head dispersion", "head dispersion (nat)")
    return one_variant("dispersion", "Head dispersion along the answer", caption, [panel], hides=True)


# Layers and heads


def heat(z: Float64, low: float, high: float, scale: Any, unit: str) -> tuple[list[Values], Values]:
    layers, heads = z.shape
    trace = {
        "type": "heatmap",
        "z": [rounded(row) for row in z],
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


def head_maps(group: ModelGroup) -> Figure | None:
    full = group.reference.heads
    if full is None:
        return None
    maps = [
        (c, c.quantised.heads, c.divergence.heads[0].mean)
        for c in group.comparisons
        if c.quantised.heads is not None and c.divergence.heads
    ]
    # One scale for all runs of the group, so that switching between them misleads nobody.
    everything = np.concatenate([full.ravel(), *(heads.ravel() for _, heads, _ in maps)])
    low, high = (value or 0.0 for value in rounded((np.nanmin(everything), np.nanmax(everything))))
    reach = max([float(np.nanmax(np.abs(difference))) for *_, difference in maps], default=0.0) or 1.0
    reach = float(f"{reach:.{SIGNIFICANT}g}")
    first = Panel(group.reference.name, *heat(full, low, high, SEQUENTIAL, "nat"))
    variants = [
        Variant(
            c.quantised.name,
            [
                first,
                Panel(c.quantised.name, *heat(heads, low, high, SEQUENTIAL, "nat")),
                Panel("Difference", *heat(difference, -reach, reach, DIVERGING, "nat")),
            ],
        )
        for c, heads, difference in maps
    ]
    caption = "Attention entropy of every head in every layer, mean over questions."
    if variants:
        caption += (
            " Both runs share one colour scale; the difference (quantised − full) is red where attention "
            "spreads more, "
            "blue where it narrows. Free-running answers differ in their tokens too, forced ones do not."
        )
    return Figure(
        "heads",
        "Attention entropy by layer and head",
        caption,
        variants or [Variant("", [first])],
        "Set beside it",
    )


def by_layer(group: ModelGroup) -> Figure | None:
    panels = [layer_panel(group, BY_NAME[name]) for name in shown_in(Shown.LAYERS)]
    caption = (
        "Change (quantised − full) in each layer, mean over questions with its 95% interval; one that "
        "leaves out 0 "
        "is a change beyond chance. Layer 0 of the hidden state is the embedding."
    )
    return one_variant("layers", "Change by layer", caption, panels)


def layer_panel(group: ModelGroup, metric: Metric) -> Panel | None:
    """In nats; as a share of the full value where the metric is a length, which means little by itself."""
    traces, relative = [], metric.unit != "nat"
    for i, c in enumerate(group.comparisons, start=1):
        change = next((change for change in c.divergence.layers if change.metric == metric.name), None)
        if change is None or metric.name not in group.reference.layers:
            continue
        mean, low, high = change.mean, change.low, change.high
        if relative:
            full = group.reference.layers[metric.name]
            mean, low, high = (100 * relative_to(full, values) for values in (mean, low, high))
        layers = np.arange(len(mean)) + metric.first_layer
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label(c.quantised),
                "meta": [i, False],
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
                "line": {"color": COLOURS[i % len(COLOURS)], "width": 1, "dash": DASHES[i % len(DASHES)]},
                "marker": {"size": 7, "symbol": SYMBOLS[i % len(SYMBOLS)]},
                "hovertemplate": f"layer %{{x}}: %{{y:.3g}}{' %' if relative else ' nat'}",
            }
        )
    if not traces:
        return None
    depth = len(traces[0]["x"])
    layout = {
        "xaxis": axis("layer", dtick=max(1, depth // 8)),
        "yaxis": axis(f"change ({'%' if relative else metric.unit})", zeroline=True),
    }
    return Panel(metric.title, traces, layout)


# Distributions


def kl_percentiles(group: ModelGroup) -> Figure | None:
    traces = [
        kl_trace(i, c, c.divergence.forced.kl)
        for i, c in enumerate(group.comparisons, start=1)
        if c.divergence.forced is not None and c.divergence.forced.kl is not None
    ]
    layout = {
        "xaxis": axis("percentile of tokens", type="category"),
        "yaxis": axis("KL(full ‖ quantised), nat", type="log", dtick=1, exponentformat="power"),
    }
    caption = (
        "How far the quantised model's distribution over the next token lies from the full one on the same "
        "tokens, sorted "
        "from the least to the most changed token, on a logarithmic scale (values of 0 have no place on it)."
    )
    return one_variant(
        "kl", "Divergence of the distributions", caption, [Panel("", traces, layout)] if traces else []
    )


def kl_trace(i: int, c: Comparison, kl: Distribution) -> Values:
    values = [getattr(kl, name) for name, _ in PERCENTILES]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(c.quantised),
        "meta": [i, False],
        "x": [label for _, label in PERCENTILES],
        "y": rounded(v if v > 0 else math.nan for v in values),
        "line": {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i % len(DASHES)]},
        "marker": {"size": 7, "symbol": SYMBOLS[i % len(SYMBOLS)]},
        "hovertemplate": "%{y:.3g} nat at %{x}",
    }


def shifts(group: ModelGroup) -> Figure | None:
    known = [(i, data, data.shifts[~np.isnan(data.shifts)]) for i, data in enumerate(group.runs)]
    known = [entry for entry in known if entry[2].size]
    if not known:
        return None
    delta = group.reference.dynamics.model_class.delta
    reach = np.concatenate([values for *_, values in known])
    edges = np.histogram_bin_edges(np.append(reach, 0.0), HISTOGRAM_BINS)
    traces = []
    for i, data, values in known:
        counts, _ = np.histogram(values, edges)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label(data),
                "meta": [i, False],
                "x": rounded(np.repeat(edges, 2)),
                "y": [0, *np.repeat(counts, 2).tolist(), 0],
                "fill": "tozeroy",
                "fillcolor": COLOURS[i % len(COLOURS)] + "22",
                "line": {"color": COLOURS[i % len(COLOURS)], "dash": DASHES[i % len(DASHES)], "width": 1.5},
                "hovertemplate": "%{y} questions at %{x:.2f} nat",
            }
        )
    layout = {
        "xaxis": axis("late − early output entropy (nat)"),
        "yaxis": axis("questions", rangemode="tozero"),
        "shapes": [
            {
                "type": "rect",
                "xref": "x",
                "yref": "paper",
                "x0": -delta,
                "x1": delta,
                "y0": 0,
                "y1": 1,
                "layer": "below",
                "line": {"width": 0},
                "fillcolor": "rgba(128,128,128,0.25)",
            }
        ],
    }
    caption = (
        f"How output entropy shifts from the first to the last fifth of each answer; the grey strip is "
        f"±{delta:g} nat "
        "around 0. The class goes by the interval of the mean over questions, not by single answers."
    )
    return one_variant(
        "shifts", "Early to late shift of each question", caption, [Panel("", traces, layout)], hides=True
    )
