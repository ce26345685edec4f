"""The program `edge`: its commands in the order of its help."""

from __future__ import annotations

from typing import Annotated

import typer

from edge.cli.ask import ask
from edge.cli.bench import bench
from edge.cli.common import run_app
from edge.cli.compare import compare
from edge.cli.demo import demo
from edge.cli.doctor import doctor
from edge.cli.force import force
from edge.cli.label import label
from edge.cli.merge import merge
from edge.cli.models import models
from edge.cli.paper import paper
from edge.cli.questions import questions
from edge.cli.report import report
from edge.cli.run import run
from edge.cli.score import score
from edge.cli.watch import watch
from edge.version import __version__

app = typer.Typer(
    help="See what a small language model does inside while it answers, and what quantisation does to that.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def show_version(value: bool) -> None:
    if value:
        print(f"edgetrace {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """See what a small language model does inside while it answers, and what quantisation does to that."""


app.command(epilog="Example: edge run models/nano-llama/onnx-int4 --out runs/int4 --limit 20")(run)
app.command(
    epilog="Example: edge force models/nano-llama/onnx-int4 --like runs/fp32 --out runs/int4-forced"
)(force)
app.command(epilog="Example: edge compare runs/fp32 runs/int4-forced --json compare.json")(compare)
app.command(epilog="Example: edge report runs/fp32 runs/int4 runs/int4-forced --out report.html")(report)
app.command(epilog='Example: edge ask models/nano-llama/onnx-int4 "Do bats see?"')(ask)
app.command(
    epilog="Example: edge bench models/nano-llama/onnx-fp32 models/nano-llama/onnx-int4 --context 64"
)(bench)
app.command(epilog="Example: edge demo --model nano-llama")(demo)
app.command(epilog="Example: edge label runs/fp32 --auto")(label)
app.command(epilog="Example: edge merge runs/pi4 runs/pi5 --out runs/int4")(merge)
app.command(epilog="Example: edge paper runs/fp32 runs/int4 --question 0 --csv tables")(paper)
app.add_typer(questions, name="questions")
app.command(epilog="Example: edge score models/nano-llama/onnx-int4 --out scores/int4")(score)
app.command(epilog="Example: edge watch runs/int4")(watch)
app.command(epilog="Example: edge models --under models")(models)
app.command(epilog="Example: edge doctor --json doctor.json")(doctor)


def main() -> None:
    run_app(app)
