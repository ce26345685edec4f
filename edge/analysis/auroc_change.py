"""Two runs: how well each score ranks the answers of one and of the other."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from edge.analysis.intervals import Float64, Interval
from edge.analysis.labels import Labels
from edge.analysis.ranking import Bool, auroc_draws, draws_of, holm, percentile_interval
from edge.analysis.scores import Scores, enough
from edge.runs.outcomes import UNTRUE


class AurocChange(NamedTuple):
    """Difference between how well a score ranks the second run's answers and the first's, each by its own
    outcomes. The difference of AUROC is paired by question, over the `questions` that both runs hold. `p` is
    from the bootstrap's standard error, `holm` is corrected over all scores."""

    metric: str
    summary: str
    questions: int
    first: float
    second: float
    difference: Interval
    p: float
    holm: float


def compare_truth(one: tuple[Scores, Labels], other: tuple[Scores, Labels]) -> tuple[AurocChange, ...]:
    """Changes of the scores that both runs have, the smallest p first. A score is left out if either run has
    too few answers of a kind."""
    shared = shared_questions(one, other)
    (first_scores, first_untrue), (second_scores, second_untrue) = (
        (scores.at(shared), np.array([labels.outcome[q] in UNTRUE for q in shared], np.bool_))
        for scores, labels in (one, other)
    )
    changes = []
    for name in first_scores.names:
        if name not in second_scores.names:
            continue
        x, y = (scores.values[:, scores.names.index(name)] for scores in (first_scores, second_scores))
        known = ~(np.isnan(x) | np.isnan(y))
        if enough(first_untrue[known]) and enough(second_untrue[known]):
            changes.append(
                auroc_change(name, (x[known], first_untrue[known]), (y[known], second_untrue[known]))
            )
    corrected = holm([change.p for change in changes])
    changes = [change._replace(holm=float(p)) for change, p in zip(changes, corrected, strict=True)]
    return tuple(sorted(changes, key=lambda change: math.inf if math.isnan(change.p) else change.p))


def shared_questions(one: tuple[Scores, Labels], other: tuple[Scores, Labels]) -> list[int]:
    """Questions that both runs hold and that both have an outcome for, in the order of the first."""
    held = set(other[0].questions)
    return [
        question
        for question in one[0].questions
        if question in held and question in one[1].outcome and question in other[1].outcome
    ]


def auroc_change(
    name: tuple[str, str], first: tuple[Float64, Bool], second: tuple[Float64, Bool]
) -> AurocChange:
    """Change of one score from its values and outcomes in both runs, without correction (`holm` is NaN)."""
    count = first[0].size
    draws = draws_of(count)
    a, b = auroc_draws(*first, draws), auroc_draws(*second, draws)
    error = float(np.nanstd((b - a)[1:]))
    p = math.erfc(abs(float(b[0] - a[0])) / error / math.sqrt(2)) if error > 0 else math.nan
    return AurocChange(*name, count, float(a[0]), float(b[0]), percentile_interval(b - a), p, holm=math.nan)
