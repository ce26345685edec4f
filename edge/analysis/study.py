"""Analysis of runs for `edge paper` and the report: one pass over each run's steps, runs in parallel."""

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

from edge.analysis.auroc_change import AurocChange, compare_truth
from edge.analysis.classes import DELTA
from edge.analysis.intervals import Float64
from edge.analysis.labels import Labels, read_labels
from edge.analysis.paper import PaperRun, analyse_paper
from edge.analysis.scores import Scores, scores_of
from edge.analysis.tokens import points, read_tokens
from edge.analysis.truth import Truth, analyse_truth
from edge.errors import UserError
from edge.machine.processes import end_with_parent, ending, starting
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
    """Results of one run. `truth`, `labels` and `scores` are None if nobody has judged its answers.
    `relations` holds some tokens [n, 2] for each of RELATIONS that the run has."""

    name: str
    paper: PaperRun
    truth: Truth | None
    labels: Labels | None
    scores: Scores | None
    relations: dict[tuple[str, str], Float64]


def study(run: Run, *, name: str = "", question: int | None = None, delta: float = DELTA) -> Study:
    """Analyse a run. `name` is its name in tables (by default its label), `question` the index of a chosen
    question. Raises UserError for a question that the run does not hold."""
    tokens, labels = read_tokens(run), read_labels(run)
    paper = analyse_paper(run, question=question, delta=delta, tokens=tokens)
    name = name or paper.label
    scores = None if labels is None else scores_of(run, tokens)
    truth = None
    if labels is not None and scores is not None:
        truth = dataclasses.replace(analyse_truth(run, labels, tokens, scores), label=name)
    known = set(tokens.names)
    return Study(
        name=name,
        paper=dataclasses.replace(paper, label=name),
        truth=truth,
        labels=labels,
        scores=scores,
        relations={pair: points(tokens, *pair) for pair in RELATIONS if known.issuperset(pair)},
    )


def study_folder(folder: Path, name: str, question: int | None, delta: float) -> Study:
    """Analyse the run in a folder; for a process of its own, which cannot take an open run."""
    return study(Run.open(folder), name=name, question=question, delta=delta)


def study_runs(
    runs: Sequence[Run], *, question: int | None = None, delta: float = DELTA, jobs: int = 1
) -> list[Study]:
    """Analyse every run, `jobs` at a time in separate processes. Raises UserError if the runs are not over
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
    # Spawned, not forked: a forked process would inherit the BLAS threads in an undefined state. One BLAS
    # thread each: there are as many processes as cores.
    spawn = multiprocessing.get_context("spawn")
    try:
        with (
            one_blas_thread(),
            ProcessPoolExecutor(min(jobs, len(runs)), spawn, initializer=end_with_parent) as pool,
            ending(),
        ):
            with starting():
                studies = pool.map(study_folder, *zip(*work, strict=True))
            return list(studies)
    except BrokenProcessPool:
        raise UserError(
            "a process of the analysis was ended from outside (out of memory?): run it with --jobs 1"
        ) from None


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit processes started inside to one BLAS thread, unless the user has set a number."""
    name = "OPENBLAS_NUM_THREADS"
    given = os.environ.get(name)
    os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        if given is None:
            del os.environ[name]


def names_of(runs: Sequence[Run]) -> list[str]:
    """Labels of the runs, with the folder's name where two are alike."""
    labels = [run.manifest.label for run in runs]
    return [
        f"{label} ({run.folder.name})" if labels.count(label) > 1 else label
        for label, run in zip(labels, runs, strict=True)
    ]


class Change(NamedTuple):
    """Changes of AUROC from the first judged run (`against`) to another run."""

    against: str
    run: str
    changes: tuple[AurocChange, ...]


def changes_of(studies: Sequence[Study], jobs: int = 1) -> list[Change]:
    """Compare each later judged run with the first judged one, `jobs` pairs at a time in threads (numpy
    releases the interpreter lock)."""
    judged = [(s.name, (s.scores, s.labels)) for s in studies if s.scores and s.labels]
    if len(judged) < 2:
        return []
    (first, one), others = judged[0], judged[1:]
    with ThreadPoolExecutor(jobs) as pool:
        results = pool.map(lambda other: compare_truth(one, other[1]), others)
        return [Change(first, name, changes) for (name, _), changes in zip(others, results, strict=True)]
