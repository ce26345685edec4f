"""`edge paper`: the paper's tables for our runs, what it left for later, and whether a metric predicts
untrue answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from edge.analysis.dynamics import DELTA
from edge.analysis.export import json_fields, write_tables
from edge.analysis.export import tables as flat_tables
from edge.analysis.paper import PaperRun
from edge.analysis.plain import plain
from edge.analysis.published import published
from edge.analysis.study import Change, Study, changes_of, study_runs
from edge.cli import tables
from edge.cli.common import check_json, console, write_json
from edge.cli.completion import complete_runs
from edge.cli.options import JsonFile
from edge.cli.terminal import escaped, unmarked
from edge.machine.device import usable_cores
from edge.report.paper import correlation_table, diffusion_text, paper_tables
from edge.report.tables import Table
from edge.report.truth import change_table, outcome_table, prediction_table, trajectory_text, verdict
from edge.runs.run_directory import Run

LONG, NARROW = 40, 14  # characters: cells from there on fold; the narrowest first column


def paper(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories over the same questions.", autocompletion=complete_runs),
    ],
    question: Annotated[
        int | None, typer.Option(help="Show this question_index beside the means.", min=0)
    ] = None,
    delta: Annotated[float, typer.Option(help="Shift in nats that still counts as balanced.")] = DELTA,
    correlations: Annotated[
        bool, typer.Option("--correlations", help="Print every correlation, too.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Write every table as CSV into this folder.")] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="Write every table as Parquet into this folder.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs analysed at once (default: as many as there are cores).", min=1)
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Tables 1 to 7 of arXiv 2604.03589 for runs, beside the paper's numbers; with outcomes, whether a
    metric predicts them."""
    check_json(json_file)
    opened = [Run.open(folder) for folder in dict.fromkeys(folder.resolve() for folder in runs)]
    studies = study_runs(opened, question=question, delta=delta, jobs=jobs or usable_cores())
    compared = changes_of(studies, jobs or usable_cores())
    made = flat_tables(studies, compared) if csv or parquet else {}
    written = [
        path
        for folder, suffix in ((csv, "csv"), (parquet, "parquet"))
        if folder
        for path in write_tables(folder, made, suffix)
    ]
    if json_file != "-":
        for found in studies:
            show(found, correlations)
        for first, second, changes in compared:
            show_table(change_table(first, second, changes))
        for path in written:
            console.print(unmarked(f"written: {path}"), soft_wrap=True)
    if json_file:
        write_json(json_file, as_json(studies, compared))


def show(found: Study, correlations: bool) -> None:
    console.print(
        Text(
            escaped(f"{found.name}: {found.paper.questions} questions, {found.paper.tokens} tokens"),
            style="bold",
        )
    )
    if found.paper.notice:
        console.print(Text(escaped(found.paper.notice), style="dim"))
    for table in paper_tables(found.paper, brief=True):
        show_table(table)
    if found.paper.diffusion:
        console.print(Text(diffusion_text(found.paper.diffusion)), "", sep="\n")
    if correlations:
        show_table(correlation_table(found.paper))
    if found.truth is None:
        console.print(
            Text(
                "No outcomes: judge the answers with 'edge label' to see whether a metric predicts untrue "
                "ones."
            ),
            "",
        )
        return
    show_table(outcome_table(found.truth))
    show_table(prediction_table(found.truth, brief=True))
    console.print(Text(f"{verdict(found.truth)}.", style="bold"))
    console.print(Text(trajectory_text(found.truth)), "", sep="\n")


def show_table(made: Table | None) -> None:
    """Numbers stay whole and the words before them fold; a row that needs more than the terminal has runs
    over its edge, for rich would cut digits off. Cells of words fold, too."""
    if made is None:
        return
    table = tables.table(made.caption, *made.columns)
    numeric = all(len(row[-1]) < LONG for row in made.rows)
    table.padding, table.columns[0].min_width, table.columns[0].no_wrap = (0, 1, 0, 0), NARROW, False
    for column in table.columns[1:]:
        column.no_wrap = numeric
    for row in made.rows:
        table.add_row(*(unmarked(cell) for cell in row))
    widths = [max(map(len, cells)) for cells in zip(made.columns, *made.rows, strict=True)]
    needed = (
        NARROW + sum(widths[1:]) + 2 * len(widths) + 1 if numeric else 0
    )  # a space of padding and one between columns
    wide = Console(
        highlight=False, width=max(console.width, needed), file=console.file
    )  # print(width=) would only narrow
    wide.print(table)


def as_values(paper: PaperRun) -> dict[str, Any]:
    layers = paper.layers.to_pylist() if paper.layers is not None else []
    return json_fields(dataclasses.replace(paper, layers=None)) | {"layers": layers}


def as_json(studies: list[Study], compared: list[Change]) -> dict[str, Any]:
    """Nested plain values; NaN becomes None."""
    runs = []
    for found in studies:
        truth = json_fields(found.truth) | {"verdict": verdict(found.truth)} if found.truth else None
        runs.append(plain({"name": found.name, "paper": as_values(found.paper), "truth": truth}))
    changes = [
        plain({"against": first, "run": name, "changes": list(found)}) for first, name, found in compared
    ]
    return {"source": published().source, "runs": runs, "auroc_changes": changes}
