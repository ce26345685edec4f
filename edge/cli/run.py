"""`edge run`: traces a model's answers to questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.common import QUESTIONS_HELP, chosen_questions
from edge.cli.job import trace_job
from edge.cli.known import open_named
from edge.cli.options import (
    Anyway,
    ArtifactPath,
    ControlTokens,
    Date,
    GpuLayers,
    KvCache,
    Limit,
    LowMemory,
    MaxNewTokens,
    NoPrepack,
    PauseAbove,
    PromptStyle,
    Quiet,
    Shard,
    Taps,
    Temperature,
    Threads,
    runtime_of,
)
from edge.cli.progress import OnProgress
from edge.errors import OnNote
from edge.jobs.decode import DecodeSettings
from edge.jobs.run import run as start_run
from edge.questions.question import read_questions
from edge.runs.manifest import RunManifest

REFERENCE_K = 256


def run(
    artifact: ArtifactPath,
    out: Annotated[Path, typer.Option(help="Run directory to make or to continue.")],
    questions: Annotated[Path | None, typer.Option(help=QUESTIONS_HELP)] = None,
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 1000,
    shard: Shard = "1/1",
    prompt: PromptStyle = None,
    temperature: Temperature = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling, used with each question's index.")] = 0,
    reference: Annotated[
        bool, typer.Option("--reference", help=f"Keep each step's {REFERENCE_K} likeliest tokens.")
    ] = False,
    reference_k: Annotated[
        int | None, typer.Option(help="Keep so many likeliest tokens instead.", min=1)
    ] = None,
    date: Date = None,
    control_tokens: ControlTokens = False,
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
    """The command `edge run`; its help is in edge/cli/app.py."""
    settings = DecodeSettings(
        max_new_tokens, temperature, seed, reference_k or (REFERENCE_K if reference else 0)
    )
    runtime = runtime_of(
        threads, taps, kv_cache, low_memory, gpu_layers, no_prepack=no_prepack, anyway=anyway
    )
    question_list = read_questions(chosen_questions(questions))
    opened = open_named(artifact)

    def job(on_progress: OnProgress, on_note: OnNote) -> RunManifest:
        return start_run(
            opened,
            question_list,
            out,
            settings,
            prompt=prompt,
            date=date,
            limit=limit,
            shard=shard,
            control_tokens=control_tokens,
            runtime=runtime,
            pause_above=pause_above,
            on_progress=on_progress,
            on_note=on_note,
        )

    trace_job(job, opened.label, out, quiet)
