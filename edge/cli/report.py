"""`edge report`: one HTML file about runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.analysis.classes import DELTA
from edge.cli.common import console
from edge.cli.completion import complete_runs
from edge.cli.options import Delta
from edge.cli.terminal import unmarked
from edge.runs.run_directory import Run


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run directories; those of one model are compared.", autocompletion=complete_runs
        ),
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    delta: Delta = DELTA,
) -> None:
    """The command `edge report`; its help is in edge/cli/app.py."""
    from edge.report.write import write_report  # plotly is large: only this command pays for it

    page = write_report([Run.open(path) for path in runs], out, delta=delta)
    console.print(unmarked(f"{page.path}: {page.bytes / 1e6:.1f} MB, {page.runs} runs"), soft_wrap=True)
