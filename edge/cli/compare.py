"""`edge compare`: one run against the full-precision one in detail, or several artifacts side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.analysis.artifacts import best_fit, check_room, compare_artifacts
from edge.analysis.classes import DELTA
from edge.analysis.divergence import compare as compare_runs
from edge.cli.artifact_table import artifact_table
from edge.cli.common import check_json, console, print_note, write_json
from edge.cli.completion import complete_runs
from edge.cli.options import Delta, JsonFile
from edge.cli.tables import comparison
from edge.cli.terminal import unmarked
from edge.runs.run_directory import Run
from edge.runs.sessions import cautions


def compare(
    full: Annotated[
        Path, typer.Argument(help="Run of the full-precision artifact.", autocompletion=complete_runs)
    ],
    quantised: Annotated[
        list[Path],
        typer.Argument(
            help="Runs of quantised ones: free-running, or from `edge force`.", autocompletion=complete_runs
        ),
    ],
    fits: Annotated[
        float | None, typer.Option(help="Name the least damaged that fits in so many GB of memory.")
    ] = None,
    delta: Delta = DELTA,
    json_file: JsonFile = None,
) -> None:
    """The command `edge compare`; its help is in edge/cli/app.py."""
    check_json(json_file)
    if fits is not None:
        check_room(fits)
    reference, others = Run.open(full), [Run.open(path) for path in quantised]
    # What several machines or versions computed is told beside the numbers, and in their JSON.
    told = cautions([(str(run.folder), run.sessions()) for run in (reference, *others)])
    for caution in told:
        print_note(caution)
    if len(others) == 1 and fits is None:
        single = compare_runs(reference, others[0], delta)
        if json_file != "-":
            console.print(comparison(single))
        if json_file:
            write_json(json_file, single.to_json() | {"cautions": told})
        return
    several = compare_artifacts(reference, others, delta)
    fit = best_fit(several, fits) if fits is not None else None
    if json_file != "-":
        console.print(artifact_table(several))
        if fit:
            console.print(unmarked(fit.text), soft_wrap=True)
    if json_file:
        write_json(json_file, several.to_json() | {"fits": fit.to_json() if fit else None, "cautions": told})
