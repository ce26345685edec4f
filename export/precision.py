"""The storage of matrices: blocks of ONNX artifacts, and the groups of a mixed precision."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge.errors import UserError
from edge.precision import INT8, LLAMA_CPP, MIXED, ONNX, PRECISIONS, Precision
from export.checkpoint import Checkpoint
from export.graph.config import DecoderConfig

BLOCK_SIZE = 32  # weights along K that share a float32 scale, in ONNX artifacts
ACCURACY_LEVEL = 4  # activations in int8 per row: the level that has fast kernels on x86 and on ARM
WIDE_BITS = PRECISIONS[INT8].bits
# Bits of a weight in an ONNX artifact's file, scales included, by the bits of its block.
FILE_BITS = {row.bits: row.file_bits for row in PRECISIONS.values() if row.backend == ONNX and row.file_bits}
LARGE_BLOCK, SMALL_BLOCK = 256, 32  # llama.cpp's; rows that neither divides stay in float16


@dataclass(frozen=True)
class Target:
    """A precision to write; `wide` are the groups (see `group`) that a mixed one keeps in 8 bits."""

    precision: Precision
    wide: tuple[str, ...] = ()

    def bits_of(self, name: str) -> int:
        """Bits of one matrix's weights (ONNX), by its name in the checkpoint."""
        return WIDE_BITS if group(name) in self.wide else self.precision.bits

    def bytes_of(self, name: str, shape: Sequence[int]) -> float:
        """Bytes that a tensor takes; vectors stay float32. GGUF mixtures are estimated."""
        if len(shape) < 2:
            return math.prod(shape) * 4.0
        return math.prod(shape) * self._file_bits(name, shape[-1]) / 8

    def _file_bits(self, name: str, width: int) -> float:
        """Bits of a weight in the file, scales included, in rows of `width` numbers."""
        if not self.precision.quantized:
            return self.precision.bits
        if self.precision.backend != LLAMA_CPP:
            return FILE_BITS[self.bits_of(name)]
        if width % LARGE_BLOCK == 0:
            return self.precision.file_bits
        return self.precision.odd_bits if width % SMALL_BLOCK == 0 else 16


def precision(name: str) -> Precision:
    """The precision of that name; raises UserError that lists those there are."""
    if name not in PRECISIONS:
        raise UserError(f"unknown precision {name!r}: choose from {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def group(name: str) -> str:
    """The group of a matrix in a mixed precision: `embedding`, `lm_head`, `layers.N.attention` or
    `layers.N.mlp`; "" where it has none."""
    match = re.match(r"model\.layers\.(\d+)\.(self_attn|mlp)\.", name)
    if match:
        return f"layers.{match[1]}.{'mlp' if match[2] == 'mlp' else 'attention'}"
    return {"model.embed_tokens.weight": "embedding", "lm_head.weight": "lm_head"}.get(name, "")


def groups_of(checkpoint: Checkpoint, config: DecoderConfig) -> list[str]:
    """Groups of matrices that a mixed precision chooses among, in the order of the graph."""
    groups = {group(name) for name in checkpoint.names()} - {"", *(["lm_head"] if config.tied else [])}
    layers = sorted(
        (name for name in groups if "." in name), key=lambda name: (int(name.split(".")[1]), name)
    )
    return [
        *(["embedding"] if "embedding" in groups else []),
        *layers,
        *(["lm_head"] if "lm_head" in groups else []),
    ]


def mixed(wide: Sequence[str], groups: Sequence[str]) -> Target:
    """int4 with the groups `wide` in int8; raises UserError when one is none of the model's `groups`."""
    if unknown := sorted(set(wide) - set(groups)):
        raise UserError(
            f"the recipe names {', '.join(unknown)}, which this model has not: it has {', '.join(groups)}"
        )
    return Target(PRECISIONS[MIXED], tuple(name for name in groups if name in set(wide)))
