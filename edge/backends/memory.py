"""What a model will take of memory, said before anything is loaded.

The figures are upper estimates held against measurements at true size (docs/memory.md,
benchmarks/memory.py). Memory is what must stay resident for a model to run at the speed of memory: weights
as the kernels read them, cache, buffers and the programs around.
"""

from __future__ import annotations

from typing import NamedTuple

from edge.artifact import TOKENIZER_NAME, Artifact, ModelSpec
from edge.errors import UserError
from edge.machine.device import amount, available_memory

MIB = 1 << 20
PROGRAMS = 106 * MIB  # Python, this project's imports and the runtime's code
BUFFERS = 64 * MIB  # activations of a chunk of the prompt, the allocators' slack
CHUNK = 128  # positions of a chunk of the prompt
LAST_BYTES = 32 * MIB  # attention of all layers over the last chunk, in onnxruntime (two positions at least)
TOKENIZER_FACTOR = 12  # memory over the size of a tokenizer.json
TOKEN_BYTES = 700  # and at least so much for each token
# Weights as onnxruntime's kernels read them over the file: blocks of 4 bits take 24 instead of 20 bytes for
# 32 weights.
LAID_OUT = {"onnx-fp32": 1.0, "onnx-int8": 1.1, "onnx-int4": 1.2, "onnx-int4-mixed": 1.2}
# Bytes a weight takes in a file, scales included; export/precision.py has the formats (a test holds them
# together).
WEIGHT_BYTES = {
    "onnx-fp32": 4.0,
    "onnx-int8": 1.125,
    "onnx-int4": 0.625,
    "gguf-f32": 4.0,
    "gguf-f16": 2.0,
    "gguf-q8_0": 1.0625,
    "gguf-q4_k_m": 0.65,
    "gguf-q4_0": 0.625,
}
SHORTEST = 32  # positions below which no shorter context is proposed


class Memory(NamedTuple):
    """Bytes: programs and tokenizer, weights, KV cache and rows of attention, buffers."""

    programs: int
    weights: int
    cache: int
    buffers: int

    @property
    def total(self) -> int:
        return sum(self)


def memory_needed(
    spec: ModelSpec, precision: str, weights: float, tokenizer: int, cache_bytes_each: int, capacity: int
) -> Memory:
    """Of a model of this shape whose weights take `weights` bytes on disk and its tokenizer.json
    `tokenizer`, 0 where there is none, with a cache of `capacity` positions of numbers of
    `cache_bytes_each`."""
    vocabulary = max(TOKENIZER_FACTOR * tokenizer, TOKEN_BYTES * spec.vocabulary)
    laid_out = LAID_OUT.get(precision, max(LAID_OUT.values()) if precision.startswith("onnx-") else 1.0)
    rows = 4 * spec.layers * spec.heads * capacity
    scores = kept = (
        4 * spec.heads * CHUNK * capacity
    )  # one layer's attention over a chunk, as it is computed and as it is kept
    if precision.startswith("onnx-"):  # with taps, as nearly all are
        kept = (
            max(kept, min(LAST_BYTES, CHUNK * rows), 3 * rows) + 4 * (spec.layers + 1) * CHUNK * spec.hidden
        )
    return Memory(
        PROGRAMS + vocabulary,
        round(weights * laid_out),
        spec.kv_bytes(capacity, cache_bytes_each) + rows,
        BUFFERS + scores + kept + 2 * 4 * spec.vocabulary,
    )


def needed_by(
    artifact: Artifact, cache_bytes_each: int, capacity: int, precision: str | None = None
) -> Memory:
    """Of an artifact, or of the same model in another precision of WEIGHT_BYTES."""
    manifest = artifact.manifest
    tokenizer = manifest.files[TOKENIZER_NAME].size if TOKENIZER_NAME in manifest.files else 0
    weights: float = sum(record.size for record in manifest.files.values()) - tokenizer
    if precision:
        weights *= WEIGHT_BYTES[precision] / WEIGHT_BYTES[manifest.precision]
    return memory_needed(
        manifest.model, precision or manifest.precision, weights, tokenizer, cache_bytes_each, capacity
    )


def check_memory(artifact: Artifact, cache_bytes_each: int, capacity: int, free: int | None = None) -> None:
    """Raises UserError, with what would fit, when the memory that is free (default: this machine's) will not
    do."""
    free = available_memory() if free is None else free
    needed = needed_by(artifact, cache_bytes_each, capacity)
    if free is None or needed.total <= free:
        return
    ways = [
        *shorter(artifact, cache_bytes_each, capacity, needed, free),
        *fewer_bits(artifact, cache_bytes_each, capacity, free),
    ]
    raise UserError(
        f"{artifact.label} needs about {amount(needed.total)} of memory with {capacity} positions and "
        f"{amount(free)} are free: "
        f"{', or '.join([*ways, 'free some', 'start all the same with --anyway'])}"
    )


def shorter(
    artifact: Artifact, cache_bytes_each: int, capacity: int, needed: Memory, free: int
) -> list[str]:
    """The longest context that fits, where there is one."""
    fixed = needed_by(artifact, cache_bytes_each, 0).total
    each = (needed.total - fixed) / capacity
    positions = int((free - fixed) / each) if each else 0
    return (
        [f"take at most {positions} positions of prompt and answer (--max-new-tokens)"]
        if positions >= SHORTEST
        else []
    )


def fewer_bits(artifact: Artifact, cache_bytes_each: int, capacity: int, free: int) -> list[str]:
    """The precision of the same backend with the most bits that fits."""
    own = artifact.manifest.precision
    family = own.partition("-")[0]
    less = [
        name
        for name in WEIGHT_BYTES
        if name.startswith(family) and WEIGHT_BYTES[name] < WEIGHT_BYTES.get(own, 0.0)
    ]
    for name in sorted(less, key=WEIGHT_BYTES.__getitem__, reverse=True):
        total = needed_by(artifact, cache_bytes_each, capacity, name).total
        if total <= free:
            return [f"build it as {name} ({amount(total)})"]
    return []
