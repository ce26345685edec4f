"""`edge paper`: the tables of arXiv 2604.03589 for runs, and whether a metric predicts untrue answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from edge.analysis.classes import DELTA
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
from edge.machine.processors import usable_cores
from edge.report.paper import correlation_table, diffusion_text, paper_notes, paper_tables
from edge.report.tables import Table
from edge.report.truth import change_table, outcome_table, prediction_table, trajectory_text, verdict
from edge.runs.run_directory import Run

LONG = 40  # characters from which on a cell is folded
NARROW = 14  # characters, the least width of the first column


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
    """The command `edge paper`; its help is in edge/cli/app.py."""
    check_json(json_file)
    opened = [Run.open(folder) for folder in dict.fromkeys(folder.resolve() for folder in runs)]
    studies = study_runs(opened, question=question, delta=delta, jobs=jobs or usable_cores())
    compared = changes_of(studies, jobs or usable_cores())
    files = flat_tables(studies, compared) if csv or parquet else {}
    written = [
        path
        for folder, suffix in ((csv, "csv"), (parquet, "parquet"))
        if folder
        for path in write_tables(folder, files, suffix)
    ]
    if json_file != "-":
        for study in studies:
            print_study(study, correlations)
        for first, second, changes in compared:
            print_table(change_table(first, second, changes))
        for path in written:
            console.print(unmarked(f"written: {path}"), soft_wrap=True)
    if json_file:
        write_json(json_file, as_json(studies, compared))


def print_study(study: Study, correlations: bool) -> None:
    """Prints one run's tables and, with outcomes, whether a metric predicts untrue answers."""
    title = f"{study.name}: {study.paper.questions} questions, {study.paper.tokens} tokens"
    console.print(Text(escaped(title), style="bold"))
    if study.paper.notice:
        console.print(Text(escaped(study.paper.notice), style="dim"))
    for table in paper_tables(study.paper, brief=True):
        print_table(table)
    for note in paper_notes(study.paper):
        console.print(Text(note, style="dim"))
    if study.paper.diffusion:
        console.print(Text(diffusion_text(study.paper.diffusion)), "", sep="\n")
    if correlations:
        print_table(correlation_table(study.paper))
    if study.truth is None:
        hint = "judge the answers with 'edge label' to see whether a metric predicts untrue ones."
        console.print(Text(f"No outcomes: {hint}"), "")
        return
    print_table(outcome_table(study.truth))
    print_table(prediction_table(study.truth, brief=True))
    console.print(Text(f"{verdict(study.truth)}.", style="bold"))
    console.print(Text(trajectory_text(study.truth)), "", sep="\n")


def print_table(table: Table | None) -> None:
    """Prints a table whose numbers stay whole while its words fold.

    A row of numbers that is wider than the terminal runs over its edge: rich would cut off digits.
    """
    if table is None:
        return
    view = tables.table(table.caption, *table.columns)
    numeric = all(len(row[-1]) < LONG for row in table.rows)
    view.padding, view.columns[0].min_width, view.columns[0].no_wrap = (0, 1, 0, 0), NARROW, False
    for column in view.columns[1:]:
        column.no_wrap = numeric
    for row in table.rows:
        view.add_row(*(unmarked(cell) for cell in row))
    widths = [max(map(len, cells)) for cells in zip(table.columns, *table.rows, strict=True)]
    # A space of padding and one between columns.
    needed = NARROW + sum(widths[1:]) + 2 * len(widths) + 1 if numeric else 0
    # A console of its own: print(width=) can only narrow.
    wide = Console(highlight=False, width=max(console.width, needed), file=console.file)
    wide.print(view)


def as_values(paper: PaperRun) -> dict[str, Any]:
    """Fields of a paper's run as plain values, with its table of layers as rows."""
    layers = paper.layers.to_pylist() if paper.layers is not None else []
    return json_fields(dataclasses.replace(paper, layers=None)) | {"layers": layers}


def as_json(studies: list[Study], compared: list[Change]) -> dict[str, Any]:
    """Nested plain values; NaN becomes None."""
    runs = []
    for study in studies:
        truth = json_fields(study.truth) | {"verdict": verdict(study.truth)} if study.truth else None
        runs.append(plain({"name": study.name, "paper": as_values(study.paper), "truth": truth}))
    changes = [
        plain({"against": full, "run": name, "changes": list(differences)})
        for full, name, differences in compared
    ]
    return {"source": published().source, "runs": runs, "auroc_changes": changes}
