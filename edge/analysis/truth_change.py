"""Changes of the truth of answers by quantisation, and of how well metrics predict untrue ones.

A free-running run is judged by its own outcomes. A forced run reads the full model's answers, so it is
judged by the outcomes of the full run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge.analysis.auroc_change import AurocChange, compare_truth
from edge.analysis.intervals import Interval, share, share_change
from edge.analysis.labels import Labels, read_labels
from edge.analysis.scores import scores_of
from edge.analysis.tokens import read_tokens
from edge.runs.outcomes import UNTRUE
from edge.runs.run_directory import Run


class OutcomeChange(NamedTuple):
    """Share of untrue answers over the `questions` judged in both runs, its paired change, and the numbers
    of answers that changed."""

    questions: int
    full: Interval
    quantised: Interval
    change: Interval
    became_untrue: int
    became_true: int


@dataclass(frozen=True)
class TruthChange:
    """Changes from a full run to a quantised one.

    `outcomes` is None for a forced run, whose answers are the full model's. `auroc` has the scores that both
    runs have, the smallest p first. It is empty if fewer than ten answers are of a kind.
    """

    source: str
    outcomes: OutcomeChange | None
    auroc: tuple[AurocChange, ...]

    def of(self, metric: str, summary: str) -> AurocChange | None:
        """Change of one score, None if it has none."""
        score = (metric, summary)
        return next((change for change in self.auroc if (change.metric, change.summary) == score), None)


def truth_change(full: Run, quantised: Run) -> TruthChange | None:
    """Compare the outcomes and scores of two runs. None if the answers of the full run, or of a free-running
    quantised one, were not judged. Raises UserError for outcomes that are not the run's."""
    one = read_labels(full)
    forced = quantised.manifest.kind == "force"
    other = one if forced else read_labels(quantised)
    if one is None or other is None:
        return None
    scored = [
        (scores_of(run, read_tokens(run)), labels) for run, labels in ((full, one), (quantised, other))
    ]
    source = one.source if one.source == other.source else f"{one.source}; {other.source}"
    return TruthChange(source, None if forced else outcome_change(one, other), compare_truth(*scored))


def outcome_change(one: Labels, other: Labels) -> OutcomeChange:
    """Change of outcomes over the questions that both have labels for."""
    shared = sorted(one.outcome.keys() & other.outcome.keys())
    before, after = (
        np.array([labels.outcome[q] in UNTRUE for q in shared], np.float64) for labels in (one, other)
    )
    return OutcomeChange(
        questions=len(shared),
        full=share(before),
        quantised=share(after),
        change=share_change(before, after),
        became_untrue=int(np.sum(after > before)),
        became_true=int(np.sum(after < before)),
    )
