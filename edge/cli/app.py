"""`edge`: trace, compare, show. Thin: parse, call, print."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge.analysis.dynamics import DELTA
from edge.backends.base import Runtime
from edge.backends.gguf_file import open_artifact
from edge.cli import screen
from edge.cli.bench import bench
from edge.cli.common import (
    QUESTIONS_HELP,
    check_json,
    chosen_questions,
    console,
    run_app,
    say_note,
    say_notice,
    write_json,
    write_json_line,
)
from edge.cli.compare import compare
from edge.cli.completion import complete_runs
from edge.cli.demo import demo
from edge.cli.job import shown
from edge.cli.label import label
from edge.cli.merge import merge
from edge.cli.options import (
    Anyway,
    ArtifactPath,
    Delta,
    GpuLayers,
    JsonFile,
    KvCache,
    Limit,
    LowMemory,
    NoPrepack,
    PauseAbove,
    Quiet,
    Shard,
    Taps,
    Threads,
)
from edge.cli.paper import paper
from edge.cli.progress import Job, OnProgress
from edge.cli.questions import questions as questions_app
from edge.cli.score import score
from edge.cli.tables import doctor as doctor_table
from edge.cli.tables import find_artifacts
from edge.cli.tables import models as models_table
from edge.cli.terminal import unmarked
from edge.cli.watch import watch
from edge.errors import OnNote, UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.doctor import examine
from edge.jobs.force import force as force_job
from edge.jobs.live import answer, as_json
from edge.jobs.run import Interrupted
from edge.jobs.run import run as run_job
from edge.questions.question import read_questions
from edge.registry import read_registry
from edge.runs.run_directory import Run, RunManifest
from edge.version import __version__

REFERENCE_K = 256
PROMPT_HELP = (
    "chat (default where there is a template), raw (the question alone) or qa (TruthfulQA's preset)."
)

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


def traced(job: Job, title: str, out: Path, quiet: bool) -> None:
    """Runs the job under its progress view and says what it made; an interruption exits with its code after
    a hint."""
    manifest = shown(job, title, quiet)
    console.print(
        unmarked(f"{manifest.label}: {manifest.questions['selected']} questions traced in {out}"),
        soft_wrap=True,
    )
    say_notice(manifest.notice)


@app.command(epilog="Example: edge run models/nano-llama/onnx-int4 --out runs/int4 --limit 20")
def run(
    artifact: ArtifactPath,
    out: Annotated[Path, typer.Option(help="Run directory to make or to continue.")],
    questions: Annotated[Path | None, typer.Option(help=QUESTIONS_HELP)] = None,
    limit: Limit = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 1000,
    shard: Shard = "1/1",
    prompt: Annotated[str | None, typer.Option(help=PROMPT_HELP)] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy; above it tokens are sampled.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling, used with each question's index.")] = 0,
    reference: Annotated[
        bool, typer.Option("--reference", help=f"Keep each step's {REFERENCE_K} likeliest tokens.")
    ] = False,
    reference_k: Annotated[
        int | None, typer.Option(help="Keep so many likeliest tokens instead.", min=1)
    ] = None,
    date: Annotated[
        str | None, typer.Option(help="Day that chat templates see (YYYY-MM-DD, default today).")
    ] = None,
    threads: Threads = None,
    taps: Taps = "auto",
    kv_cache: KvCache = None,
    low_memory: LowMemory = False,
    gpu_layers: GpuLayers = 0,
    no_prepack: NoPrepack = False,
    anyway: Anyway = False,
    pause_above: PauseAbove = None,
    quiet: Quiet = False,
) -> None:
    """Trace a model's answers to questions into a run directory; continues by itself where it was
    stopped."""
    settings = DecodeSettings(
        max_new_tokens, temperature, seed, reference_k or (REFERENCE_K if reference else 0)
    )
    runtime = Runtime(threads, taps, kv_cache, low_memory, gpu_layers, prepack=not no_prepack, anyway=anyway)
    asked = read_questions(chosen_questions(questions))
    opened = open_artifact(artifact)

    def job(on_progress: OnProgress, on_note: OnNote) -> RunManifest:
        return run_job(
            opened,
            asked,
            out,
            settings,
            prompt=prompt,
            date=date,
            limit=limit,
            shard=shard,
            runtime=runtime,
            pause_above=pause_above,
            on_progress=on_progress,
            on_note=on_note,
        )

    traced(job, opened.label, out, quiet)


@app.command(
    epilog="Example: edge force models/nano-llama/onnx-int4 --like runs/fp32 --out runs/int4-forced"
)
def force(
    artifact: ArtifactPath,
    like: Annotated[
        Path,
        typer.Option(
            help="Run whose tokens are read; made with --reference it gives KL too.",
            autocompletion=complete_runs,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Run directory to make or to continue.")],
    exact: Annotated[
        Path | None,
        typer.Option(help="Artifact that made the run, stepped beside: whole KL, hidden states."),
    ] = None,
    threads: Threads = None,
    taps: Taps = "auto",
    kv_cache: KvCache = None,
    low_memory: LowMemory = False,
    gpu_layers: GpuLayers = 0,
    no_prepack: NoPrepack = False,
    anyway: Anyway = False,
    pause_above: PauseAbove = None,
    quiet: Quiet = False,
) -> None:
    """Trace a model on another run's tokens (teacher forcing), so that both can be compared position by
    position."""
    runtime = Runtime(threads, taps, kv_cache, low_memory, gpu_layers, prepack=not no_prepack, anyway=anyway)
    opened, full = open_artifact(artifact), open_artifact(exact) if exact else None

    def job(on_progress: OnProgress, on_note: OnNote) -> RunManifest:
        return force_job(
            opened,
            like,
            out,
            exact=full,
            runtime=runtime,
            pause_above=pause_above,
            on_progress=on_progress,
            on_note=on_note,
        )

    traced(job, f"{opened.label} forced", out, quiet)


app.command(epilog="Example: edge compare runs/fp32 runs/int4-forced --json compare.json")(compare)


@app.command(epilog="Example: edge report runs/fp32 runs/int4 runs/int4-forced --out report.html")
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
    """Write one HTML file with tables and figures of one or more runs; it opens offline."""
    from edge.report.write import write_report  # plotly is large: only this command pays for it

    made = write_report([Run.open(path) for path in runs], out, delta=delta)
    console.print(unmarked(f"{made.path}: {made.bytes / 1e6:.1f} MB, {made.runs} runs"), soft_wrap=True)


@app.command(epilog='Example: edge ask models/nano-llama/onnx-int4 "Do bats see?"')
def ask(
    artifact: ArtifactPath,
    question: Annotated[str, typer.Argument(help="What to ask.")],
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 1000,
    prompt: Annotated[str | None, typer.Option(help=PROMPT_HELP)] = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy; above it tokens are sampled.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    date: Annotated[
        str | None, typer.Option(help="Day that chat templates see (YYYY-MM-DD, default today).")
    ] = None,
    threads: Threads = None,
    taps: Taps = "auto",
    kv_cache: KvCache = None,
    low_memory: LowMemory = False,
    gpu_layers: GpuLayers = 0,
    no_prepack: NoPrepack = False,
    anyway: Anyway = False,
    json_lines: Annotated[
        bool, typer.Option("--json", help="One JSON object a token on standard output.")
    ] = False,
) -> None:
    """Answer one question live: tokens coloured by entropy, statistics as they change."""
    settings = DecodeSettings(max_new_tokens, temperature, seed)
    runtime = Runtime(threads, taps, kv_cache, low_memory, gpu_layers, prepack=not no_prepack, anyway=anyway)
    opened = open_artifact(artifact)
    notes: list[str] = []  # told afterwards, so that they do not stand in the midst of what is drawn
    steps = answer(
        opened, question, settings, prompt=prompt, date=date, runtime=runtime, on_note=notes.append
    )
    try:
        if json_lines:
            for step in steps:
                write_json_line(as_json(step))
        else:
            screen.show(console, opened, steps)
    except Interrupted as error:
        raise typer.Exit(error.code) from None
    except BrokenPipeError:
        # The reader has what it wanted; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        for note in notes:
            say_note(note)


app.command(
    epilog="Example: edge bench models/nano-llama/onnx-fp32 models/nano-llama/onnx-int4 --context 64"
)(bench)
app.command(epilog="Example: edge demo --model nano-llama")(demo)
app.command(epilog="Example: edge label runs/fp32 --auto")(label)
app.command(epilog="Example: edge merge runs/pi4 runs/pi5 --out runs/int4")(merge)
app.command(epilog="Example: edge paper runs/fp32 runs/int4 --question 0 --csv tables")(paper)
app.add_typer(questions_app, name="questions")
app.command(epilog="Example: edge score models/nano-llama/onnx-int4 --out scores/int4")(score)
app.command(epilog="Example: edge watch runs/int4")(watch)


@app.command(epilog="Example: edge models --under models")
def models(
    under: Annotated[Path, typer.Option(help="Folder in which to look for artifacts.")] = Path("models"),
    json_file: JsonFile = None,
) -> None:
    """List the known models and the artifacts that are built."""
    check_json(json_file)
    if not under.is_dir() and under != Path("models"):  # the default may not be there yet
        raise UserError(f"there is no folder {under}: give one with --under")
    registry, found = read_registry(), find_artifacts(under)
    if json_file != "-":
        console.print(models_table(registry, found))
    if json_file:
        write_json(
            json_file,
            {
                "known": [asdict(entry) for entry in registry.values()],
                "built": [
                    {
                        "path": str(f.path),
                        "manifest": asdict(f.artifact.manifest) if f.artifact else None,
                        "problem": f.problem,
                    }
                    for f in found
                ],
            },
        )


@app.command(epilog="Example: edge doctor --json doctor.json")
def doctor(json_file: JsonFile = None) -> None:
    """Say what this machine is, what can run on it, and whether llama.cpp's attention and hidden states can
    be read."""
    check_json(json_file)
    found = examine(Path())
    if json_file != "-":
        console.print(doctor_table(found))
    if json_file:
        write_json(json_file, found.to_json())


def main() -> None:
    run_app(app)
