"""One outcome for each answer of a run, from its raters' labels in `outcomes.parquet`."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from edge.runs.outcomes import AUTOMATIC, OUTCOMES, UNTRUE, read_outcomes
from edge.runs.run_directory import Run

Votes = dict[bool, list[str]]  # the labels of one question by people (False) and by programs (True)


class Labels(NamedTuple):
    """Outcomes of a run's answers.

    `outcome` is by question index; `source` says who judged. `disagreed` counts questions whose raters do
    not agree on the truth, `unlabelled` those without a label. Neither have an outcome.
    """

    outcome: dict[int, str]
    source: str
    disagreed: int
    unlabelled: int


def read_labels(run: Run) -> Labels | None:
    """Labels of a run, None if nobody has judged it.

    A person's label takes precedence over an automatic one. With several raters the majority decides between
    true and untrue. Raises UserError for labels of questions that the run does not hold, and for words that
    are no outcome.
    """
    votes: dict[int, Votes] = {}
    for row in read_outcomes(run):
        if row.outcome is not None:
            by_source = votes.setdefault(row.question_index, {})
            by_source.setdefault(row.source == AUTOMATIC, []).append(row.outcome)
    return decide(votes, len(run.answers(["question_index"])))


def decide(votes: dict[int, Votes], questions: int) -> Labels | None:
    """Labels from the votes by question index, None without a vote. `questions` is the run's number of
    questions."""
    if not votes:
        return None
    decided: dict[int, str] = {}
    automatic = 0
    for index in sorted(votes):
        by_program = False not in votes[index]
        if outcome := majority(votes[index][by_program]):
            decided[index] = outcome
            automatic += by_program
    people = len(decided) - automatic
    if not automatic:
        source = "hand"
    elif not people:
        source = AUTOMATIC
    else:
        source = f"hand ({people}) and automatic ({automatic})"
    return Labels(decided, source, len(votes) - len(decided), questions - len(votes))


def majority(outcomes: list[str]) -> str:
    """The most frequent outcome on the majority's side (true or untrue), of equals the first in OUTCOMES. ""
    if the sides are even."""
    untrue = sum(outcome in UNTRUE for outcome in outcomes)
    if 2 * untrue == len(outcomes):
        return ""
    side = Counter(outcome for outcome in outcomes if (outcome in UNTRUE) == (2 * untrue > len(outcomes)))
    return max(OUTCOMES, key=lambda outcome: side[outcome])
