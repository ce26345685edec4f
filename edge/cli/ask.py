"""`edge ask`: one answer, printed token by token."""

from __future__ import annotations

from typing import Annotated

import typer

from edge.cli import screen
from edge.cli.common import console, print_note, write_json_line
from edge.cli.known import open_named
from edge.cli.options import (
    Anyway,
    ArtifactPath,
    ControlTokens,
    Date,
    GpuLayers,
    KvCache,
    LowMemory,
    MaxNewTokens,
    NoPrepack,
    PromptStyle,
    Taps,
    Temperature,
    Threads,
    runtime_of,
)
from edge.jobs.decode import DecodeSettings
from edge.jobs.live import answer, as_json


def ask(
    artifact: ArtifactPath,
    question: Annotated[str, typer.Argument(help="What to ask.")],
    max_new_tokens: MaxNewTokens = 1000,
    prompt: PromptStyle = None,
    temperature: Temperature = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    date: Date = None,
    control_tokens: ControlTokens = False,
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
    """The command `edge ask`; its help is in edge/cli/app.py."""
    settings = DecodeSettings(max_new_tokens, temperature, seed)
    runtime = runtime_of(
        threads, taps, kv_cache, low_memory, gpu_layers, no_prepack=no_prepack, anyway=anyway
    )
    opened = open_named(artifact)
    notes: list[str] = []  # printed at the end, since the view is redrawn in place until then
    steps = answer(
        opened,
        question,
        settings,
        prompt=prompt,
        date=date,
        control_tokens=control_tokens,
        runtime=runtime,
        on_note=notes.append,
    )
    try:
        if json_lines:
            for step in steps:
                write_json_line(as_json(step))
        else:
            screen.show(console, opened, steps)
    finally:
        for note in notes:
            print_note(note)
