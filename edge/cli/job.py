"""Long jobs of a command: progress, and a hint how to continue where one was stopped."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from edge.cli.common import console, errors, print_note, print_notice
from edge.cli.progress import Job, OnProgress, with_progress
from edge.cli.terminal import escaped, unmarked
from edge.errors import OnNote
from edge.jobs.interrupt import Interrupted

Result = TypeVar("Result")


def follow_job(job: Callable[[OnProgress, OnNote], Result], title: str, quiet: bool) -> Result:
    """Runs a job under its progress view; after an interruption it prints a hint and exits with its code."""
    try:
        return with_progress(job, title, errors, print_note, quiet=quiet)
    except Interrupted as error:
        program = [Path(sys.argv[0]).name]
        if program == ["__main__.py"]:
            program = ["python", "-m", "edge"]
        command = shlex.join([*program, *sys.argv[1:]])
        hint = f"interrupted: finished answers are kept, go on with: {escaped(command)}"
        errors.print(hint, style="yellow", markup=False, soft_wrap=True)
        raise typer.Exit(error.code) from None


def trace_job(job: Job, title: str, out: Path, quiet: bool) -> None:
    """Follows a job that writes a run; prints its label, number of questions and folder."""
    manifest = follow_job(job, title, quiet)
    console.print(
        unmarked(f"{manifest.label}: {manifest.questions.selected} questions traced in {out}"),
        soft_wrap=True,
    )
    print_notice(manifest.notice)
