"""Scores of a run's answers: every metric and summary that might tell untrue answers from true ones.

A score is a summary of a metric over the answer. It is turned so that higher means "more likely untrue".
The turn follows what the metric is taken to mean (entropy up, probability down), never the outcomes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge.analysis.dynamics import numbers, recorded, summary_column
from edge.analysis.intervals import Float64
from edge.analysis.ranking import Bool
from edge.analysis.tokens import TokenPass
from edge.runs.run_directory import Run
from edge.signals.groups import BY_NAME, names
from edge.signals.metric import LOWER, Summary

# Fewest answers of each kind that a score is judged on: two in each fold, and a test with some power.
MINIMUM = 10
# Of the answers table; extreme: the most untrue-like value.
SUMMARIES = ("mean", "sd", "extreme", "slope", "early", "late", "shift")
PREDICTORS = names(lambda metric: metric.summary == Summary.PREDICTS)
ENDS = ("first", "last")  # of the steps


class Scores(NamedTuple):
    """Scores of a run's answers. `questions` are the question indices of the rows, and `names` the (metric,
    summary) of the columns. `values` is [questions, scores], NaN where undefined. A higher value means "more
    likely untrue"."""

    questions: list[int]
    names: list[tuple[str, str]]
    values: Float64

    def at(self, questions: list[int]) -> Scores:
        """Scores of these questions, in their order."""
        row_of = {question: i for i, question in enumerate(self.questions)}
        rows = [row_of[question] for question in questions]
        return Scores(questions, self.names, self.values[rows])


def scores_of(run: Run, tokens: TokenPass) -> Scores:
    """Every metric and summary that the run has, the number of tokens, and the answer's whole surprisal.
    Scores that are the same for all answers are left out."""
    answers = run.answers()
    questions = answers.column("question_index").to_pylist()
    columns: dict[tuple[str, str], Float64] = {}
    for metric in recorded(PREDICTORS, answers.column_names, column=summary_column):
        falls = BY_NAME[metric].less_certain == LOWER
        for summary in SUMMARIES:
            part = ("min" if falls else "max") if summary == "extreme" else summary
            sign = -1.0 if falls and summary != "sd" else 1.0
            columns[metric, summary] = sign * numbers(answers, f"{metric}_{part}")
    row_of = {question: i for i, question in enumerate(tokens.questions)}
    order = np.array([row_of.get(question, -1) for question in questions])
    for metric in (name for name in tokens.names if name in PREDICTORS):
        sign = -1.0 if BY_NAME[metric].less_certain == LOWER else 1.0
        for summary, ends in zip(ENDS, (tokens.first, tokens.last), strict=True):
            values = ends[:, tokens.names.index(metric)] if len(ends) else np.empty(0)
            columns[metric, summary] = sign * np.where(order >= 0, np.append(values, np.nan)[order], np.nan)
    count = numbers(answers, "tokens")
    columns["tokens", ""] = np.where(count > 0, count, np.nan)
    columns["surprisal", "sum"] = numbers(answers, "surprisal_mean") * count
    varied = {
        name: column for name, column in columns.items() if np.unique(column[~np.isnan(column)]).size > 1
    }
    values = np.stack(list(varied.values()), axis=1) if varied else np.empty((len(questions), 0))
    return Scores(questions, list(varied), values)


def enough(untrue: Bool) -> bool:
    """Whether there are at least MINIMUM untrue and MINIMUM true answers."""
    return min(int(untrue.sum()), int((~untrue).sum())) >= MINIMUM
