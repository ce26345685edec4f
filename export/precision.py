"""What an artifact's weights can be stored as: one name for each, and what the writers need to know of
it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge.artifact import LLAMA_CPP, ONNX
from edge.errors import UserError

MIXED = "onnx-int4-mixed"
WIDE_BITS = 8
LARGE_BLOCK, SMALL_BLOCK = 256, 32  # llama.cpp's; rows that neither divides stay in float16


@dataclass(frozen=True)
class Precision:
    """How matrices are stored.

    `bits` of a weight: 32 means float32, 16 float16. ONNX artifacts have symmetric integer blocks of
    `block_size` along K with a float32 scale each. For GGUF, `file_type` is llama.cpp's number of the
    mixture that its quantiser makes and `bits_each` about what it takes on the whole, scales and better kept
    tensors included; `bits_odd` the same where rows are no multiple of 256. `wide` are the groups of
    matrices that a mixed precision keeps in 8 bits, see `group`.
    """

    name: str
    bits: int
    block_size: int = 32
    accuracy_level: int = 4  # activations in int8 per row: the level that has fast kernels on x86 and on ARM
    file_type: int = 0
    bits_each: float = 0.0
    bits_odd: float = 0.0
    wide: tuple[str, ...] = ()

    @property
    def backend(self) -> str:
        return LLAMA_CPP if self.name.startswith("gguf-") else ONNX

    @property
    def quantized(self) -> bool:
        return self.bits < 16

    def bits_of(self, name: str) -> int:
        """Bits of one matrix's weights (ONNX), by its name in the checkpoint."""
        return WIDE_BITS if group(name) in self.wide else self.bits

    def bytes_of(self, name: str, shape: Sequence[int]) -> float:
        """Bytes that a tensor takes; vectors stay float32. GGUF mixtures are estimated."""
        if len(shape) < 2:
            return math.prod(shape) * 4.0
        if self.quantized and self.backend == LLAMA_CPP:
            bits = (
                self.bits_each
                if shape[-1] % LARGE_BLOCK == 0
                else self.bits_odd
                if shape[-1] % SMALL_BLOCK == 0
                else 16
            )
        else:
            bits = self.bits_of(name) + (32 / self.block_size if self.quantized else 0)
        return math.prod(shape) * bits / 8


PRECISIONS = {
    p.name: p
    for p in (
        Precision("onnx-fp32", 32),
        Precision("onnx-int8", 8),
        Precision("onnx-int4", 4),
        Precision(MIXED, 4),
        Precision("gguf-f32", 32, file_type=0),
        Precision("gguf-f16", 16, file_type=1),
        Precision("gguf-q8_0", 8, file_type=7, bits_each=8.5, bits_odd=8.5),
        Precision("gguf-q4_k_m", 4, file_type=15, bits_each=5.2, bits_odd=6.8),
        Precision("gguf-q4_0", 4, file_type=2, bits_each=5.0, bits_odd=6.0),
    )
}


def precision(name: str) -> Precision:
    """The precision of that name; raises UserError that lists those there are."""
    if name not in PRECISIONS:
        raise UserError(f"unknown precision {name!r}: choose from {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def group(name: str) -> str:
    """What a matrix is chosen with in a mixed precision: `embedding`, `lm_head`, `layers.N.attention` or
    `layers.N.mlp`."""
    found = re.match(r"model\.layers\.(\d+)\.(self_attn|mlp)\.", name)
    if found:
        return f"layers.{found[1]}.{'mlp' if found[2] == 'mlp' else 'attention'}"
    return {"model.embed_tokens.weight": "embedding", "lm_head.weight": "lm_head"}.get(name, "")


def mixed(wide: Sequence[str], groups: Sequence[str]) -> Precision:
    """int4 with the groups `wide` in int8; raises UserError when one is none of the model's `groups`."""
    if unknown := sorted(set(wide) - set(groups)):
        raise UserError(
            f"the recipe names {', '.join(unknown)}, which this model has not: it has {', '.join(groups)}"
        )
    return replace(PRECISIONS[MIXED], wide=tuple(name for name in groups if name in set(wide)))
