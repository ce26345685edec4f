"""Outcomes as a CSV for a spreadsheet, and back: what is written is read again exactly."""

from __future__ import annotations

import math
import re
from pathlib import Path

from edge.errors import UserError
from edge.runs.outcomes import AUTOMATIC, IMPORTED, OUTCOMES, Judgement, check, identities, read_outcomes
from edge.runs.run_directory import Run
from edge.spreadsheet import MARK, Row, plain_text, read_csv, write_csv

COLUMNS = ("question_index", "question_id", "outcome", "source", "rater", "margin", "question", "answer")
REQUIRED, OPTIONAL = ("question_index", "outcome"), ("question_id", "source", "rater")
PREFIX = "q:"  # before a question_id that a spreadsheet would take for a number or a date
# 12 hexadecimal digits may be a number (000123456789, 12e456789012) or hold a month's name.
NUMBER_OR_DATE = re.compile(r"\d+(?:[ed]\d+)?|\d*(?:dec|feb)\d*")
KEPT = re.compile(r"\D.*|0|[1-9]\d{0,9}", re.DOTALL)  # what no spreadsheet writes in another way
WHOLE = re.compile(r"([0-9]{1,18})(?:[.,]0+)?")  # also as programs write whole numbers among empty cells


def import_csv(run: Run, path: Path, rater: str) -> list[Judgement]:
    """Reads people's labels from the columns question_index and outcome.

    The columns question_id, rater and source may be missing. Rows without an outcome and automatic ones are
    left out. Raises UserError for labels that do not fit the run.
    """
    try:
        rows = read_csv(path, REQUIRED, OPTIONAL, needed=("question_index",))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): give a CSV with --import") from error
    known = identities(run)
    judgements = [
        judgement_of(path, row, known, rater)
        for row in rows
        if row.cells["outcome"] and row.cells["source"] != AUTOMATIC
    ]
    if not judgements:
        raise UserError(f"{path} holds no outcome: fill the column in with {', '.join(OUTCOMES)}")
    check(judgements, run, path)
    seen = set[tuple[int, bool, str]]()
    for judgement in judgements:
        if judgement.key in seen:
            raise UserError(
                f"{path} labels question {judgement.question_index} twice for one rater: "
                "keep one of the rows"
            )
        seen.add(judgement.key)
    return judgements


def judgement_of(path: Path, row: Row, known: dict[int, str], rater: str) -> Judgement:
    """The judgement in a row; `rater` is that of rows without one. `known` maps question_index to its id."""
    number = WHOLE.fullmatch(row.cells["question_index"])
    if number is None:
        raise UserError(
            f"{path} has {row.cells['question_index']!r:.40} as question_index in data row {row.number} "
            f"(line {row.line}): give a whole number"
        )
    index = int(number[1])
    own_id, given = known.get(index, "unknown"), row.cells["question_id"].removeprefix(PREFIX)
    identity = own_id if not given or is_number_of(given, own_id) else given
    own = rater_of(row.cells["rater"]) or rater
    return Judgement(index, identity, row.cells["outcome"], IMPORTED, own)


def export_csv(run: Run, path: Path) -> int:
    """Writes every answer with its judgements for a spreadsheet; returns the number of rows.

    An answer without a judgement has one row with an empty outcome.
    """
    by_question: dict[int, list[Judgement]] = {}
    for row in read_outcomes(run):
        by_question.setdefault(row.question_index, []).append(row)
    rows: list[list[object]] = []
    for answer in run.answers(["question_index", "question_id", "question", "answer"]).to_pylist():
        index, identity = answer["question_index"], id_cell(answer["question_id"])
        for row in by_question.get(index, [Judgement(index, "", None, "")]):
            margin = None if row.margin is None else float(f"{row.margin:.6g}")
            judgement = (row.outcome, row.source, rater_cell(row.rater), margin)
            rows.append([index, identity, *judgement, answer["question"], answer["answer"]])
    write_csv(path, COLUMNS, rows)
    return len(rows)


def id_cell(identity: str) -> str:
    """A question_id that stays as it is in a spreadsheet."""
    return PREFIX + identity if NUMBER_OR_DATE.fullmatch(identity) else identity


def is_number_of(cell: str, identity: str) -> bool:
    """Whether a spreadsheet may have made this cell of an id that was exported without PREFIX, as version
    0.2 did: it shows six digits of a long number."""
    try:
        return math.isclose(float(cell.replace(",", ".")), float(identity), rel_tol=1e-5)
    except ValueError:
        return False


def rater_cell(rater: str) -> str:
    """A rater's name that stays as it is in a spreadsheet: 007 is not 7."""
    return rater if KEPT.fullmatch(rater.lstrip(MARK)) or not rater else MARK + rater


def rater_of(cell: str) -> str:
    """The name of which rater_cell and the writer of the file made this cell."""
    text = plain_text(cell)
    return text[1:] if text.startswith(MARK) and not KEPT.fullmatch(text.lstrip(MARK)) else text
