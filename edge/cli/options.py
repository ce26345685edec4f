"""Options of several commands, each defined once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.backends.base import Runtime
from edge.cli.completion import complete_artifacts

ArtifactPath = Annotated[
    Path,
    typer.Argument(
        help="Artifact folder, as `edge-export build` made it, any GGUF file, or a known model (see `edge "
        "models`), which is built first.",
        autocompletion=complete_artifacts,
    ),
]
Limit = Annotated[int | None, typer.Option(help="Only the first so many questions.")]
Shard = Annotated[str, typer.Option(help="I/N: every N-th question, for several boards.")]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Processor threads (default: one for each free processor, fewer while others are busy).", min=1
    ),
]
Taps = Annotated[
    str,
    typer.Option(help="rows: attention and hidden states or an error; auto: where they can be had; none."),
]
KvCache = Annotated[str | None, typer.Option(help="GGUF: f16 or f32 (default: f32 for gguf-f32, else f16).")]
LowMemory = Annotated[
    bool, typer.Option("--low-memory", help="GGUF: no second, faster copy of the weights.")
]
GpuLayers = Annotated[int, typer.Option(help="GGUF: so many layers on a GPU that llama.cpp was built for.")]
NoPrepack = Annotated[
    bool,
    typer.Option(
        "--no-prepack",
        help="ONNX: do not keep the weights as this processor wants them beside the artifact.",
    ),
]
Anyway = Annotated[bool, typer.Option("--anyway", help="Start although memory or disk may not suffice.")]
PauseAbove = Annotated[
    float | None, typer.Option(help="Wait while the machine is hotter than so many degrees Celsius.")
]
Delta = Annotated[float, typer.Option(help="Nats of early/late shift that still count as balanced.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
JsonFile = Annotated[
    str | None, typer.Option("--json", help="Write the result as JSON to this file (- for standard output).")
]
MaxNewTokens = Annotated[int, typer.Option(help="Longest answer in tokens.")]
PromptStyle = Annotated[
    str | None,
    typer.Option(
        help="chat (default where there is a template), raw (the question alone) "
        "or qa (TruthfulQA's preset)."
    ),
]
ControlTokens = Annotated[
    bool,
    typer.Option(
        "--control-tokens",
        help="Parse control tokens in a question as transformers does (default: they are text).",
    ),
]
Temperature = Annotated[float, typer.Option(help="0 is greedy; above it tokens are sampled.")]
Date = Annotated[str | None, typer.Option(help="Day that chat templates see (YYYY-MM-DD, default today).")]


def runtime_of(
    threads: int | None,
    taps: str = "auto",
    kv_cache: str | None = None,
    low_memory: bool = False,
    gpu_layers: int = 0,
    *,
    no_prepack: bool,
    anyway: bool,
) -> Runtime:
    """Runtime settings from a command's options; raises UserError for an unknown value."""
    return Runtime(threads, taps, kv_cache, low_memory, gpu_layers, prepack=not no_prepack, anyway=anyway)
