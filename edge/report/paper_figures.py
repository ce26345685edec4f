"""The paper's figures 3 and 4, and drift from token to token, which the paper leaves for later.

Its figure 1 is in `outcome_figures`. Its figure 2 is output entropy along the answer, in
`trajectory_figures`.
"""

from __future__ import annotations

import numpy as np

from edge.analysis.intervals import Float64
from edge.analysis.study import Study
from edge.report.formatting import series_name
from edge.report.model import ModelGroup
from edge.report.plots import (
    COLOURS,
    DIVERGING,
    Figure,
    Panel,
    Values,
    Variant,
    axis,
    mean_traces,
    place_axis,
    rounded,
)

RELATIONS_CAPTION = (
    "Some tokens, evenly spaced through the run (the paper’s figure 3; which four pairs it draws is not in "
    "our sources, these four are our choice). Tokens of one answer are not independent."
)
CORRELATIONS_CAPTION = (
    "Pearson correlations over all tokens (the paper’s figure 4) above the diagonal, and along single "
    "answers, mean over questions, below it: "
    "where the two differ, it is answers that differ from each other, not tokens."
)
DRIFT_CAPTION = (
    "How far the hidden state moves from one token to the next, mean over layers: "
    "what the paper leaves for later. "
    "The band is the 95% interval of the mean over questions, at each place by itself."
)


def paper_figures(group: ModelGroup) -> list[Figure]:
    """The figures that the group's runs allow; each has one variant for each run."""
    studies = [data.study for data in group.runs if data.study is not None]
    choices = (
        (
            "relations",
            "Four relations",
            RELATIONS_CAPTION,
            [relations(study) for study in studies if study.relations],
        ),
        (
            "correlations",
            "Correlations between metrics",
            CORRELATIONS_CAPTION,
            [correlations(study) for study in studies],
        ),
        (
            "drift",
            "Drift from token to token",
            DRIFT_CAPTION,
            [variant for study in studies if (variant := drift(study)) is not None],
        ),
    )
    return [
        Figure(name, title, caption, variants, "Run")
        for name, title, caption, variants in choices
        if variants
    ]


def relations(study: Study) -> Variant:
    """Scatter plots of pairs of metrics, a mark for each token."""
    panels = []
    for (x, y), points in study.relations.items():
        trace = {
            "type": "scatter",
            "mode": "markers",
            "x": rounded(points[:, 0]),
            "y": rounded(points[:, 1]),
            "marker": {"size": 4, "color": COLOURS[0], "opacity": 0.35},
            "hovertemplate": "%{x:.3g}, %{y:.3g}<extra></extra>",
        }
        layout = {"xaxis": axis(series_name(x)), "yaxis": axis(series_name(y))}
        panels.append(Panel(f"{series_name(x)} and {series_name(y).lower()}", [trace], layout))
    return Variant(study.name, panels)


def correlations(study: Study) -> Variant:
    """A heat map of correlations: over tokens above the diagonal, within answers below it."""
    pairs = study.paper.correlations
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.x, pair.y)))
    matrix: Float64 = np.full((len(names), len(names)), np.nan)
    for pair in pairs:
        i, j = sorted((names.index(pair.x), names.index(pair.y)))
        matrix[i, j], matrix[j, i] = pair.over_tokens, pair.within.value
    titles = [series_name(name) for name in names]
    trace: Values = {
        "type": "heatmap",
        "z": [rounded(row) for row in matrix],
        "x": titles,
        "y": titles,
        "zmin": -1,
        "zmax": 1,
        "colorscale": DIVERGING,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 10, "len": 1},
        "hovertemplate": "%{y} and %{x}: %{z:.2f}<extra></extra>",
    }
    layout = {
        "height": 620,
        "xaxis": axis("", type="category", tickangle=-45, showgrid=False),
        "yaxis": axis("", type="category", autorange="reversed", showgrid=False),
    }
    return Variant(study.name, [Panel("", [trace], layout)])


def drift(study: Study) -> Variant | None:
    """Distance and cosine of the hidden state from token to token, along the answer; None without them."""
    panels = []
    for name in ("token_delta", "token_cosine"):
        trajectory = study.paper.trajectories.get(name)
        if trajectory is not None and trajectory.questions:
            title = series_name(name)
            layout = {"xaxis": place_axis(), "yaxis": axis(title)}
            panels.append(Panel(title, mean_traces(trajectory, COLOURS[0], title), layout))
    return Variant(study.name, panels) if panels else None
