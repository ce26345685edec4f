"""One outcome for each answer of a run, from what its raters said in `outcomes.parquet`."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from edge.runs.outcomes import AUTOMATIC, OUTCOMES, UNTRUE, read_outcomes
from edge.runs.run_directory import Run


class Labels(NamedTuple):
    """`outcome` by question index; `source` says who judged; `disagreed` questions have raters who do not
    agree on the truth and `unlabelled` ones no outcome: neither is judged on."""

    outcome: dict[int, str]
    source: str
    disagreed: int
    unlabelled: int


def read_labels(run: Run) -> Labels | None:
    """None where nobody has judged the run. A person's label goes before an automatic one; of several raters
    the majority decides between true and untrue. Raises UserError for labels of questions that the run does
    not hold, and for words that are no outcome."""
    said: dict[
        int, dict[bool, list[str]]
    ] = {}  # by question: labels of people (False) and of programs (True)
    for row in read_outcomes(run):
        if row.outcome is not None:
            said.setdefault(row.question_index, {}).setdefault(row.source == AUTOMATIC, []).append(
                row.outcome
            )
    return decide(said, len(run.answers(["question_index"])))


def decide(said: dict[int, dict[bool, list[str]]], questions: int) -> Labels | None:
    """From all labels; None where there is none."""
    if not said:
        return None
    decided: dict[int, str] = {}
    automatic = 0
    for index in sorted(said):
        by_program = False not in said[index]
        if outcome := majority(said[index][by_program]):
            decided[index] = outcome
            automatic += by_program
    people = len(decided) - automatic
    source = (
        "hand"
        if not automatic
        else AUTOMATIC
        if not people
        else f"hand ({people}) and automatic ({automatic})"
    )
    return Labels(decided, source, len(said) - len(decided), questions - len(said))


def majority(outcomes: list[str]) -> str:
    """The outcome that most raters on the majority's side gave (the first in OUTCOMES of equals); "" where
    sides are even."""
    untrue = sum(outcome in UNTRUE for outcome in outcomes)
    if 2 * untrue == len(outcomes):
        return ""
    side = Counter(outcome for outcome in outcomes if (outcome in UNTRUE) == (2 * untrue > len(outcomes)))
    return max(OUTCOMES, key=lambda outcome: side[outcome])
