"""All figures of a model's runs, in the order of the page."""

from __future__ import annotations

from edge.report.distribution_figures import kl_percentiles, shifts
from edge.report.layer_figures import by_layer, head_maps
from edge.report.model import ModelGroup
from edge.report.outcome_figures import outcome_figures
from edge.report.paper_figures import paper_figures
from edge.report.pareto import pareto_figures
from edge.report.plots import Figure
from edge.report.trajectory_figures import (
    along_answer,
    attention_along_answer,
    dispersion_along_answer,
    others_along_answer,
)


def figures(group: ModelGroup) -> list[Figure]:
    """The figures that the group's runs allow."""
    drawn = [
        along_answer(group),
        attention_along_answer(group),
        dispersion_along_answer(group),
        *others_along_answer(group),
        head_maps(group),
        by_layer(group),
        kl_percentiles(group),
        shifts(group),
        *pareto_figures(group),
        *paper_figures(group),
        *outcome_figures(group),
    ]
    return [figure for figure in drawn if figure is not None]
