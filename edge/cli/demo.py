"""`edge demo`: builds, traces, compares and reports the embedded models.

Each command is printed and then run as a process of its own, since `edge` may not import `export`.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from edge.cli.common import console
from edge.cli.processes import run_command
from edge.errors import UserError
from edge.precision import FULL, INT4, INT8
from edge.registry import read_registry
from edge.runs.manifest import RUN_NAME

QUANTISED = (INT8, INT4)
# Modules of the extras `export` and `analysis` that the first and the last command need.
NEEDED = ("onnx", "onnx_ir", "ml_dtypes", "safetensors", "plotly")


def demo(
    model: Annotated[
        list[str] | None, typer.Option(help="Embedded model, may be given again (default: all of them).")
    ] = None,
    models: Annotated[Path, typer.Option(help="Folder in which MODEL/PRECISION/ are built.")] = Path(
        "models"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the runs and of report.html.")] = Path("runs/demo"),
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.", min=1)] = None,
    overwrite: Annotated[
        bool, typer.Option("--force", help="Begin anew: replace what an earlier demo left in both folders.")
    ] = False,
) -> None:
    """The command `edge demo`; its help is in edge/cli/app.py."""
    names = embedded(model)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"edge demo needs {', '.join(missing)}: install the extras, "
            "in a clone with \"pip install '.[export,analysis]'\""
        )
    if overwrite:
        remove_runs(out, names)
    report = out / "report.html"
    for command in commands(names, models, out, report, limit, overwrite):
        call(command)
    console.print(f"Open {report} in a browser.", markup=False, soft_wrap=True)


def embedded(wanted: list[str] | None) -> list[str]:
    """The chosen embedded models, all by default; raises UserError for a model that is not embedded."""
    known = [name for name, entry in read_registry().items() if entry.folder]
    for name in wanted or ():
        if name not in known:
            raise UserError(f"--model is {name!r}, which is not embedded: choose from {', '.join(known)}")
    return list(dict.fromkeys(wanted or known))


def commands(
    names: list[str], models: Path, out: Path, report: Path, limit: int | None, overwrite: bool
) -> Iterator[list[str]]:
    """The demo's command lines in their order."""
    replace = ["--force"] if overwrite else []
    few = ["--limit", str(limit)] if limit else []
    for name in names:
        artifacts, runs = models / name, out / name
        precisions = [word for precision in (FULL, *QUANTISED) for word in ("--to", precision)]
        yield ["edge-export", "build", name, *precisions, "--out", f"{artifacts}", *replace]
        full = f"{runs}/{short(FULL)}"
        yield ["edge", "run", f"{artifacts}/{FULL}", "--out", full, "--reference", *few]
        for precision in QUANTISED:
            artifact, run = f"{artifacts}/{precision}", f"{runs}/{short(precision)}"
            yield ["edge", "run", artifact, "--out", run, *few]
            yield ["edge", "force", artifact, "--like", full, "--out", f"{run}-forced"]
        yield ["edge", "compare", full, f"{runs}/{short(QUANTISED[-1])}-forced"]
    yield ["edge", "report", *(f"{run}" for run in run_folders(out, names)), "--out", f"{report}"]


def run_folders(out: Path, names: list[str]) -> list[Path]:
    """The demo's run directories, model by model."""
    quantised = [short(precision) for precision in QUANTISED]
    runs = [short(FULL), *quantised, *(f"{name}-forced" for name in quantised)]
    return [out / name / run for name in names for run in runs]


def short(precision: str) -> str:
    """The name of a precision's run: without the part that all of them share."""
    return precision.removeprefix("onnx-")


def remove_runs(out: Path, names: list[str]) -> None:
    """Removes an earlier demo's run directories and nothing else."""
    for folder in run_folders(out, names):
        if (folder / RUN_NAME).is_file():
            shutil.rmtree(folder)


def call(command: list[str]) -> None:
    """Prints a command line and runs it; raises typer.Exit with its exit code where it fails."""
    console.print(f"$ {shlex.join(command)}", style="bold", markup=False, soft_wrap=True)
    run_command(command)
