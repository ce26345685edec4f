"""A long job of a command: shown as it goes on, and what is said when it is stopped."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from edge.cli.common import console, errors, say_note, say_notice
from edge.cli.progress import Job, OnProgress, with_progress
from edge.cli.terminal import escaped, unmarked
from edge.errors import OnNote
from edge.jobs.interrupt import Interrupted

Made = TypeVar("Made")


def follow_job(job: Callable[[OnProgress, OnNote], Made], title: str, quiet: bool) -> Made:
    """Runs the job under its progress view; an interruption exits with its code after a hint how to go
    on."""
    try:
        return with_progress(job, title, errors, say_note, quiet=quiet)
    except Interrupted as error:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        hint = f"interrupted: finished answers are kept, go on with: {escaped(command)}"
        errors.print(hint, style="yellow", markup=False, soft_wrap=True)
        raise typer.Exit(error.code) from None


def trace_job(job: Job, title: str, out: Path, quiet: bool) -> None:
    """Follows a job that traces, and says what it made."""
    manifest = follow_job(job, title, quiet)
    console.print(
        unmarked(f"{manifest.label}: {manifest.questions.selected} questions traced in {out}"),
        soft_wrap=True,
    )
    say_notice(manifest.notice)
