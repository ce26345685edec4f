"""`edge bench`: speed and memory of artifacts on this machine, side by side."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from edge.artifact import Artifact
from edge.backends.gguf_file import open_artifact
from edge.backends.runtime import check_runtime, versions
from edge.cli.common import check_json, console, errors, write_json
from edge.cli.completion import complete_artifacts
from edge.cli.known import located
from edge.cli.options import Anyway, JsonFile, NoPrepack, Threads, runtime_of
from edge.cli.tables import number, table
from edge.cli.terminal import escaped, unmarked
from edge.errors import UserError
from edge.jobs.bench import Contestant, Result, race, read_bandwidth, summarise, trace_rounds, weight_bytes
from edge.machine import device
from edge.machine.processors import usable_cores
from edge.precision import LLAMA_CPP

SLACK = 8  # positions beyond prompt and tokens
COLUMNS = ("artifact", "tok/s", "ms", "over the first", "first, s", "peak MB", "bus")


def bench(
    artifacts: Annotated[
        list[Path],
        typer.Argument(
            help="Artifact folders, GGUF files or known models; one given twice shows the noise.",
            autocompletion=complete_artifacts,
        ),
    ],
    context: Annotated[
        list[int] | None,
        typer.Option(help="Tokens of the prompt; may be given often (default 64, 512).", min=1),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Rounds, after one that warms up.", min=1)] = 7,
    tokens: Annotated[int, typer.Option(help="Tokens after the prompt in a round.", min=1)] = 32,
    untapped: Annotated[bool, typer.Option("--untapped", help="GGUF: each also without taps.")] = False,
    threads: Threads = None,
    no_prepack: NoPrepack = False,
    anyway: Anyway = False,
    json_file: JsonFile = None,
) -> None:
    """The command `edge bench`; its help is in edge/cli/app.py."""
    check_json(json_file)
    contexts = context or [64, 512]
    cores = threads or usable_cores()
    runtime = runtime_of(cores, no_prepack=no_prepack, anyway=anyway)
    paths = [located(path) for path in artifacts]
    opened = {path: open_artifact(path) for path in paths}
    capacity = max(contexts) + tokens + SLACK
    contestants: dict[str, Contestant] = {}
    weights: dict[str, int] = {}
    for path in paths:
        artifact = opened[path]
        check_context(artifact, capacity)
        both = untapped and artifact.manifest.backend == LLAMA_CPP
        for taps in ("auto", "none") if both else ("auto",):
            own_runtime = dataclasses.replace(runtime, taps=taps)
            check_runtime(artifact, own_runtime)
            name = free_name(artifact, taps, contestants)
            contestants[name] = (trace_rounds, (path, own_runtime, capacity))
            weights[name] = weight_bytes(artifact)
    bandwidth = read_bandwidth(cores)
    with errors.status("") as status:

        def on_turn(name: str, length: int, turn: int) -> None:
            status.update(unmarked(f"context {length}, round {turn} of {rounds}: {name}"))

        measurements = race(contestants, contexts, rounds, tokens, on_turn)
    results = summarise(*measurements, weights, bandwidth)
    if json_file != "-":
        console.print(results_table(results, bandwidth, cores))
    if json_file:
        first = next(iter(opened.values()))
        write_json(
            json_file,
            {
                "device": device.describe().to_json(),
                "versions": versions(first),
                "threads": cores,
                "rounds": rounds,
                "tokens": tokens,
                "read_bandwidth_bytes_per_s": bandwidth,
                "results": [as_json(result) for result in results],
            },
        )


def check_context(artifact: Artifact, capacity: int) -> None:
    """Raises UserError for an artifact with fewer positions than `capacity`."""
    if capacity > artifact.manifest.model.context:
        raise UserError(
            f"{artifact.label} was built for {artifact.manifest.model.context} positions: "
            "give a shorter --context"
        )


def free_name(artifact: Artifact, taps: str, taken: dict[str, Any]) -> str:
    """A contestant's name, with a number where it is taken."""
    label = artifact.label + (" untapped" if "none" in (taps, artifact.manifest.taps) else "")
    names = [label, *(f"{label} ({n})" for n in range(2, len(taken) + 2))]
    return next(name for name in names if name not in taken)


def as_json(result: Result) -> dict[str, Any]:
    """Fields of a result as plain values; NaN becomes None."""
    fields = result._asdict() | {"tokens_per_s": result.tokens_per_s}
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in fields.items()
    }


def results_table(results: list[Result], bandwidth: float, threads: int) -> Group:
    """A table for each context, and a legend below them."""
    parts: list[RenderableType] = []
    for context in dict.fromkeys(result.context for result in results):
        rows = table(f"After a prompt of {context} tokens", *COLUMNS)
        for result in results:
            if result.context == context:
                rows.add_row(
                    unmarked(result.name),
                    number(result.tokens_per_s),
                    f"{result.token_ms[1]:.4g}",
                    spread(result.ratio),
                    number(result.first_s),
                    f"{result.peak_rss / 1e6:.0f}",
                    "-" if math.isnan(result.bandwidth) else f"{result.bandwidth:.0%}",
                )
        parts.append(rows)
    load_seconds = {result.name: result.load_s for result in results}
    opened = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in load_seconds.items())
    legend = (
        "ms: a token, median of the rounds; over the first: of the same round, with quartiles; "
        "first: the prompt and its token, in seconds; MB: peak of resident memory; "
        "bus: reading every weight once a token, as a share of the "
        f"{bandwidth / 1e9:.1f} GB a second that {threads} threads read. Opened in: {opened}."
    )
    return Group(*parts, Text(escaped(legend)))


def spread(quartiles: tuple[float, float, float]) -> str:
    """The median, then the lower and the upper quartile."""
    low, median, high = quartiles
    return f"{median:.3f} ({low:.3f} to {high:.3f})"
