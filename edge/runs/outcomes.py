"""RUN/outcomes.parquet: the outcome of each answer, who judged it, and its scores against the references."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa

from edge.errors import UserError
from edge.files import LOCK_NAME
from edge.questions.question import Question, questions_sha256
from edge.questions.similarity import NEAREST_BY, SCORES, compare_with_references
from edge.runs.parts import read_part, write_table
from edge.runs.run_directory import Run

OUTCOMES_NAME = "outcomes.parquet"
OUTCOMES = ("best", "correct", "best_incorrect", "incorrect")
UNTRUE = frozenset(("best_incorrect", "incorrect"))
AUTOMATIC, HAND, IMPORTED = "automatic", "hand", "imported"
REQUIRED = ("question_index", "question_id", "outcome", "source")
OPTIONAL = ("rater", "margin")  # may be missing in a file of another program
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


@dataclass(frozen=True)
class Judgement:
    """One rater's judgement of one answer.

    `outcome` is one of OUTCOMES, None for undecided; `source` is AUTOMATIC, HAND or IMPORTED. An automatic
    judgement has the `margin` by which its outcome was nearer, and `scores` (SCORES).
    """

    question_index: int
    question_id: str
    outcome: str | None
    source: str
    rater: str = ""
    margin: float | None = None
    scores: dict[str, float | None] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, bool, str]:
        """Identifies what a later judgement replaces: one rater has one judgement of each answer.

        A program's judgement never replaces that of a person with the same name.
        """
        return self.question_index, self.source == AUTOMATIC, self.rater


def identities(run: Run) -> dict[int, str]:
    """Maps question_index to question_id, for all questions of the run."""
    table = run.answers(["question_index", "question_id"])
    indices, ids = (column.to_pylist() for column in table.columns)
    return dict(zip(indices, ids, strict=True))


def read_outcomes(run: Run) -> list[Judgement]:
    """Reads the judgements of a run, none where nobody has judged it.

    Raises UserError for a damaged file, labels of questions that the run does not hold, and unknown
    outcomes.
    """
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
        required = {name: row[name] for name in REQUIRED}
        optional = {name: row[name] for name in OPTIONAL if row.get(name) is not None}
        judgements.append(Judgement(**required, **optional, scores=scores))
    check(judgements, run, path)
    return judgements


def check(judgements: Iterable[Judgement], run: Run, path: Path) -> None:
    """Raises UserError for a question that the run does not hold, and for an unknown outcome.

    `path` is the file that holds the judgements.
    """
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
    """Holds the run's lock, so that two raters do not overwrite each other's judgements.

    Raises UserError where the run cannot be written.
    """
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
    """Adds judgements to the run's file; they replace earlier ones with the same key."""
    with locked(run):
        rows = {row.key: row for row in [*read_outcomes(run), *judgements]}
        flat = []
        for key in sorted(rows):
            row = asdict(rows[key])
            scores = row.pop("scores")
            flat.append(row | scores)
        write_table(run.folder / OUTCOMES_NAME, pa.Table.from_pylist(flat, schema=SCHEMA))


def questions_with_answers(run: Run, questions: Sequence[Question]) -> list[tuple[Question, str]]:
    """Pairs each question of the run with its answer; raises UserError when the run asked others."""
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
    for question, answer in questions_with_answers(run, questions):
        scores, (outcome, margin) = compare_with_references(answer, question)
        known = None if math.isnan(margin) else margin
        judgements.append(
            Judgement(question.index, question.question_id, outcome, AUTOMATIC, NEAREST_BY, known, scores)
        )
    return judgements


def default_rater() -> str:
    """The user's name, "1" where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "1"
