"""The memory that a model will take, estimated before anything is loaded.

The figures are upper estimates, compared with measurements at true size (docs/memory.md,
benchmarks/memory.py). They count what must stay resident for a model to run at the speed of memory: weights
as the kernels read them, cache, buffers and the programs.
"""

from __future__ import annotations

from typing import NamedTuple

from edge.artifact import TOKENIZER_NAME, Artifact, ModelSpec
from edge.backends.base import CHUNK, LAST_BYTES
from edge.errors import UserError
from edge.machine.device import amount, available_memory
from edge.precision import ONNX, PRECISIONS, Precision, backend_of

MIB = 1 << 20
PROGRAMS = 106 * MIB  # Python, this project's imports and the runtime's code
BUFFERS = 64 * MIB  # activations of a chunk of the prompt, the allocators' slack
TOKENIZER_FACTOR = 12  # memory over the size of a tokenizer.json
TOKEN_BYTES = 700  # and at least so much for each token
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
    """Memory of a model of this shape with a cache of `capacity` positions.

    Sizes in bytes: `weights` on disk, `tokenizer` that of tokenizer.json (0 where there is none), and
    `cache_bytes_each` that of a cached number.
    """
    vocabulary = max(TOKENIZER_FACTOR * tokenizer, TOKEN_BYTES * spec.vocabulary)
    rows = 4 * spec.layers * spec.heads * capacity
    # One layer's attention over a chunk, as it is computed and as it is kept.
    scores = kept = 4 * spec.heads * CHUNK * capacity
    if backend_of(precision) == ONNX:  # with taps, as nearly all are
        streams = 4 * (spec.layers + 1) * CHUNK * spec.hidden
        kept = max(kept, min(LAST_BYTES, CHUNK * rows), 3 * rows) + streams
    return Memory(
        PROGRAMS + vocabulary,
        round(weights * laid_out(precision)),
        spec.kv_bytes(capacity, cache_bytes_each) + rows,
        BUFFERS + scores + kept + 2 * 4 * spec.vocabulary,
    )


def laid_out(precision: str) -> float:
    """Memory that weights take as the kernels read them, over their size in the file.

    For an ONNX precision that is not in the table: the largest there is.
    """
    if precision in PRECISIONS:
        return PRECISIONS[precision].laid_out
    return max(row.laid_out for row in PRECISIONS.values()) if backend_of(precision) == ONNX else 1.0


def needed_by(
    artifact: Artifact, cache_bytes_each: int, capacity: int, instead: Precision | None = None
) -> Memory:
    """Memory of an artifact, or of the same model `instead` in another precision; both sizes are known."""
    manifest = artifact.manifest
    tokenizer = manifest.files[TOKENIZER_NAME].size if TOKENIZER_NAME in manifest.files else 0
    weights: float = manifest.size - tokenizer
    precision = manifest.precision
    if instead is not None:
        weights *= instead.weight_bytes / PRECISIONS[precision].weight_bytes
        precision = instead.name
    return memory_needed(manifest.model, precision, weights, tokenizer, cache_bytes_each, capacity)


def check_memory(artifact: Artifact, cache_bytes_each: int, capacity: int, free: int | None = None) -> None:
    """Raises UserError, with what would fit, when `free` memory (default: this machine's) is too little."""
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
        f"{amount(free)} are free: {', or '.join([*ways, 'free some', 'start all the same with --anyway'])}"
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
    own = PRECISIONS.get(artifact.manifest.precision)
    if own is None:
        return []
    less = [
        row
        for row in PRECISIONS.values()
        if row.backend == own.backend and 0 < row.weight_bytes < own.weight_bytes
    ]
    for row in sorted(less, key=lambda row: row.weight_bytes, reverse=True):
        total = needed_by(artifact, cache_bytes_each, capacity, row).total
        if total <= free:
            return [f"build it as {row.name} ({amount(total)})"]
    return []
