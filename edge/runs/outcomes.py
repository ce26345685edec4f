"""RUN/outcomes.parquet: how each answer came out, by whom it was judged, and its scores against the
references."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import getpass
import io
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
    """One row. `outcome` None: undecided. `margin` and `scores` (SCORES) are an automatic one's."""

    question_index: int
    question_id: str
    outcome: str | None
    source: str
    rater: str = ""
    margin: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, bool, str]:
        """A rater has one judgement of an answer; a program may have a person's name."""
        return self.question_index, self.source == AUTOMATIC, self.rater


def identities(run: Run) -> dict[int, str]:
    """question_id by question_index of the run."""
    table = run.answers(["question_index", "question_id"])
    return dict(
        zip(*(table.column(name).to_pylist() for name in ("question_index", "question_id")), strict=True)
    )


def read_outcomes(run: Run) -> list[Judgement]:
    """All judgements of a run, none where nobody has judged it. Raises UserError for a damaged file, labels
    of questions that the run does not hold, and words that are no outcome."""
    path = run.folder / OUTCOMES_NAME
    if not path.is_file():
        return []
    table = read_part(path)
    if missing := [name for name in REQUIRED if name not in table.column_names]:
        raise UserError(f"{path} lacks the column {' and '.join(missing)}: label the run again")
    there = [name for name in SCORES if name in table.column_names]
    found = []
    for row in table.to_pylist():
        scores = {name: row[name] for name in there} if row["source"] == AUTOMATIC else {}
        given = {name: row[name] for name in OPTIONAL if row.get(name) is not None}
        found.append(Judgement(**{name: row[name] for name in REQUIRED}, **given, scores=scores))
    check(found, run, path)
    return found


def check(judgements: Iterable[Judgement], run: Run, path: Path) -> None:
    known = identities(run)
    for row in judgements:
        index = row.question_index
        if known.get(index) != row.question_id:
            raise UserError(
                f"{path} labels question {index} ({row.question_id}), which {run.folder} does not hold: "
                f"label this run's answers"
            )
        if row.outcome is not None and row.outcome not in OUTCOMES:
            raise UserError(
                f"{path} calls question {index} {row.outcome!r:.40}: an outcome is one of "
                f"{', '.join(OUTCOMES)}"
            )


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Two raters of one run do not overwrite each other's judgements."""
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
        columns = [asdict(rows[key]) for key in sorted(rows)]
        flat = [
            {name: value for name, value in row.items() if name != "scores"} | row["scores"]
            for row in columns
        ]
        write_table(run.folder / OUTCOMES_NAME, pa.Table.from_pylist(flat, schema=SCHEMA))


def matched(run: Run, questions: Sequence[Question]) -> list[tuple[Question, str]]:
    """Each question of the run with the run's answer; raises UserError when the run asked others."""
    if questions_sha256(questions) != run.manifest.questions.sha256:
        raise UserError(
            f"{run.folder} asked other questions than these: give the file that it was traced with by "
            f"--questions"
        )
    table = run.answers(["question_index", "answer"])
    return [
        (questions[index], answer)
        for index, answer in zip(*(c.to_pylist() for c in table.columns), strict=True)
    ]


def judge_automatically(run: Run, questions: Sequence[Question]) -> list[Judgement]:
    """By the nearest reference; words are compared, not meanings."""
    found = []
    for question, answer in matched(run, questions):
        scores, (outcome, margin) = against(answer, question)
        known = None if margin != margin else margin
        found.append(
            Judgement(question.index, question.question_id, outcome, AUTOMATIC, NEAREST_BY, known, scores)
        )
    return found


# CSV


def import_csv(run: Run, path: Path, rater: str) -> list[Judgement]:
    """People's labels from columns question_index and outcome; question_id, rater and source are heeded
    where they are there. Rows without an outcome and automatic ones are left out. Raises UserError for what
    does not fit the run."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}): give a CSV in UTF-8 with --import") from error
    known, found = identities(run), list[Judgement]()
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        if missing := [
            name for name in ("question_index", "outcome") if name not in (reader.fieldnames or ())
        ]:
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
            found.append(
                Judgement(
                    int(index), identity, outcome, IMPORTED, (cells.get("rater") or "").strip() or rater
                )
            )
    except csv.Error as error:
        raise UserError(f"{path} is not a well-formed CSV ({error}): save it again as CSV") from error
    if not found:
        raise UserError(f"{path} holds no outcome: fill the column in with {', '.join(OUTCOMES)}")
    check(found, run, path)
    seen = set[tuple[int, bool, str]]()
    for row in found:
        if row.key in seen:
            raise UserError(
                f"{path} labels question {row.question_index} twice for one rater: keep one of the rows"
            )
        seen.add(row.key)
    return found


def export_csv(run: Run, path: Path) -> int:
    """Every answer with its judgements (a row without outcome where there is none) for a spreadsheet; the
    number of rows."""
    by_question: dict[int, list[Judgement]] = {}
    for row in read_outcomes(run):
        by_question.setdefault(row.question_index, []).append(row)
    names = ("question_index", "question_id", "outcome", "source", "rater", "margin", "question", "answer")
    rows: list[list[Any]] = []
    for answer in run.answers(["question_index", "question_id", "question", "answer"]).to_pylist():
        texts = [
            answer[name] if not answer[name].startswith(FORMULA) else f"'{answer[name]}"
            for name in ("question", "answer")
        ]
        for row in by_question.get(answer["question_index"], []) or [
            Judgement(answer["question_index"], "", None, "", "")
        ]:
            margin = "" if row.margin is None else f"{row.margin:.6g}"
            rows.append(
                [
                    row.question_index,
                    answer["question_id"],
                    row.outcome or "",
                    row.source,
                    row.rater,
                    margin,
                    *texts,
                ]
            )

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([names, *rows])

    write_whole(path, write)
    return len(rows)


def default_rater() -> str:
    """The user's name, "1" where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "1"
