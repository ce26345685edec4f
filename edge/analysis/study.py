"""All that `edge paper` and the report say of a run, in one pass over its steps; several runs side by side
in processes."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge.analysis.dynamics import DELTA
from edge.analysis.intervals import Float64
from edge.analysis.labels import Labels, read_labels
from edge.analysis.paper import PaperRun, analyse_paper
from edge.analysis.tokens import points, read_tokens
from edge.analysis.truth import AurocChange, Scores, Truth, analyse_truth, compare_truth, scores_of
from edge.errors import UserError
from edge.runs.run_directory import Run

# The four relations of Figure 3. Our sources do not name the paper's pairs: these four are our choice.
RELATIONS = (
    ("output_entropy", "top1_probability"),
    ("output_entropy", "attention_entropy"),
    ("attention_entropy", "head_dispersion"),
    ("output_entropy", "layer_delta"),
)


@dataclass(frozen=True)
class Study:
    """One run. `truth` and `labels` are None where nobody has judged its answers; `relations` holds some
    tokens [n, 2] of each of RELATIONS that the run has."""

    name: str
    paper: PaperRun
    truth: Truth | None
    labels: Labels | None
    scores: Scores | None
    relations: dict[tuple[str, str], Float64]


def study(run: Run, *, name: str = "", question: int | None = None, delta: float = DELTA) -> Study:
    """Raises UserError for what the run does not hold. `name` stands for the run in tables (its label
    without one)."""
    tokens, labels = read_tokens(run), read_labels(run)
    paper = analyse_paper(run, question=question, delta=delta, tokens=tokens)
    shown = name or paper.label
    scores = None if labels is None else scores_of(run, tokens)
    truth = None
    if labels is not None and scores is not None:
        truth = dataclasses.replace(analyse_truth(run, labels, tokens, scores), label=shown)
    known = set(tokens.names)
    return Study(
        name=shown,
        paper=dataclasses.replace(paper, label=shown),
        truth=truth,
        labels=labels,
        scores=scores,
        relations={pair: points(tokens, *pair) for pair in RELATIONS if known.issuperset(pair)},
    )


def study_folder(folder: Path, name: str, question: int | None, delta: float) -> Study:
    return study(Run.open(folder), name=name, question=question, delta=delta)


def study_runs(
    runs: Sequence[Run], *, question: int | None = None, delta: float = DELTA, jobs: int = 1
) -> list[Study]:
    """Every run, `jobs` at a time in processes of their own. Raises UserError where the runs are not over
    the same questions."""
    if not runs:
        raise UserError("there is nothing to analyse: give at least one run directory")
    for run in runs[1:]:
        if run.manifest.questions.sha256 != runs[0].manifest.questions.sha256:
            raise UserError(
                f"{runs[0].folder} and {run.folder} hold different questions: give runs over the same ones"
            )
    work = [(run.folder, name, question, delta) for run, name in zip(runs, names_of(runs), strict=True)]
    if min(jobs, len(runs)) < 2:
        return [study_folder(*arguments) for arguments in work]
    # A fresh interpreter each: a forked one would inherit threads of the BLAS in whatever state they are.
    # One thread in each: as many processes as cores share them better than threads that wait for one
    # another.
    try:
        with (
            one_blas_thread(),
            ProcessPoolExecutor(
                min(jobs, len(runs)), mp_context=multiprocessing.get_context("spawn")
            ) as pool,
        ):
            return list(pool.map(study_folder, *zip(*work, strict=True)))
    except BrokenProcessPool:
        raise UserError(
            "a process of the analysis was ended from outside (out of memory?): run it with --jobs 1"
        ) from None


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """For interpreters started inside: what the user has set stays."""
    name = "OPENBLAS_NUM_THREADS"
    given = os.environ.get(name)
    os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]


def names_of(runs: Sequence[Run]) -> list[str]:
    """Labels, with the folder's name where two are alike."""
    labels = [run.manifest.label for run in runs]
    return [
        f"{label} ({run.folder.name})" if labels.count(label) > 1 else label
        for label, run in zip(labels, runs, strict=True)
    ]


class Change(NamedTuple):
    """How a run's scores rank its answers against how the first judged run's do."""

    against: str
    run: str
    changes: tuple[AurocChange, ...]


def changes_of(studies: Sequence[Study], jobs: int = 1) -> list[Change]:
    """Each later run that was judged against the first that was; `jobs` pairs at a time (numpy lets threads
    run side by side)."""
    judged = [
        (s.name, (s.scores, s.labels)) for s in studies if s.scores is not None and s.labels is not None
    ]
    if len(judged) < 2:
        return []
    (first, one), others = judged[0], judged[1:]
    with ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda other: compare_truth(one, other[1]), others)
        return [Change(first, name, changes) for (name, _), changes in zip(others, found, strict=True)]
