"""`edge demo`: builds, traces, compares and reports a real model, or the embedded ones.

Each command is printed and then run as a process of its own, since `edge` may not import `export`.
"""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from edge.cli.common import console, print_note, print_notice
from edge.cli.faults import UNFETCHED
from edge.cli.processes import run_command
from edge.errors import UserError
from edge.precision import FULL, INT4, INT8
from edge.questions.question import EMBEDDED
from edge.registry import read_registry
from edge.runs.manifest import RUN_NAME

REAL = "smollm2-135m-instruct"
REPORT = "report.html"
QUESTIONS, TOKENS = 12, 80  # how many a real model is asked, and its longest answer
QUANTISED = (INT8, INT4)
# Modules of the extras `export` and `analysis` that the first and the last command need.
NEEDED = ("onnx", "onnx_ir", "ml_dtypes", "safetensors", "gguf", "plotly")
WELCOME = (
    "This demo looks into a small language model while it answers, and at what 8 and 4 bits change in it. "
    "The model answers in full precision, in 8 bits and in 4 bits. Then the two quantised ones read the "
    "answers of full precision, so that all three can be compared token by token. Every command is shown "
    "before it runs. The figures will be in {report}, a page for any browser."
)


def demo(
    model: Annotated[
        list[str] | None,
        typer.Option(help=f"{REAL} (default) or an embedded model, may be given again."),
    ] = None,
    nano: Annotated[
        bool, typer.Option("--nano", help="The four embedded models of 3 million parameters instead.")
    ] = False,
    models: Annotated[Path, typer.Option(help="Folder in which MODEL/PRECISION/ are built.")] = Path(
        "models"
    ),
    out: Annotated[Path, typer.Option(help="Folder of the runs and of report.html.")] = Path("runs/demo"),
    limit: Annotated[
        int | None,
        typer.Option(
            help=f"Only the first so many questions (default: {QUESTIONS}; of embedded models all).", min=1
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--force", help="Begin anew: replace what an earlier demo left in both folders.")
    ] = False,
) -> None:
    """The command `edge demo`; its help is in edge/cli/app.py."""
    names = chosen(model, nano)
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"edge demo needs {', '.join(missing)}: install the extras, "
            "in a clone with \"pip install '.[export,analysis]'\""
        )
    console.print(WELCOME.format(report=out / REPORT), markup=False)
    try:
        show(names, models, out, limit, overwrite)
    except typer.Exit as end:
        if model or nano or end.exit_code != UNFETCHED:
            raise
        print_note(
            f"{REAL} cannot be fetched here, for the reason that stands above: the demo goes on with the "
            "embedded nano models, as 'edge demo --nano' does"
        )
        show(chosen(None, nano=True), models, out, limit, overwrite)


def chosen(wanted: list[str] | None, nano: bool) -> list[str]:
    """The models to show, each once; raises UserError for one that a demo cannot show."""
    embedded = [name for name, entry in read_registry().items() if entry.folder]
    if wanted and nano:
        raise UserError("--nano stands for all embedded models: give either it or --model")
    for name in wanted or ():
        if name not in (REAL, *embedded):
            raise UserError(
                f"--model is {name!r}, which is no model of the demo: choose from "
                f"{', '.join((REAL, *embedded))}"
            )
    return embedded if nano else list(dict.fromkeys(wanted or [REAL]))


def show(names: list[str], models: Path, out: Path, limit: int | None, overwrite: bool) -> None:
    """Runs the demo's commands; raises typer.Exit with the exit code of one that fails."""
    for name in names:
        notice = read_registry()[name].notice
        console.print()
        print_notice(notice)
        build, *rest = commands(name, models / name, out / name, limit, overwrite)
        call(build, notice)
        if overwrite:  # an earlier demo's runs stay where the build fails
            remove_runs(out, name)
        for command in rest:
            call(command, notice)
    report = out / REPORT
    call(["edge", "report", *(f"{run}" for run in run_folders(out, names)), "--out", f"{report}"])
    again = shlex.join([*program(), "ask", f"{models / names[0] / INT8}", "Why is the sky blue?"])
    console.print()
    for line in (f"Open {report} in a browser.", f"Ask the model yourself: {again}"):
        console.print(line, markup=False, soft_wrap=True)


def program() -> list[str]:
    """How a shell starts this program again: by its name, or by its path where the name is not enough."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return ["python", "-m", "edge"]
    return [path.name if shutil.which(path.name) else f"{path}"]


def commands(
    name: str, artifacts: Path, runs: Path, limit: int | None, overwrite: bool
) -> Iterator[list[str]]:
    """The command lines of one model in their order."""
    replace = ["--force"] if overwrite else []
    precisions = [word for precision in (FULL, *QUANTISED) for word in ("--to", precision)]
    yield ["edge-export", "build", name, *precisions, "--out", f"{artifacts}", *replace]
    # A second copy of a real model's weights for this processor is worth its gigabyte later, not here.
    small = ["--no-prepack"] if name == REAL else []
    asked = ["--questions", f"{near(EMBEDDED)}", *few(name, limit), *small]
    full = f"{runs}/{short(FULL)}"
    yield ["edge", "run", f"{artifacts}/{FULL}", "--out", full, "--reference", *asked]
    for precision in QUANTISED:
        artifact, run = f"{artifacts}/{precision}", f"{runs}/{short(precision)}"
        yield ["edge", "run", artifact, "--out", run, *asked]
        yield ["edge", "force", artifact, "--like", full, "--out", f"{run}-forced", *small]
    yield ["edge", "compare", *(f"{run}" for run in run_folders(runs.parent, [name]))]


def few(name: str, limit: int | None) -> list[str]:
    """Options that bound a run: a real model's answers take longer."""
    real = name == REAL
    limit = limit or (QUESTIONS if real else None)
    return [
        *(["--limit", str(limit)] if limit else []),
        *(["--max-new-tokens", str(TOKENS)] if real else []),
    ]


def near(path: Path) -> Path:
    """The path as seen from the current folder where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def run_folders(out: Path, names: list[str]) -> list[Path]:
    """The demo's run directories, model by model."""
    quantised = [short(precision) for precision in QUANTISED]
    runs = [short(FULL), *quantised, *(f"{name}-forced" for name in quantised)]
    return [out / name / run for name in names for run in runs]


def short(precision: str) -> str:
    """The name of a precision's run: without the part that all of them share."""
    return precision.removeprefix("onnx-")


def remove_runs(out: Path, name: str) -> None:
    """Removes an earlier demo's run directories of a model and nothing else."""
    for folder in run_folders(out, [name]):
        if (folder / RUN_NAME).is_file():
            shutil.rmtree(folder)


def call(command: list[str], said: str = "") -> None:
    """Prints a command line and runs it; raises typer.Exit with its exit code where it fails.

    `said` is the notice that has been printed already.
    """
    console.print(f"$ {shlex.join(command)}", style="bold", markup=False, soft_wrap=True)
    run_command(command, said=said)
