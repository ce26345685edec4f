"""Analysis of one run in the terms of arXiv 2604.03589: its tables, class, correlations and trajectories."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.classes import DELTA, DynamicsClass, classify
from edge.analysis.dynamics import recorded
from edge.analysis.intervals import Float64, Interval, bootstrap, bootstrap_columns, share
from edge.analysis.paper_rows import Answers, Row, paper_rows
from edge.analysis.published import PublishedClass, published
from edge.analysis.tokens import (
    Correlation,
    MeanTrajectory,
    TokenPass,
    correlate,
    mean_trajectory,
    read_tokens,
)
from edge.errors import UserError
from edge.runs.columns import mean_column
from edge.runs.run_directory import Run
from edge.signals.groups import BY_NAME, shown_in
from edge.signals.metric import Shown


class Diffusion(NamedTuple):
    """Slopes over the answer of attention entropy (`raw`) and of attention entropy / ln K (`normalised`).
    `raw_rises` and `normalised_rises` are the shares of answers in which each rises."""

    raw: Interval
    normalised: Interval
    raw_rises: Interval
    normalised_rises: Interval


@dataclass(frozen=True)
class PaperRun:
    """Results of one run in the paper's terms.

    `question` is the index of the chosen question. `verdicts` are the paper's own on this model, None if it
    has none. `trajectories` are by metric. `layers` is in long form, with the columns metric, layer, mean,
    low, high and few (None without taps).
    """

    label: str
    model_id: str
    notice: str
    questions: int
    tokens: int
    question: int | None
    rows: tuple[Row, ...]
    model_class: DynamicsClass
    verdicts: PublishedClass | None
    diffusion: Diffusion | None
    correlations: tuple[Correlation, ...]
    trajectories: dict[str, MeanTrajectory]
    layers: pa.Table | None

    def row(self, table: int, measure: str) -> Row:
        """The row of one measure of one table."""
        return next(row for row in self.rows if (row.table, row.measure) == (table, measure))


def analyse_paper(
    run: Run, *, question: int | None = None, delta: float = DELTA, tokens: TokenPass | None = None
) -> PaperRun:
    """Analyse a run. `tokens` is the pass over its steps, read here if it is None. Raises UserError for a
    question that the run does not hold, and for a run without a token."""
    answers = Answers(run, question)
    if not answers.tokens.sum() > 0:
        raise UserError(f"{run.folder} has no traced tokens: no question fitted the context")
    tokens = read_tokens(run) if tokens is None else tokens
    tapped = bool(tokens.column("attention_entropy").size)
    return PaperRun(
        label=run.manifest.label,
        model_id=run.manifest.model_id,
        notice=run.manifest.notice,
        questions=answers.table.num_rows,
        tokens=int(answers.tokens.sum()),
        question=question,
        rows=tuple(paper_rows(answers, tokens, tapped)),
        model_class=classify(answers.values("output_entropy_shift"), delta),
        verdicts=published().classes.get(run.manifest.model_id),
        diffusion=diffusion(answers) if tapped else None,
        correlations=correlate(tokens),
        trajectories={name: mean_trajectory(rows) for name, rows in tokens.trajectories.items()},
        layers=layer_table(answers) if tapped else None,
    )


def diffusion(answers: Answers) -> Diffusion:
    """Slopes of attention entropy over questions, and the shares of answers in which they are above 0."""
    raw = answers.values("attention_entropy_slope")
    normalised = answers.values("attention_entropy_normalised_slope")
    return Diffusion(bootstrap(raw), bootstrap(normalised), share_rising(raw), share_rising(normalised))


def share_rising(slopes: Float64) -> Interval:
    """Share of slopes above 0; undefined slopes do not count."""
    return share(np.where(np.isnan(slopes), np.nan, slopes > 0))


def direction(slope: Interval) -> str:
    """Verb phrase for an interval of a slope: rises, falls, or neither beyond chance."""
    if math.isnan(slope.low):
        return "has no interval"
    if slope.low > 0:
        return "rises"
    return "falls" if slope.high < 0 else "neither rises nor falls beyond chance"


def layer_table(answers: Answers) -> pa.Table:
    """By-layer means over questions with intervals, in long form: metric, layer (0 is the embedding), mean,
    low, high, and whether few answers gave them."""
    names = ("metric", "layer", "mean", "low", "high", "few")
    columns: dict[str, list[object]] = {name: [] for name in names}
    known = recorded(shown_in(Shown.PAPER_LAYERS), answers.table.column_names, column=mean_column)
    for metric in known:
        mean, low, high, few = bootstrap_columns(answers.layers(metric))
        first = BY_NAME[metric].first_layer
        for i in range(len(mean)):
            for name, value in zip(columns, (metric, first + i, mean[i], low[i], high[i], few), strict=True):
                columns[name].append(value)
    return pa.table(columns)
