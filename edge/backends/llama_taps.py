"""Attention rows and residual streams from llama.cpp's graph, through its evaluation callback.

The library asks about every node of the graph before it computes it (`ask`). It calls again with the data of
the nodes that were wanted. Each wanted node splits the graph, which costs time. So only one in each layer is
wanted: the attention after softmax. The residual stream that enters a layer is read then too: it is still in
place, because the attention is added to it afterwards. The last stream is wanted by itself.
`edge.backends.llamacpp` checks on the loaded model that this gives the same bits as wanting every node.

A callback that raised, or returned False with the data, would leave the rest of the graph uncomputed without
an error. So every exception is caught and kept for `finish`, which also detects a callback that was cut
off.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from edge.artifact import ModelSpec
from edge.backends.llama_callback import CompiledPass, compiled_callback
from edge.backends.llama_graph import (
    ATTENTION,
    F32,
    FLOAT,
    NAME,
    STREAM,
    Node,
    Plan,
    TapError,
    Tensor,
    moved,
    wanted_names,
)
from edge.signals.taps import HUGE, Array


class TapReader:
    """Collects the last position's rows of one pass at a time.

    `begin` before a pass whose taps matter, `finish` after it. The first pass of a kind looks at every
    node's name. Later ones know the nodes by address and check only their names, in C where there is a
    compiler. With `every`, each node is wanted by itself, for the check. Arrays: `rows` [L, H, K] and
    `hidden` [L+1, D], views that the next pass overwrites.
    """

    def __init__(self, library: Any, spec: ModelSpec, capacity: int) -> None:
        ggml = library._lib
        self._get = ggml.ggml_backend_tensor_get
        self._get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._get.restype = None
        self._is_host = ggml.ggml_backend_buffer_is_host
        self._is_host.argtypes, self._is_host.restype = [ctypes.c_void_p], ctypes.c_bool
        self.spec = spec
        self.every = False
        self._names = wanted_names(spec)
        self._hidden = np.empty((spec.layers + 1, spec.hidden), np.float32)
        self._hidden_address = self._hidden.ctypes.data
        self._stream_bytes = spec.hidden * FLOAT
        # Cut anew for every width, so that all rows lie together for one reduction; the cache is padded to
        # 256 positions.
        size = spec.layers * spec.heads * (-(-capacity // 256) * 256)
        self._attention = np.empty(max(size, HUGE), np.float32)
        self._attention_address = self._attention.ctypes.data
        self._new = self._width = self._attention_seen = self._streams_seen = 0
        self._learning = False
        self._plans: dict[int, Plan] = {}
        self._plan = Plan()
        self._wanted: dict[int, Node] | None = {}  # what this pass stops at; None: look at the names
        self._error: BaseException | None = None
        # What llama.cpp is to call, and with what.
        self.callback = self._python = library.ggml_backend_sched_eval_callback(self._call)
        self.user_data: int | None = None
        self._compiled: CompiledPass | None = None
        if address := compiled_callback().address:
            self.callback = library.ggml_backend_sched_eval_callback(address)
            self._compiled = CompiledPass(
                ctypes.cast(self._python, ctypes.c_void_p).value or 0,
                heads=spec.heads,
                stream_bytes=self._stream_bytes,
                attention=self._attention_address,
                capacity=self._attention.size,
                hidden=self._hidden_address,
                name_at=NAME,
                data_at=Tensor.data.offset,
                sizes_at=Tensor.ne.offset,
            )
            self.user_data = self._compiled.address
        self._in_c = False

    def begin(self, new: int) -> None:
        """Expects one pass over `new` tokens."""
        self._new, self._error = new, None
        self._width = self._attention_seen = self._streams_seen = 0
        plan = None if self.every else self._plans.get(min(new, 2))
        self._learning = plan is None
        self._plan = plan or Plan()
        self._wanted = None if plan is None else plan.wanted
        self._in_c = False
        if self._compiled is not None:
            if self._plan.stops is None:
                self._compiled.learn()
            else:
                self._compiled.begin(self._plan.stops, new)
                self._in_c = True

    def finish(self, keys: int) -> tuple[Array, Array]:
        """Rows over the `keys` first positions and residual streams of the pass; raises TapError when
        anything is amiss.

        A callback that was cut off shows here too: what it was called for has then not been read.
        """
        if self._in_c:
            self._take_over()
        self.stop()
        spec = self.spec
        if self._error is not None:
            self._plans.clear()
            if not isinstance(self._error, Exception):
                raise self._error  # an interruption is no failure of the taps
            raise TapError(f"reading taps from llama.cpp failed: {self._error}") from self._error
        if self._attention_seen != spec.layers or self._streams_seen != spec.layers + 1:
            self._plans.clear()
            raise TapError(
                f"llama.cpp's graph gave {self._attention_seen} of {spec.layers} attention patterns and "
                f"{self._streams_seen} of {spec.layers + 1} residual streams under the names known"
            )
        if self._learning and not self.every:
            self._plan.compile()
            self._plans[min(self._new, 2)] = self._plan
        size = spec.layers * spec.heads * self._width
        rows = self._attention[:size].reshape(spec.layers, spec.heads, self._width)
        return rows[:, :, :keys], self._hidden

    def _take_over(self) -> None:
        """Takes over what the compiled callback has read in the pass."""
        compiled, nodes = self._compiled, list(self._plan.wanted.values())
        assert compiled is not None
        seen = nodes[: compiled.passed]
        self._attention_seen = sum(node.kind == ATTENTION for node in seen)
        self._streams_seen, self._width = len(seen), compiled.width
        if compiled.failed is not None:
            self._error = moved(nodes[compiled.failed])

    def stop(self) -> None:
        """Ends a pass whose taps do not matter any more."""
        self._wanted = {}
        if self._compiled:
            self._compiled.rest()

    @property
    def learned(self) -> bool:
        """Whether the last pass looked at every name, so that trying once more would change nothing."""
        return self._learning

    def _call(self, address: int, ask: bool, data: Any) -> bool:
        """The callback, called some hundred times a token; after an error it lets the graph run through."""
        try:
            if ask:
                wanted = self._wanted
                return self._learn(address) if wanted is None else address in wanted
            self._read(address)
        except BaseException as error:
            self._error = self._error or error
            self._wanted = {}
        return True

    def _learn(self, address: int) -> bool:
        name = ctypes.string_at(address + NAME)
        if name not in self._names:
            return False
        kind, number = self._names[name]
        tensor = Tensor.from_address(address)
        self._check(tensor, kind)
        host = bool(tensor.buffer) and bool(self._is_host(tensor.buffer))
        node = Node(kind, number, name, address, host)
        if kind == STREAM:
            self._plan.streams[number] = node
            if not self.every:
                return False
        self._plan.wanted[address] = node
        return True

    def _check(self, tensor: Tensor, kind: str) -> None:
        spec, sizes = self.spec, tuple(tensor.ne)
        expected = (
            (sizes[0], self._new, spec.heads, 1) if kind == ATTENTION else (spec.hidden, sizes[1], 1, 1)
        )
        if tensor.type != F32 or sizes != expected or tensor.nb[0] != FLOAT:
            raise TapError(
                f"{tensor.name.decode()} has type {tensor.type} and sizes {sizes} instead of {expected} in "
                "float32"
            )

    def _read(self, address: int) -> None:
        """Copies what has just been computed, and the residual stream that entered the layer."""
        node = self._plan.wanted[address]
        if node.kind != ATTENTION:
            self._read_stream(node)
            return
        if not self.every:
            self._read_stream(self._plan.streams[node.number])
        if node.name_there.value != node.name:
            raise moved(node)
        width, new, heads = node.sizes[0], self._new, self.spec.heads
        if width != self._width:
            self._set_width(node, width)
        if node.sizes[1] != new:
            raise TapError(f"{node.name.decode()} has sizes {tuple(node.sizes)}")
        row = width * FLOAT
        target = self._attention_address + node.number * heads * row
        if new == 1:
            self._copy(node, 0, target, heads * row)
        else:
            for head in range(heads):
                self._copy(node, (head * new + new - 1) * row, target + head * row, row)
        self._attention_seen += 1

    def _set_width(self, node: Node, width: int) -> None:
        """Sets the width of the pass; raises TapError when its rows have two widths, or too large a one."""
        if self._width or width * self.spec.heads * self.spec.layers > self._attention.size:
            raise TapError(
                f"{node.name.decode()} has sizes {tuple(node.sizes)} beside a width of {self._width}"
            )
        self._width = width

    def _read_stream(self, node: Node) -> None:
        if node.name_there.value != node.name:
            raise moved(node)
        size = self._stream_bytes
        self._copy(node, (node.sizes[1] - 1) * size, self._hidden_address + node.number * size, size)
        self._streams_seen += 1

    def _copy(self, node: Node, offset: int, target: int, size: int) -> None:
        if node.host:
            ctypes.memmove(target, node.data.value + offset, size)  # type: ignore[operator]
        else:
            self._get(node.address, target, offset, size)
