"""RUN/outcomes.parquet: how each answer came out, by whom it was judged, and its scores against the
references."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import getpass
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from edge.errors import UserError
from edge.files import LOCK_NAME, write_whole
from edge.questions.question import Question, questions_sha256
from edge.questions.similarity import NEAREST_BY, SCORES, against
from edge.runs.parts import read_part, write_table
from edge.runs.run_directory import Run

OUTCOMES_NAME = "outcomes.parquet"
OUTCOMES = ("best", "correct", "best_incorrect", "incorrect")
UNTRUE = frozenset(("best_incorrect", "incorrect"))
AUTOMATIC, HAND, IMPORTED = "automatic", "hand", "imported"
REQUIRED = ("question_index", "question_id", "outcome", "source")
OPTIONAL = ("rater", "margin")  # a file made elsewhere may do without
SCHEMA = pa.schema(
    [
        ("question_index", pa.int32()),
        ("question_id", pa.string()),
        ("outcome", pa.string()),
        ("source", pa.string()),
        ("rater", pa.string()),
        ("margin", pa.float32()),
        *((name, pa.float64()) for name in SCORES),
    ]
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so


@dataclass(frozen=True)
class Judgement:
    """What one rater says of one answer. `outcome` is one of OUTCOMES, None for undecided; `source` is
    AUTOMATIC, HAND or IMPORTED. An automatic judgement has the `margin` by which its outcome was nearer, and
    `scores` (SCORES)."""

    question_index: int
    question_id: str
    outcome: str | None
    source: str
    rater: str = ""
    margin: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, bool, str]:
        """The same for two judgements of which the later one counts: a rater has one of each answer. A
        program may have a person's name."""
        return self.question_index, self.source == AUTOMATIC, self.rater


def identities(run: Run) -> dict[int, str]:
    """The run's question_id by question_index."""
    table = run.answers(["question_index", "question_id"])
    indices, ids = (column.to_pylist() for column in table.columns)
    return dict(zip(indices, ids, strict=True))


def read_outcomes(run: Run) -> list[Judgement]:
    """All judgements of a run, none where nobody has judged it. Raises UserError for a damaged file, labels
    of questions that the run does not hold, and words that are no outcome."""
    path = run.folder / OUTCOMES_NAME
    if not path.is_file():
        return []
    table = read_part(path)
    if missing := [name for name in REQUIRED if name not in table.column_names]:
        raise UserError(f"{path} lacks the column {' and '.join(missing)}: label the run again")
    scored = [name for name in SCORES if name in table.column_names]
    judgements = []
    for row in table.to_pylist():
        scores = {name: row[name] for name in scored} if row["source"] == AUTOMATIC else {}
        given = {name: row[name] for name in OPTIONAL if row.get(name) is not None}
        judgements.append(Judgement(**{name: row[name] for name in REQUIRED}, **given, scores=scores))
    check(judgements, run, path)
    return judgements


def check(judgements: Iterable[Judgement], run: Run, path: Path) -> None:
    """Raises UserError for one of another question than the run's, or with a word that is no outcome; `path`
    is where they stand."""
    known = identities(run)
    for row in judgements:
        index = row.question_index
        if known.get(index) != row.question_id:
            raise UserError(
                f"{path} labels question {index} ({row.question_id}), which {run.folder} does not hold: "
                "label this run's answers"
            )
        if row.outcome is not None and row.outcome not in OUTCOMES:
            raise UserError(
                f"{path} calls question {index} {row.outcome!r:.40}: "
                f"an outcome is one of {', '.join(OUTCOMES)}"
            )


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Holds the run's lock, so that two raters do not overwrite each other's judgements. Raises UserError
    where the run cannot be written."""
    try:
        stream = (run.folder / LOCK_NAME).open("a")
    except OSError as error:
        raise UserError(
            f"cannot write {run.folder} ({error.strerror}): copy the run to where it can be labelled"
        ) from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def save(run: Run, judgements: Sequence[Judgement]) -> None:
    """Adds judgements to the run's file, in the place of the same raters' earlier ones."""
    with locked(run):
        rows = {row.key: row for row in [*read_outcomes(run), *judgements]}
        flat = []
        for key in sorted(rows):
            row = asdict(rows[key])
            scores = row.pop("scores")
            flat.append(row | scores)
        write_table(run.folder / OUTCOMES_NAME, pa.Table.from_pylist(flat, schema=SCHEMA))


def matched(run: Run, questions: Sequence[Question]) -> list[tuple[Question, str]]:
    """Each question of the run with the run's answer; raises UserError when the run asked others."""
    if questions_sha256(questions) != run.manifest.questions.sha256:
        raise UserError(
            f"{run.folder} asked other questions than these: "
            "give the file that it was traced with by --questions"
        )
    table = run.answers(["question_index", "answer"])
    indices, answers = (column.to_pylist() for column in table.columns)
    return [(questions[index], answer) for index, answer in zip(indices, answers, strict=True)]


def judge_automatically(run: Run, questions: Sequence[Question]) -> list[Judgement]:
    """Judges every answer by the nearest reference; words are compared, not meanings."""
    judgements = []
    for question, answer in matched(run, questions):
        scores, (outcome, margin) = against(answer, question)
        known = None if math.isnan(margin) else margin
        judgements.append(
            Judgement(question.index, question.question_id, outcome, AUTOMATIC, NEAREST_BY, known, scores)
        )
    return judgements


# CSV


def import_csv(run: Run, path: Path, rater: str) -> list[Judgement]:
    """Reads people's labels from the columns question_index and outcome; question_id, rater and source are
    heeded where they are there. Rows without an outcome and automatic ones are left out. Raises UserError
    for what does not fit the run."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): give a CSV in UTF-8 with --import") from error
    known, judgements = identities(run), list[Judgement]()
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        columns = reader.fieldnames or ()
        if missing := [name for name in ("question_index", "outcome") if name not in columns]:
            raise UserError(f"{path} lacks the column {' and '.join(missing)}: make one with --export")
        for number, cells in enumerate(reader, 1):
            outcome = (cells["outcome"] or "").strip()
            if not outcome or cells.get("source") == AUTOMATIC:
                continue
            index = (cells["question_index"] or "").strip()
            if not (index.isascii() and index.isdigit()):
                raise UserError(
                    f"{path} has {index!r:.40} as question_index in data row {number}: give a whole number"
                )
            identity = cells.get("question_id") or known.get(int(index), "unknown")
            who = (cells.get("rater") or "").strip() or rater
            judgements.append(Judgement(int(index), identity, outcome, IMPORTED, who))
    except csv.Error as error:
        raise UserError(f"{path} is not a well-formed CSV ({error}): save it again as CSV") from error
    if not judgements:
        raise UserError(f"{path} holds no outcome: fill the column in with {', '.join(OUTCOMES)}")
    check(judgements, run, path)
    seen = set[tuple[int, bool, str]]()
    for row in judgements:
        if row.key in seen:
            raise UserError(
                f"{path} labels question {row.question_index} twice for one rater: keep one of the rows"
            )
        seen.add(row.key)
    return judgements


def export_csv(run: Run, path: Path) -> int:
    """Writes every answer with its judgements for a spreadsheet, a row without outcome where there is none;
    returns the number of rows."""
    by_question: dict[int, list[Judgement]] = {}
    for row in read_outcomes(run):
        by_question.setdefault(row.question_index, []).append(row)
    names = ("question_index", "question_id", "outcome", "source", "rater", "margin", "question", "answer")
    rows: list[list[Any]] = []
    for answer in run.answers(["question_index", "question_id", "question", "answer"]).to_pylist():
        index, texts = answer["question_index"], [quoted(answer[name]) for name in ("question", "answer")]
        for row in by_question.get(index, [Judgement(index, "", None, "")]):
            margin = "" if row.margin is None else f"{row.margin:.6g}"
            judged = [row.outcome or "", row.source, row.rater, margin]
            rows.append([index, answer["question_id"], *judged, *texts])

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([names, *rows])

    write_whole(path, write)
    return len(rows)


def quoted(text: str) -> str:
    """The text with a quote before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if text.startswith(FORMULA) else text


def default_rater() -> str:
    """The user's name, "1" where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "1"
