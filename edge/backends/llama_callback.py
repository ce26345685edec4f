"""The tap callback in C, compiled on the machine it runs on. Without a compiler, Python's own does the same.

llama.cpp asks its callback about some six hundred nodes a token. Where the wanted ones are known by address,
llama_taps.c answers and copies without entering Python. llama-cpp-python is built from source, so that where
it is there mostly is a compiler too.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edge.machine.native import compiled

SOURCE = Path(__file__).with_name("llama_taps.c")


class Stop(ctypes.Structure):
    """`struct stop` of llama_taps.c: a node to stop at, and the residual stream to read there."""

    _fields_ = (
        ("tensor", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("layer", ctypes.c_int64),
        ("stream_number", ctypes.c_int64),
        ("name", ctypes.c_char * 64),
        ("stream_name", ctypes.c_char * 64),
    )


class Pass(ctypes.Structure):
    """`struct pass` of llama_taps.c: one pass over known nodes, or `python` for one that learns them."""

    _fields_ = (
        ("python", ctypes.c_void_p),
        ("stops", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("next", ctypes.c_int64),
        ("failed", ctypes.c_int64),
        ("new_tokens", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("stream_bytes", ctypes.c_int64),
        ("capacity", ctypes.c_int64),
        ("attention", ctypes.c_void_p),
        ("hidden", ctypes.c_void_p),
        ("name_at", ctypes.c_int64),
        ("data_at", ctypes.c_int64),
        ("sizes_at", ctypes.c_int64),
    )


class Callback(NamedTuple):
    """Address of the compiled callback, or 0 and the reason why there is none."""

    address: int
    problem: str


def compiled_callback() -> Callback:
    """The callback, compiled at the first call unless an earlier process has done it."""
    library, problem = compiled(SOURCE)
    if library is None:
        return Callback(0, problem)
    return Callback(ctypes.cast(library.edgetrace_tap, ctypes.c_void_p).value or 0, "")


class CompiledPass:
    """The state that the compiled callback works on, one pass at a time.

    `python` is the address of the callback for passes that learn. `name_at`, `data_at` and `sizes_at`
    are offsets in a tensor. `attention` and `hidden` are addresses of the buffers to fill; `capacity` is
    the size of the first in numbers.
    """

    def __init__(
        self,
        python: int,
        *,
        heads: int,
        stream_bytes: int,
        attention: int,
        capacity: int,
        hidden: int,
        name_at: int,
        data_at: int,
        sizes_at: int,
    ) -> None:
        self._python = python
        self._stops: ctypes.Array[Stop] | None = None
        self._pass = Pass(
            python=python,
            heads=heads,
            stream_bytes=stream_bytes,
            attention=attention,
            capacity=capacity,
            hidden=hidden,
            name_at=name_at,
            data_at=data_at,
            sizes_at=sizes_at,
        )
        self.address = ctypes.addressof(self._pass)

    def learn(self) -> None:
        """Passes every call on to Python's callback."""
        self._pass.python = self._python

    def rest(self) -> None:
        """Ends the pass: no node is wanted any more."""
        self._pass.python, self._pass.count = None, 0

    def begin(self, stops: ctypes.Array[Stop], new: int) -> None:
        """Expects a pass over `new` tokens that comes by these stops in their order."""
        self._stops = stops  # kept: the callback points there
        one = self._pass
        one.python, one.stops, one.count, one.next = None, ctypes.addressof(stops), len(stops), 0
        one.failed, one.new_tokens, one.width = 0, new, 0

    @property
    def passed(self) -> int:
        """Number of stops at which everything was as it had been learned."""
        return int(self._pass.next)

    @property
    def failed(self) -> int | None:
        """Index of the stop at which something was not, None where there is none."""
        return int(self._pass.failed) - 1 if self._pass.failed else None

    @property
    def width(self) -> int:
        """Numbers in each attention row of the pass."""
        return int(self._pass.width)


def stop_array(nodes: Sequence[tuple[int, bytes, int, int, bytes, int]]) -> ctypes.Array[Stop]:
    """The stops as C reads them, in the graph's order.

    Each node is (address, name, layer or -1, address of the stream, its name, its number).
    """
    array = (Stop * len(nodes))()
    for stop, (address, name, layer, stream, stream_name, number) in zip(array, nodes, strict=True):
        stop.tensor, stop.name, stop.layer = address, name, layer
        stop.stream, stop.stream_name, stop.stream_number = stream, stream_name, number
    return array
