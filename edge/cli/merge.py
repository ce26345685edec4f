"""`edge merge`: shards traced on several boards become one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.common import console, print_note
from edge.cli.completion import complete_runs
from edge.cli.terminal import unmarked
from edge.runs.merge import merge as merge_runs


def merge(
    runs: Annotated[
        list[Path], typer.Argument(help="Runs of all shards, in any order.", autocompletion=complete_runs)
    ],
    out: Annotated[Path, typer.Option(help="Run directory to make.")],
) -> None:
    """The command `edge merge`; its help is in edge/cli/app.py."""
    manifest = merge_runs(runs, out, print_note)
    console.print(
        unmarked(
            f"{manifest.label}: {manifest.questions.selected} questions of {len(runs)} shards in {out}"
        ),
        soft_wrap=True,
    )
