"""The signals of one step by compiled code: what `edge.signals.definitions` defines, in one pass over each
array.

A pass over a model's weights drives everything else out of the processor's caches, numpy's code and the
interpreter's among it, so that a few dozen small calls a token cost as much as the arithmetic. Here there
are three. The numbers are numpy's but for rounding (some 1e-7 of an entropy), which is tried on a sample
before the code is used; without a compiler numpy does it.
"""

from __future__ import annotations

import ctypes
import functools
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge.machine.device import simd
from edge.machine.native import compiled
from edge.machine.system import SYSTEM, read_text
from edge.signals.definitions import (
    AttentionSignals,
    HiddenSignals,
    OutputSignals,
    Scratch,
    attention_signals,
    hidden_signals,
    most_likely,
    output_of_sums,
    output_signals,
)
from edge.signals.groups import measured
from edge.signals.metric import Metric, Shape, Source
from edge.signals.taps import Array

SOURCE = Path(__file__).with_name("compiled.c")
ATTENTION, HIDDEN = measured(Source.ATTENTION), measured(Source.HIDDEN)
FLAGS = ("-ffp-contract=fast", "-fno-math-errno")
LANES = 16  # numbers beyond the last key that the code wants room for, at most
# Options for a processor that lists these features in /proc/cpuinfo. Where no line fits, the compiler's own
# choice: all 64-bit ARM processors have the vectors that it takes for granted there.
TARGETS = (({"avx512f", "fma"}, ("-mavx512f", "-mfma")), ({"avx2", "fma"}, ("-mavx2", "-mfma")))
CLOSE = 1e-5  # how far a number may be from numpy's on the sample, over one plus its size


class Code:
    """The functions of compiled.c. Arrays are float32; the signals are those of
    `edge.signals.definitions`."""

    def __init__(self, library: Any) -> None:
        address, integer = ctypes.c_void_p, ctypes.c_int64
        self._attention, self._hidden = library.edgetrace_attention, library.edgetrace_hidden
        self._logits = library.edgetrace_logits
        self._attention.argtypes, self._attention.restype = [address, *[integer] * 5, address, address], None
        self._hidden.argtypes, self._hidden.restype = [address, address, integer, integer, address], None
        self._logits.argtypes, self._logits.restype = [address, integer, integer, address], None

    def output(self, logits: Array) -> OutputSignals:
        """See edge.signals.definitions.output_signals; logits lie in one piece."""
        top1, largest = most_likely(logits)
        sums = (ctypes.c_double * 4)()
        self._logits(logits.ctypes.data, logits.size, top1, sums)
        return output_of_sums(top1, largest, *sums)

    def attention(self, rows: Array, scratch: Scratch) -> AttentionSignals:
        """See edge.signals.definitions.attention_signals; the keys of a row lie side by side."""
        layers, heads, keys = rows.shape
        by_layer, by_head, _ = (stride // rows.itemsize for stride in rows.strides)
        out = np.empty(size_of(ATTENTION, layers, heads), np.float32)
        mean_row = scratch.take("mean_row", keys + LANES)
        self._attention(
            rows.ctypes.data, layers, heads, keys, by_layer, by_head, mean_row.ctypes.data, out.ctypes.data
        )
        return AttentionSignals(*split(out, ATTENTION, layers, heads))

    def hidden(self, now: Array, before: Array, *, has_before: bool) -> HiddenSignals:
        """See edge.signals.definitions.hidden_signals; both in one piece. `before` is filled with `now` when
        its values have been used."""
        streams, width = now.shape
        out = np.empty(size_of(HIDDEN, streams - 1, 0), np.float32)
        self._hidden(now.ctypes.data, before.ctypes.data, streams, width, out.ctypes.data)
        arrays = zip(HIDDEN, split(out, HIDDEN, streams - 1, 0), strict=True)
        known: list[Any] = [
            array if has_before or not metric.first_row else None for metric, array in arrays
        ]
        return HiddenSignals(*known)


def dimensions(layers: int, heads: int) -> dict[Shape, tuple[int, ...]]:
    """Shapes of the array of one metric, by the shape of its cell."""
    return {Shape.HEADS: (layers, heads), Shape.LAYERS: (layers,), Shape.STREAMS: (layers + 1,)}


def size_of(metrics: Sequence[Metric], layers: int, heads: int) -> int:
    """How many numbers all these metrics have together."""
    shapes = dimensions(layers, heads)
    return sum(math.prod(shapes[metric.shape]) for metric in metrics)


def split(values: Array, metrics: Sequence[Metric], layers: int, heads: int) -> list[Array]:
    """One array for each of the metrics, which lie one behind the other in `values`."""
    shapes, pieces, start = dimensions(layers, heads), [], 0
    for metric in metrics:
        end = start + math.prod(shapes[metric.shape])
        pieces.append(values[start:end].reshape(shapes[metric.shape]))
        start = end
    return pieces


class CompiledCode(NamedTuple):
    """The compiled code, or None and the reason why there is none."""

    code: Code | None
    problem: str


@functools.cache
def compiled_code() -> CompiledCode:
    """Compiles at the first call, unless an earlier process has: a second, several on a slow board."""
    library, problem = compiled(SOURCE, flags_here())
    if library is None:
        return CompiledCode(None, problem)
    code = Code(library)
    if agrees(code):
        return CompiledCode(code, "")
    return CompiledCode(None, "what the compiler made gives other numbers than numpy")


def flags_here() -> tuple[str, ...]:
    """The compiler's options on this machine."""
    return (*FLAGS, *target(read_text(SYSTEM / "proc/cpuinfo") or ""))


def target(cpuinfo: str) -> tuple[str, ...]:
    """The compiler's options for the vectors of this processor."""
    listed = set(simd(cpuinfo)) if platform.machine() in ("x86_64", "AMD64") else set()
    return next((options for needs, options in TARGETS if needs <= listed), ())


def agrees(code: Code) -> bool:
    """Whether compiled code gives numpy's numbers for a sample: odd sizes, zeros, one row that is all on one
    key."""
    random, scratch = np.random.default_rng(0), Scratch()
    room = np.full((2, 3, 45), np.inf, np.float32)  # what lies beyond the last key is not looked at
    rows = room[:, :, :43]
    rows[:] = random.random(rows.shape, np.float32) ** 8
    rows[0, 0, ::3] = 0.0
    rows /= rows.sum(axis=2, keepdims=True)
    rows[1, 2] = np.eye(43, dtype=np.float32)[7]
    now, before = random.normal(size=(2, 4, 37)).astype(np.float32)
    logits = random.normal(0.0, 4.0, 1333).astype(np.float32)
    logits[::7] = -np.inf
    expected = (
        *output_signals(logits, scratch),
        *attention_signals(rows, scratch),
        *hidden_signals(now, before, scratch),
    )
    given = (
        *code.output(logits),
        *code.attention(rows, scratch),
        *code.hidden(now, before, has_before=True),
    )
    pairs = zip(given, expected, strict=True)
    return np.array_equal(before, now) and all(close(np.asarray(a), np.asarray(b)) for a, b in pairs)


def close(ours: Array, theirs: Array) -> bool:
    """Whether numbers are within CLOSE of one plus their size; nothing is close to what is not a number."""
    return bool((np.abs(ours - theirs) <= CLOSE * (1.0 + np.abs(theirs))).all())
