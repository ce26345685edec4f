"""The sums over attention rows and residual streams that the metrics of signals.py are made of.

They are defined here in numpy. `reductions.c` makes the same in one pass over memory, out of whose caches a pass over a model's
weights has just driven everything; it is used where it can be compiled and agrees with numpy on a sample. The two differ by
rounding, a few 1e-7 of an entropy. L layers, H query heads, K visible keys, D hidden width; all float32.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge.backends.base import HUGE, Array
from edge.compiled import compiled
from edge.device import SYSTEM, read_text, simd

SOURCE = Path(__file__).with_name("reductions.c")
TINY = np.finfo(np.float32).tiny  # ln of it is finite, and 0 * ln(TINY) = 0
BLOCK = 1 << 16  # attention weights that numpy reduces at once
LANES = 16  # numbers beyond the last key that the compiled code wants room for, at most
# Options for a processor that lists these features in /proc/cpuinfo. Where no line fits, the compiler's own choice: all 64-bit
# ARM processors have the vectors that it takes for granted there.
TARGETS = (({"avx512f", "fma"}, ("-mavx512f", "-mfma")), ({"avx2", "fma"}, ("-mavx2", "-mfma")))
CLOSE = 1e-5  # how far a compiled sum may be from numpy's on the sample, over one plus its size


class Scratch:
    """Work arrays that are made once and grow, so that a step allocates nothing large."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def take(self, name: str, size: int) -> Array:
        """A flat float32 array of `size`; its content is whatever was there."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(max(size, HUGE), np.float32)
        return buffer[:size]


class RowSums(NamedTuple):
    """Sum over keys of a ln a for each head's row [L, H] and for the heads' mean row [L]; the first key's weight [L, H]."""

    by_head: Array
    of_mean: Array
    first: Array


class StreamSums(NamedTuple):
    """Sums over D: of a stream's squares [L+1]; of the squares of its change from the stream below, and of their products [L];
    of the squares of its change from the position before, of their products, and of that one's squares [L+1]. The last three
    are None where there is no position before."""

    squares: Array
    change: Array
    product: Array
    token_change: Array | None
    token_product: Array | None
    squares_before: Array | None


def row_sums(rows: Array, scratch: Scratch) -> RowSums:
    """Of attention rows [L, H, K], every weight 0 or above."""
    compiled_code = kernel().code
    return compiled_code.row_sums(rows, scratch) if compiled_code and fits_rows(rows) else numpy_row_sums(rows, scratch)


def stream_sums(now: Array, before: Array | None, scratch: Scratch) -> StreamSums:
    """Of residual streams [L+1, D], and of those of the position before where there is one."""
    compiled_code = kernel().code
    if compiled_code and fits_streams(now) and (before is None or fits_streams(before)):
        return compiled_code.stream_sums(now, before)
    return numpy_stream_sums(now, before, scratch)


def numpy_row_sums(rows: Array, scratch: Scratch) -> RowSums:
    layers, heads, keys = rows.shape
    by_head = np.empty((layers, heads), np.float32)
    mean_row = scratch.take("mean_row", layers * keys).reshape(layers, keys)
    # Some layers at a time, so that their logarithms stay in the cache; the rows themselves come from memory.
    some = max(1, BLOCK // (heads * keys))
    for start in range(0, layers, some):
        block = rows[start : start + some]
        logs = scratch.take("logs", block.size).reshape(block.shape)
        np.add(block, TINY, out=logs)  # changes no weight but 0; a third of the time of a maximum
        np.log(logs, out=logs)
        np.vecdot(block, logs, out=by_head[start : start + some])
        np.add.reduce(block, axis=1, out=mean_row[start : start + some])
    mean_row *= np.float32(1.0 / heads)
    logs = scratch.take("logs", mean_row.size).reshape(mean_row.shape)
    np.add(mean_row, TINY, out=logs)
    np.log(logs, out=logs)
    return RowSums(by_head, np.vecdot(mean_row, logs), rows[:, :, 0].copy())


def numpy_stream_sums(now: Array, before: Array | None, scratch: Scratch) -> StreamSums:
    difference = scratch.take("difference", now.size).reshape(now.shape)

    np.subtract(now[1:], now[:-1], out=difference[1:])
    sums = StreamSums(
        squares=np.vecdot(now, now),
        change=np.vecdot(difference[1:], difference[1:]),
        product=np.vecdot(now[1:], now[:-1]),
        token_change=None,
        token_product=None,
        squares_before=None,
    )
    if before is None:
        return sums
    np.subtract(now, before, out=difference)
    return sums._replace(
        token_change=np.vecdot(difference, difference),
        token_product=np.vecdot(now, before),
        squares_before=np.vecdot(before, before),
    )


def fits_rows(rows: Array) -> bool:
    """Whether the compiled code can read rows where they lie: float32, the keys of a row side by side."""
    return rows.dtype == np.float32 and rows.strides[2] == rows.itemsize and min(rows.strides) >= 0


def fits_streams(streams: Array) -> bool:
    return streams.dtype == np.float32 and streams.flags.c_contiguous


class Code:
    """The functions of reductions.c, for arrays that fit. The same sums as numpy's of the same name."""

    def __init__(self, library: Any) -> None:
        address, integer = ctypes.c_void_p, ctypes.c_int64
        self._rows, self._streams = library.edgetrace_rows, library.edgetrace_streams
        self._rows.argtypes, self._rows.restype = [address, *[integer] * 5, *[address] * 4], None
        self._streams.argtypes, self._streams.restype = [address, address, integer, integer, address], None

    def row_sums(self, rows: Array, scratch: Scratch) -> RowSums:
        layers, heads, keys = rows.shape
        made = RowSums(*(np.empty(shape, np.float32) for shape in ((layers, heads), layers, (layers, heads))))
        mean_row = scratch.take("mean_row", keys + LANES)
        strides = (stride // rows.itemsize for stride in rows.strides[:2])
        outputs = (array.ctypes.data for array in (mean_row, *made))
        self._rows(rows.ctypes.data, layers, heads, keys, *strides, *outputs)
        return made

    def stream_sums(self, now: Array, before: Array | None) -> StreamSums:
        sums = np.empty((len(StreamSums._fields), len(now)), np.float32)
        other = now if before is None else before
        self._streams(now.ctypes.data, other.ctypes.data, *now.shape, sums.ctypes.data)
        squares, change, product, *since = sums
        return StreamSums(squares, change[1:], product[1:], *((None, None, None) if before is None else since))


class Kernel(NamedTuple):
    """The compiled code, or None and the reason why there is none."""

    code: Code | None
    problem: str


@functools.cache
def kernel() -> Kernel:
    """Compiles at the first call, unless an earlier process has: a second, several on a slow board."""
    library, problem = compiled(SOURCE, ("-ffp-contract=fast", *target(read_text(SYSTEM / "proc/cpuinfo") or "")))
    if library is None:
        return Kernel(None, problem)
    code = Code(library)
    return Kernel(code, "") if agrees(code) else Kernel(None, "what the compiler made gives other sums than numpy")


def target(cpuinfo: str) -> tuple[str, ...]:
    """The compiler's options for the vectors of this processor."""
    listed = set(simd(cpuinfo)) if platform.machine() in ("x86_64", "AMD64") else set()
    return next((options for needs, options in TARGETS if needs <= listed), ())


def agrees(code: Code) -> bool:
    """Whether compiled code gives numpy's sums of a sample: odd sizes, zeros, one row that is all on one key."""
    random, scratch = np.random.default_rng(0), Scratch()
    room = np.full((2, 3, 45), np.inf, np.float32)  # what lies beyond the last key is not looked at
    rows = room[:, :, :43]
    rows[:] = random.random(rows.shape, np.float32) ** 8
    rows[0, 0, ::3] = 0.0
    rows /= rows.sum(axis=2, keepdims=True)
    rows[1, 2] = np.eye(43, dtype=np.float32)[7]
    now, before = random.normal(size=(2, 4, 37)).astype(np.float32)
    made = (*code.row_sums(rows, scratch), *code.stream_sums(now, before))
    meant = (*numpy_row_sums(rows, scratch), *numpy_stream_sums(now, before, scratch))
    return all(
        ours is not None and theirs is not None and bool((np.abs(ours - theirs) <= CLOSE * (1.0 + np.abs(theirs))).all())
        for ours, theirs in zip(made, meant, strict=True)
    )
