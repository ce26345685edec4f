"""`edge force`: traces a model on another run's tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli.completion import complete_runs
from edge.cli.job import trace_job
from edge.cli.known import open_named
from edge.cli.options import (
    Anyway,
    ArtifactPath,
    GpuLayers,
    KvCache,
    LowMemory,
    NoPrepack,
    PauseAbove,
    Quiet,
    Taps,
    Threads,
    runtime_of,
)
from edge.cli.progress import OnProgress
from edge.errors import OnNote
from edge.jobs.force import force as start_force
from edge.runs.manifest import RunManifest


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
    """The command `edge force`; its help is in edge/cli/app.py."""
    runtime = runtime_of(
        threads, taps, kv_cache, low_memory, gpu_layers, no_prepack=no_prepack, anyway=anyway
    )
    opened, full = open_named(artifact), open_named(exact) if exact else None

    def job(on_progress: OnProgress, on_note: OnNote) -> RunManifest:
        return start_force(
            opened,
            like,
            out,
            exact=full,
            runtime=runtime,
            pause_above=pause_above,
            on_progress=on_progress,
            on_note=on_note,
        )

    trace_job(job, f"{opened.label} forced", out, quiet)
