"""Figures of outcomes: counts (the paper's figure 1), output entropy by outcome, risk and calibration."""

from __future__ import annotations

import numpy as np

from edge.analysis.tokens import MeanTrajectory
from edge.analysis.truth import Truth
from edge.report.model import ModelGroup
from edge.report.plots import (
    COLOURS,
    Figure,
    Panel,
    Values,
    Variant,
    axis,
    colour_of,
    escaped,
    mean_traces,
    place_axis,
    rounded,
)
from edge.report.truth import OUTCOME_NAMES, score_name

TRUE, UNTRUE, DIFFERENCE = COLOURS[:3]
GREY = "#888888"
RISK_POINTS = 200  # of a risk-coverage curve
OUTCOMES_CAPTION = (
    "How many answers came out how (the paper’s figure 1). Automatic labels compare words, not meanings."
)
BY_OUTCOME_CAPTION = (
    "Mean output entropy along answers that were judged true and untrue, with 95% intervals over questions "
    "at each place by itself; the second plot is their difference."
)
RISK_CAPTION = (
    "Left: share of untrue answers among those that a score is surest of, as more are covered "
    "(dotted: a perfect score). "
    "Right: share that is untrue against the predicted probability, cross-fitted: "
    "no answer was judged by a fit that had seen it."
)


def outcome_figures(group: ModelGroup) -> list[Figure]:
    """The figures that the group's labelled runs allow; each has one variant for each of them."""
    judged = [
        (data.study.name, data.study.truth)
        for data in group.runs
        if data.study is not None and data.study.truth
    ]
    choices = (
        ("outcomes", "Outcomes", OUTCOMES_CAPTION, [outcomes(name, truth) for name, truth in judged]),
        (
            "by-outcome",
            "Output entropy along true and untrue answers",
            BY_OUTCOME_CAPTION,
            [variant for name, truth in judged if (variant := by_outcome(name, truth)) is not None],
        ),
        (
            "risk",
            "Risk, coverage and calibration",
            RISK_CAPTION,
            [risk(name, truth) for name, truth in judged if truth.shown],
        ),
    )
    return [
        Figure(name, title, caption, variants, "Run")
        for name, title, caption, variants in choices
        if variants
    ]


def outcomes(name: str, truth: Truth) -> Variant:
    """Bars: the number of answers with each outcome."""
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
    """Output entropy along true and untrue answers, and their difference; None where there is neither."""
    kinds = (
        (truth.true_trajectory, TRUE, "true"),
        (truth.untrue_trajectory, UNTRUE, "untrue"),
    )
    lines = [(trajectory, colour, kind) for trajectory, colour, kind in kinds if trajectory is not None]
    if not lines:
        return None
    layout = {
        "xaxis": place_axis(),
        "yaxis": axis("output entropy (nat)"),
        "annotations": [line_name(*line) for line in lines],
    }
    panels = [Panel("By outcome", [trace for line in lines for trace in mean_traces(*line)], layout)]
    if truth.trajectory_difference is not None:
        title = "untrue − true"
        layout = {"xaxis": place_axis(), "yaxis": axis(f"{title} (nat)", zeroline=True)}
        panels.append(
            Panel("Difference", mean_traces(truth.trajectory_difference, DIFFERENCE, title), layout)
        )
    return Variant(name, panels)


def line_name(trajectory: MeanTrajectory, colour: str, name: str) -> Values:
    """An annotation: the line's name at its end."""
    return {
        "x": 1,
        "y": rounded(trajectory.mean[-1:])[0],
        "xanchor": "right",
        "yanchor": "bottom",
        "text": name,
        "showarrow": False,
        "font": {"color": colour},
    }


def risk(name: str, truth: Truth) -> Variant:
    """Risk-coverage curves and calibration of the first scores."""
    risk_layout = {
        "xaxis": axis("share of answers kept", range=[0, 1]),
        "yaxis": axis("share untrue", rangemode="tozero"),
    }
    calibration_layout = {
        "xaxis": axis("predicted probability of untrue", range=[0, 1]),
        "yaxis": axis("share untrue", range=[0, 1]),
    }
    return Variant(
        name,
        [
            Panel("Risk and coverage", risk_traces(truth), risk_layout),
            Panel("Calibration", calibration_traces(truth), calibration_layout),
        ],
    )


def risk_traces(truth: Truth) -> list[Values]:
    """Risk against coverage, a line for each score; a perfect score's line after the first."""
    traces: list[Values] = []
    for i, score in enumerate(truth.shown):
        curve = score.risk
        points = np.unique(np.linspace(0, len(curve.coverage) - 1, RISK_POINTS).astype(np.int64))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": rounded(curve.coverage[points]),
                "y": rounded(curve.risk[points]),
                "name": escaped(score_name(*score.score)),
                "line": {"color": colour_of(i)},
                "hovertemplate": "%{y:.3g} at coverage %{x:.2f}",
            }
        )
        if i == 0:
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": rounded(curve.coverage[points]),
                    "y": rounded(curve.best[points]),
                    "name": "perfect",
                    "line": {"color": GREY, "dash": "dot"},
                }
            )
    return traces


def calibration_traces(truth: Truth) -> list[Values]:
    """The diagonal, then the share of untrue answers against the predicted one, a line for each score."""
    diagonal = {
        "type": "scatter",
        "mode": "lines",
        "x": [0, 1],
        "y": [0, 1],
        "line": {"dash": "dot", "color": GREY},
        "hoverinfo": "skip",
    }
    lines = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": rounded(point.probability for point in score.reliability),
            "y": rounded(point.untrue for point in score.reliability),
            "name": escaped(score_name(*score.score)),
            "line": {"color": colour_of(i)},
            "text": [f"{point.questions} answers" for point in score.reliability],
            "hovertemplate": "%{y:.3g}, %{text}",
        }
        for i, score in enumerate(truth.shown)
    ]
    return [diagonal, *lines]
