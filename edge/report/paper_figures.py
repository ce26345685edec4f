"""The paper's figures 1, 3 and 4 and those of outcomes; its figure 2 is output entropy along the answer in
`figures`."""

from __future__ import annotations

import numpy as np

from edge.analysis.intervals import Float64
from edge.analysis.study import Study
from edge.analysis.tokens import MeanTrajectory
from edge.analysis.truth import Truth
from edge.report.model import ModelGroup
from edge.report.paper import series_name
from edge.report.plots import COLOURS, DIVERGING, Figure, Panel, Values, Variant, axis, rounded
from edge.report.truth import OUTCOME_NAMES, score_name

TRUE, UNTRUE = COLOURS[0], COLOURS[1]
CHOICE = "Run"
CURVE_POINTS = 200  # of a risk-coverage curve


def paper_figures(group: ModelGroup) -> list[Figure]:
    """Those that the group's runs allow; each has one variant for each run."""
    studies = [data.study for data in group.runs if data.study is not None]
    made = [
        Figure(
            "relations",
            "Four relations",
            RELATIONS_CAPTION,
            [relations(s) for s in studies if s.relations],
            CHOICE,
        ),
        Figure(
            "correlations",
            "Correlations between metrics",
            CORRELATIONS_CAPTION,
            [heat_map(s) for s in studies],
            CHOICE,
        ),
        Figure(
            "drift",
            "Drift from token to token",
            DRIFT_CAPTION,
            [v for s in studies if (v := drift(s)) is not None],
            CHOICE,
        ),
        Figure(
            "outcomes",
            "Outcomes",
            OUTCOMES_CAPTION,
            [outcomes(s.name, s.truth) for s in studies if s.truth],
            CHOICE,
        ),
        Figure(
            "by-outcome",
            "Output entropy along true and untrue answers",
            BY_OUTCOME_CAPTION,
            [v for s in studies if s.truth and (v := by_outcome(s.name, s.truth)) is not None],
            CHOICE,
        ),
        Figure(
            "risk",
            "Risk, coverage and calibration",
            RISK_CAPTION,
            [risk(s.name, s.truth) for s in studies if s.truth and s.truth.shown],
            CHOICE,
        ),
    ]
    return [figure for figure in made if figure.variants]


RELATIONS_CAPTION = (
    "Some tokens, evenly spaced through the run (the paper’s figure 3; which four pairs it draws is not in "
    "our sources, "
    "these four are our choice). Tokens of one answer are not independent."
)
CORRELATIONS_CAPTION = (
    "Pearson correlations over all tokens (the paper’s figure 4) above the diagonal, and along single "
    "answers, mean over "
    "questions, below it: where the two differ, it is answers that differ from each other, not tokens."
)
DRIFT_CAPTION = (
    "How far the hidden state moves from one token to the next, mean over layers: what the paper leaves for "
    "later. The "
    "band is the 95% interval of the mean over questions, at each place by itself."
)
OUTCOMES_CAPTION = (
    "How many answers came out how (the paper’s figure 1). Automatic labels compare words, not meanings."
)
BY_OUTCOME_CAPTION = (
    "Mean output entropy along answers that were judged true and untrue, with 95% intervals over questions "
    "at each place "
    "by itself; the second plot is their difference."
)
RISK_CAPTION = (
    "Left: share of untrue answers among those that a score is surest of, as more are covered (dotted: a "
    "perfect score). "
    "Right: share that is untrue against the predicted probability, cross-fitted: no answer was judged by a "
    "fit that had "
    "seen it."
)


def text(value: str) -> str:
    """For plotly, which reads names as a small HTML of its own."""
    return value.replace("&", "&amp;").replace("<", "&lt;")


def relations(study: Study) -> Variant:
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


def heat_map(study: Study) -> Variant:
    """Above the diagonal over tokens, below it within answers."""
    names = list(dict.fromkeys(name for c in study.paper.correlations for name in (c.x, c.y)))
    z: Float64 = np.full((len(names), len(names)), np.nan)
    for c in study.paper.correlations:
        i, j = sorted((names.index(c.x), names.index(c.y)))
        z[i, j], z[j, i] = c.over_tokens, c.within.value
    labels = [series_name(name) for name in names]
    trace: Values = {
        "type": "heatmap",
        "z": [rounded(row) for row in z],
        "x": labels,
        "y": labels,
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


def band_and_line(trajectory: MeanTrajectory, colour: str, name: str) -> list[Values]:
    """The interval of a mean, and the mean."""
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


def key(trajectory: MeanTrajectory, colour: str, name: str) -> Values:
    """The line's name at its end."""
    return {
        "x": 1,
        "y": rounded(trajectory.mean[-1:])[0],
        "xanchor": "right",
        "yanchor": "bottom",
        "text": name,
        "showarrow": False,
        "font": {"color": colour},
    }


def place_axis() -> Values:
    return axis("place in the answer, t/N", range=[0, 1])


def drift(study: Study) -> Variant | None:
    panels = []
    for name in ("token_delta", "token_cosine"):
        trajectory = study.paper.trajectories.get(name)
        if trajectory is not None and trajectory.questions:
            layout = {"xaxis": place_axis(), "yaxis": axis(series_name(name))}
            panels.append(
                Panel(series_name(name), band_and_line(trajectory, COLOURS[0], series_name(name)), layout)
            )
    return Variant(study.name, panels) if panels else None


def outcomes(name: str, truth: Truth) -> Variant:
    trace = {
        "type": "bar",
        "x": [OUTCOME_NAMES[outcome] for outcome in truth.counts],
        "y": list(truth.counts.values()),
        "marker": {"color": [TRUE, TRUE, UNTRUE, UNTRUE]},
        "hovertemplate": "%{y} answers<extra></extra>",
    }
    layout = {
        "xaxis": axis(f"outcome ({truth.source})", type="category"),
        "yaxis": axis("answers", rangemode="tozero"),
    }
    return Variant(name, [Panel("", [trace], layout)])


def by_outcome(name: str, truth: Truth) -> Variant | None:
    lines = [
        (trajectory, colour, kind)
        for trajectory, colour, kind in (
            (truth.true_trajectory, TRUE, "true"),
            (truth.untrue_trajectory, UNTRUE, "untrue"),
        )
        if trajectory is not None
    ]
    if not lines:
        return None
    layout = {
        "xaxis": place_axis(),
        "yaxis": axis("output entropy (nat)"),
        "annotations": [key(*line) for line in lines],
    }
    panels = [Panel("By outcome", [trace for line in lines for trace in band_and_line(*line)], layout)]
    if truth.trajectory_difference is not None:
        layout = {"xaxis": place_axis(), "yaxis": axis("untrue − true (nat)", zeroline=True)}
        panels.append(
            Panel(
                "Difference", band_and_line(truth.trajectory_difference, COLOURS[2], "untrue − true"), layout
            )
        )
    return Variant(name, panels)


def risk(name: str, truth: Truth) -> Variant:
    curves: list[Values] = []
    bins: list[Values] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [0, 1],
            "y": [0, 1],
            "line": {"dash": "dot", "color": "#888888"},
            "hoverinfo": "skip",
        }
    ]
    for i, shown in enumerate(truth.shown):
        colour, title = COLOURS[i % len(COLOURS)], text(score_name(*shown.score))
        kept = np.unique(np.linspace(0, len(shown.risk.coverage) - 1, CURVE_POINTS).astype(np.int64))
        curves.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": rounded(shown.risk.coverage[kept]),
                "y": rounded(shown.risk.risk[kept]),
                "name": title,
                "line": {"color": colour},
                "hovertemplate": "%{y:.3g} at coverage %{x:.2f}",
            }
        )
        if i == 0:
            curves.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": rounded(shown.risk.coverage[kept]),
                    "y": rounded(shown.risk.best[kept]),
                    "name": "perfect",
                    "line": {"color": "#888888", "dash": "dot"},
                }
            )
        bins.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": rounded(b.probability for b in shown.reliability),
                "y": rounded(b.untrue for b in shown.reliability),
                "name": title,
                "line": {"color": colour},
                "text": [f"{b.questions} answers" for b in shown.reliability],
                "hovertemplate": "%{y:.3g}, %{text}",
            }
        )
    return Variant(
        name,
        [
            Panel(
                "Risk and coverage",
                curves,
                {
                    "xaxis": axis("share of answers kept", range=[0, 1]),
                    "yaxis": axis("share untrue", rangemode="tozero"),
                },
            ),
            Panel(
                "Calibration",
                bins,
                {
                    "xaxis": axis("predicted probability of untrue", range=[0, 1]),
                    "yaxis": axis("share untrue", range=[0, 1]),
                },
            ),
        ],
    )
