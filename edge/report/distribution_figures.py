"""Figures of distributions: KL over tokens, and shifts of output entropy over questions."""

from __future__ import annotations

import math

import numpy as np

from edge.analysis.intervals import Distribution, Float64
from edge.report.model import Comparison, ModelGroup, RunData
from edge.report.plots import (
    Figure,
    Panel,
    Values,
    axis,
    colour_of,
    dash_of,
    escaped,
    one_variant,
    rounded,
    symbol_of,
)
from edge.signals.streaming import SHORTEST

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


def kl_percentiles(group: ModelGroup) -> Figure | None:
    """Percentiles of KL over tokens, a line for each forced run."""
    traces = [
        kl_trace(i, comparison, comparison.divergence.forced.kl)
        for i, comparison in enumerate(group.comparisons, start=1)
        if comparison.divergence.forced is not None and comparison.divergence.forced.kl is not None
    ]
    layout = {
        "xaxis": axis("percentile of tokens", type="category"),
        "yaxis": axis("KL(full ‖ quantised), nat", type="log", dtick=1, exponentformat="power"),
    }
    caption = (
        "How far the quantised model's distribution over the next token lies from the full one "
        "on the same tokens, sorted from the least to the most changed token, "
        "on a logarithmic scale (values of 0 have no place on it)."
    )
    panels = [Panel("", traces, layout)] if traces else []
    return one_variant("kl", "Divergence of the distributions", caption, panels)


def kl_trace(index: int, comparison: Comparison, kl: Distribution) -> Values:
    """One run's percentiles of KL, in nats."""
    values = [getattr(kl, statistic) for statistic, _ in PERCENTILES]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escaped(comparison.quantised.name),
        "meta": [index, False],
        "x": [label for _, label in PERCENTILES],
        "y": rounded(value if value > 0 else math.nan for value in values),
        "line": {"color": colour_of(index), "dash": dash_of(index)},
        "marker": {"size": 7, "symbol": symbol_of(index)},
        "hovertemplate": "%{y:.3g} nat at %{x}",
    }


def shifts(group: ModelGroup) -> Figure | None:
    """Histograms of the early to late shift, one for each run, with the strip that counts as balanced."""
    by_run = [(i, data, data.shifts[~np.isnan(data.shifts)]) for i, data in enumerate(group.runs)]
    by_run = [entry for entry in by_run if entry[2].size]
    if not by_run:
        return None
    delta = group.reference.dynamics.model_class.delta
    everything = np.concatenate([values for *_, values in by_run])
    edges = np.histogram_bin_edges(np.append(everything, 0.0), HISTOGRAM_BINS)
    strip = {
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
    layout = {
        "xaxis": axis("late − early output entropy (nat)"),
        "yaxis": axis("questions", rangemode="tozero"),
        "shapes": [strip],
    }
    caption = (
        "How output entropy shifts from the first to the last fifth of each answer; "
        f"the grey strip is ±{delta:g} nat around 0. Answers under {SHORTEST} tokens have no shift. "
        "The class goes by the interval of the mean over questions, not by single answers."
    )
    panel = Panel("", [shift_trace(i, data, values, edges) for i, data, values in by_run], layout)
    return one_variant("shifts", "Early to late shift of each question", caption, [panel], hides=True)


def shift_trace(index: int, data: RunData, values: Float64, edges: Float64) -> Values:
    """The outline of a histogram of `values` [Q]."""
    counts, _ = np.histogram(values, edges)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": escaped(data.name),
        "meta": [index, False],
        "x": rounded(np.repeat(edges, 2)),
        "y": [0, *np.repeat(counts, 2).tolist(), 0],
        "fill": "tozeroy",
        "fillcolor": colour_of(index) + "22",
        "line": {"color": colour_of(index), "dash": dash_of(index), "width": 1.5},
        "hovertemplate": "%{y} questions at %{x:.2f} nat",
    }
