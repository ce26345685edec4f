"""The disk and memory that a build takes, checked before anything is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge.errors import UserError
from edge.machine.device import available_memory
from edge.precision import LLAMA_CPP, ONNX
from export.checkpoint import Checkpoint
from export.graph.config import DecoderConfig
from export.graph.tensors import all_shapes
from export.precision import Target

DISK_MARGIN = 100_000_000  # bytes beside the weights: graph, tokenizer, alignment, and some left for others
# Bytes that a build holds at most, by backend (docs/performance.md). For GGUF the tokenizer decides: gemma's
# has 262144 tokens.
BUILD_MEMORY = {ONNX: 600_000_000, LLAMA_CPP: 800_000_000}


def build_bytes(checkpoint: Checkpoint, config: DecoderConfig, to: Target) -> int:
    """Bytes that a build writes, those that stand beside the artifact for a while among them."""
    return weight_bytes(config, to) + spare_bytes(checkpoint, config, to)


def weight_bytes(config: DecoderConfig, to: Target) -> int:
    """Bytes that the weights take (estimated for GGUF mixtures)."""
    return int(sum(to.bytes_of(name, shape) for name, shape in all_shapes(config).items()))


def spare_bytes(checkpoint: Checkpoint, config: DecoderConfig, to: Target) -> int:
    """Bytes of what stands beside an artifact only while it is built."""
    if to.precision.backend != LLAMA_CPP:
        return 0
    from export import gguf_artifact  # needs the extra `llama`

    return gguf_artifact.source_bytes(checkpoint, config, to.precision)


def check_space(out: Path, needed: int, backend: str) -> None:
    """Raises UserError when the disk of `out`, or the memory for the backend's build, is too small."""
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed + DISK_MARGIN:
        raise UserError(
            f"{out} needs {(needed + DISK_MARGIN) / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB free: "
            "free space, give another --out, or build fewer bits"
        )
    memory, available = BUILD_MEMORY[backend], available_memory()
    if available is not None and available < memory:
        raise UserError(
            f"a build needs about {memory / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            "available: stop other programs first"
        )
