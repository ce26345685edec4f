"""Writes the report: one HTML file that opens offline and asks no server for anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edge.analysis.classes import DELTA
from edge.errors import UserError
from edge.files import write_whole
from edge.report.html import plotly_js, render
from edge.report.model import build_groups
from edge.runs.run_directory import Run


class ReportSummary(NamedTuple):
    """What was written. `questions` counts each model's questions once, however many runs answered them."""

    path: Path
    bytes: int
    models: int
    runs: int
    questions: int


def write_report(runs: Sequence[Run], out: Path, *, delta: float = DELTA) -> ReportSummary:
    """Writes the report of `runs` to the HTML file `out`, whole or not at all.

    Runs are grouped by model id. In each group the others are compared with the most exact free run.
    `delta` is the shift in nats that still counts as balanced. Raises UserError when plotly is missing,
    `out` cannot be written, or runs of one model cannot be compared.
    """
    # What can fail early is checked before minutes of analysis.
    plotly = plotly_js()
    check_target(out)
    groups = build_groups(runs, delta)
    text = render(groups, plotly).encode("utf-8", "replace")  # a damaged run.json may hold half a character
    write_whole(out, lambda temporary: temporary.write_bytes(text))
    return ReportSummary(
        path=out,
        bytes=len(text),
        models=len(groups),
        runs=sum(len(group.runs) for group in groups),
        questions=sum(group.reference.dynamics.questions for group in groups),
    )


def check_target(out: Path) -> None:
    """Makes missing folders; raises UserError where no file can be written."""
    if out.is_dir():
        raise UserError(f"{out} is a folder: give the name of an HTML file with --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {out.parent} ({error.strerror}): give another --out"
        ) from error
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"cannot write into {out.parent} (permission denied): give another --out")
