"""Questions with their reference answers, read from TruthfulQA's files or your own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edge.errors import UserError
from edge.files import DATA, data_folder
from edge.questions.hub import JSON_LINES, PARQUET, cells_of, read_rows
from edge.spreadsheet import Row, is_blank, read_csv

EMBEDDED = DATA / "questions.csv"
REQUIRED = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
OPTIONAL = ("Best Incorrect Answer", "Type", "Category", "Source")
# An answer ends at a semicolon, but not at that of a character written as in HTML.
ANSWER = re.compile(r"(?:&(?:amp|lt|gt|quot|apos|nbsp|#\d+|#x[0-9a-f]+);|[^;])+", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """One question; `index` is its row in the file, from 0.

    `best_incorrect` is "" in TruthfulQA's file of 817 questions (before 2025), which lacks it.
    """

    index: int
    question: str
    best: str
    best_incorrect: str
    correct: tuple[str, ...]
    incorrect: tuple[str, ...]
    type: str = ""
    category: str = ""
    source: str = ""

    @property
    def question_id(self) -> str:
        """First 12 hex digits of the SHA-256 of the question's text."""
        return hashlib.sha256(self.question.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def fetched_path() -> Path:
    """Path of the authors' CSV once fetched: below $XDG_DATA_HOME, by default ~/.local/share.

    Raises UserError for a user without a home folder.
    """
    return data_folder("questions") / "truthfulqa.csv"


def default_questions() -> Path:
    """Path of the authors' questions where they have been fetched and can be seen, else of the embedded."""
    try:
        return fetched_path() if fetched_path().is_file() else EMBEDDED
    except (UserError, PermissionError):  # no home folder, or another user's
        return EMBEDDED


def split_answers(cell: str) -> tuple[str, ...]:
    """The answers of a CSV cell, without empty ones."""
    return tuple(answer for part in ANSWER.findall(cell) if (answer := part.strip()))


def read_questions(path: str | Path) -> list[Question]:
    """Reads a CSV in TruthfulQA's columns (those of 2025 or before), or the hub's Parquet or JSON lines.

    The file name's suffix decides; further columns and blank rows are ignored. A CSV may have commas,
    semicolons or tabs between its cells (edge.spreadsheet). Raises UserError, naming file, row and mend,
    when the file is missing, empty or in another encoding, lacks a column or a question, or has a row with
    more or fewer cells than it should.
    """
    path = Path(path)
    if path.suffix.lower() in (PARQUET, *JSON_LINES):
        rows = enumerate(read_rows(path))
        return [question_of_cells(path, index, *cells_of(path, index, row)) for index, row in rows]
    try:
        questions = [question_of_row(path, row) for row in read_csv(path, REQUIRED, OPTIONAL)]
    except OSError as error:
        raise UserError(
            f"cannot read the questions {path} ({error.strerror}): give a CSV file with --questions"
        ) from error
    if not questions:
        raise UserError(f"{path} has columns but no questions: add at least one row")
    return questions


def question_of_row(path: Path, row: Row) -> Question:
    """The question of a CSV row; raises UserError when its text is missing."""
    cells = row.cells
    correct, incorrect = (split_answers(cells[name]) for name in ("Correct Answers", "Incorrect Answers"))
    return question_of_cells(path, row.number - 1, cells, correct, incorrect)


def question_of_cells(
    path: Path, index: int, cells: Mapping[str, str], correct: tuple[str, ...], incorrect: tuple[str, ...]
) -> Question:
    """The question of cells under the CSV's names; raises UserError when its text is missing."""
    if is_blank(cells["Question"]):
        raise UserError(f"{path} has no question in data row {index + 1}: fill it in or delete the row")
    return Question(
        index=index,
        question=cells["Question"],
        best=cells["Best Answer"],
        best_incorrect=cells.get("Best Incorrect Answer", ""),
        correct=correct,
        incorrect=incorrect,
        type=cells.get("Type", ""),
        category=cells.get("Category", ""),
        source=cells.get("Source", ""),
    )


def questions_sha256(questions: Sequence[Question]) -> str:
    """SHA-256 (hex) of the questions' content, the same for every file that holds them."""
    return hashlib.sha256(json.dumps([asdict(q) for q in questions], sort_keys=True).encode()).hexdigest()


def select(questions: Sequence[Question], limit: int | None, shard: str) -> list[Question]:
    """Every N-th of the first `limit` questions for shard I/N (I from 1).

    Raises UserError for numbers out of range and for a shard without questions.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}: a positive number of questions is needed")
    number, count = parse_shard(shard)
    first = list(questions[:limit])
    if first and number > len(first):
        raise UserError(
            f"--shard is {shard} of {len(first)} questions and would have none: "
            f"make at most {len(first)} shards"
        )
    return first[number - 1 :: count]


def parse_shard(shard: str) -> tuple[int, int]:
    """Parses "I/N"; raises UserError unless 1 <= I <= N."""
    number, _, count = shard.partition("/")
    are_digits = all(part.isascii() and part.isdigit() for part in (number, count))
    if are_digits and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise UserError(f"--shard is {shard!r}: give I/N with I from 1 to N, for example 2/4")
