"""ONNX Runtime on the CPU. Every buffer is made once and bound; a step copies only what it needs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Artifact, ModelSpec
from edge.backends.base import CHUNK, LAST_BYTES, check_room
from edge.backends.mapped import let_go
from edge.errors import UserError
from edge.machine.processors import Neighbours, ThreadCount
from edge.paths import utf8_name
from edge.precision import GRAPH_NAME
from edge.signals.taps import HUGE, Array, Taps

RUNTIME_VERSION = version("onnxruntime")  # without its import, which is slow
DATA_NAME = f"{GRAPH_NAME}.data"
WEIGHTS_NAME = "weights.bin"  # beside a graph of save_prepacked
FLOAT_BYTES = 4  # the cache is in float32
FIRST_VERSION = (0, 2)  # of Edgetrace, whose tapped graphs give every position out


def session_options(threads: int) -> Any:
    import onnxruntime as ort  # only here: commands that run no ONNX graph do without it

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def open_session(path: Path, threads: int, options: Any = None) -> Any:
    """A CPU session (InferenceSession) of one graph; raises UserError when onnxruntime refuses the file."""
    import onnxruntime as ort

    try:
        with utf8_name(path) as name:
            return ort.InferenceSession(
                name, options or session_options(threads), providers=["CPUExecutionProvider"]
            )
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        detail = " ".join(str(error).split())[:300]
        raise UserError(
            f"onnxruntime {RUNTIME_VERSION} cannot load {path} ({detail}): build the artifact again"
        ) from error


def check_graph(artifact: Artifact) -> None:
    """Raises UserError for a tapped graph of before FIRST_VERSION."""
    version = artifact.manifest.versions.get("edgetrace", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if artifact.manifest.taps != "none" and numbers < FIRST_VERSION:
        raise UserError(
            f"{artifact.label} was built by Edgetrace {version or 'of an unknown version'}, whose graphs "
            "gave other outputs: build it again (edge-export build --force)"
        )


def save_prepacked(path: Path, folder: Path, threads: int) -> None:
    """Writes the graph as this machine's kernels have its weights to GRAPH_NAME and WEIGHTS_NAME in
    `folder`.

    Takes as much memory as loading the graph does. Raises UserError when onnxruntime refuses the file or
    cannot write.
    """
    options = session_options(threads)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_NAME)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
    )
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    with utf8_name(folder / GRAPH_NAME) as name:
        options.optimized_model_filepath = name
        open_session(path, threads, options)


def chunks(count: int, last: int) -> list[int]:
    """Sizes of the chunks of a prompt, CHUNK at most, the final one `last` at most. None is of one position,
    which would run the kernels of decoding and round quantised activations in another way, but for a prompt
    of one."""
    if count <= last:
        return [count]
    before = count - last
    if before == 1:
        return [2, last - 1] if last > 2 else [3]
    sizes = []
    while before:
        sizes.append(min(CHUNK, before) - (before == CHUNK + 1))
        before -= sizes[-1]
    return [*sizes, last]


def check_shape(session: Any, spec: ModelSpec, path: Path, *, tapped: bool) -> None:
    """Raises UserError where a graph has another shape than its manifest, by which the buffers are made."""
    layers = range(spec.layers)
    wanted = {"logits": (1, spec.vocabulary)}  # each name with an axis and its size
    for layer, part in itertools.product(layers, ("key", "value")):
        wanted[f"past_key_values.{layer}.{part}"] = (3, spec.head_dim)
        wanted[f"present.{layer}.{part}"] = (1, spec.kv_heads)
    if tapped:
        wanted |= {f"attention.{layer}": (1, spec.heads) for layer in layers}
        wanted |= {f"hidden.{index}": (2, spec.hidden) for index in range(spec.layers + 1)}
    inputs = {node.name: node.shape for node in session.get_inputs()}
    there = inputs | {node.name: node.shape for node in session.get_outputs()}
    others = sorted(inputs.keys() - wanted.keys() - {"input_ids", "seqlens_k", "total_sequence_length"})
    others += [
        name
        for name, (axis, size) in wanted.items()
        if name not in there or there[name][axis : axis + 1] != [size]
    ]
    if others:
        raise UserError(
            f"{path} has another shape than its manifest says (at {others[0]}): build the artifact again"
        )


class OnnxBackend:
    """Runs an artifact of `edge-export build --to onnx-*`; see `edge.backends.base.Backend`.

    `capacity` bounds the cached positions (default: all the artifact was built for); unused ones cost no
    memory. `threads` is the number of threads; by default it follows the free processors, of
    which `neighbours` may have a first reading (ThreadCount). `graph` defaults to the artifact's own.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        capacity: int | None = None,
        threads: int | None = None,
        neighbours: Neighbours | None = None,
        graph: Path | None = None,
    ) -> None:
        self.spec = spec = artifact.manifest.model
        self.capacity = min(capacity or spec.context, spec.context)
        self.length = 0
        self.cache_bytes_each = FLOAT_BYTES
        self.taps_lost = ""  # the graph has its taps or was built without
        check_graph(artifact)
        self._tapped = artifact.manifest.taps != "none"
        self._graph = graph or artifact.path / GRAPH_NAME
        self._thread_count, self._threads = ThreadCount(threads, neighbours), 0
        self._session: Any = None
        self._binding: Any = None
        self._cache = np.zeros((spec.layers, 2, 1, spec.kv_heads, self.capacity, spec.head_dim), np.float32)
        self._logits = np.empty((1, spec.vocabulary), np.float32)
        self._ids = np.empty((1, CHUNK), np.int64)
        self._seqlens_k = np.empty(1, np.int32)
        self._total = np.empty((), np.int32)
        self._bound_ids = 0
        self._attention_names = [f"attention.{layer}" for layer in range(spec.layers)]
        self._hidden_names = [f"hidden.{index}" for index in range(spec.layers + 1)]
        # The last position's rows. One flat buffer, cut anew at every length, so that all rows lie together
        # for one reduction.
        self._attention = np.empty(
            max(spec.layers * spec.heads * self.capacity, HUGE) if self._tapped else 0, np.float32
        )
        self._hidden = np.empty((spec.layers + 1, spec.hidden), np.float32)
        # What a chunk of a prompt leaves; there while a prompt is read, used as far as it is long.
        self._patterns = np.empty(0, np.float32)
        self._streams = np.empty((0, 0, 0), np.float32)
        self._open(self._thread_count.now())

    def _open(self, threads: int) -> None:
        """Opens the session with so many threads, after it has closed the one before.

        A session's threads cannot be changed. The cache is ours, so that nothing is computed again.
        """
        began = time.perf_counter()
        self.close()
        self._session = open_session(self._graph, threads)
        check_shape(self._session, self.spec, self._graph, tapped=self._tapped)
        self._thread_count.changed(time.perf_counter() - began)
        let_go(self._graph.with_name(DATA_NAME), self._graph.with_name(WEIGHTS_NAME))
        self._binding, self._threads, self._bound_ids = self._session.io_binding(), threads, 0
        self._bind_fixed()

    def _bind_fixed(self) -> None:
        self._input("seqlens_k", self._seqlens_k)
        self._input("total_sequence_length", self._total)
        for layer in range(self.spec.layers):
            for part, name in enumerate(("key", "value")):
                buffer = self._cache[layer, part]
                self._input(f"past_key_values.{layer}.{name}", buffer)
                self._output(f"present.{layer}.{name}", buffer)
        self._output("logits", self._logits)

    def _input(self, name: str, buffer: np.ndarray[Any, Any]) -> None:
        self._binding.bind_input(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

    def _output(self, name: str, buffer: np.ndarray[Any, Any]) -> None:
        self._binding.bind_output(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

    def prefill(self, ids: Sequence[int]) -> Taps:
        check_room(self, ids)
        spec, start = self.spec, 0
        row_bytes = FLOAT_BYTES * spec.layers * spec.heads * (self.length + len(ids))
        sizes = chunks(len(ids), min(CHUNK, max(2, LAST_BYTES // row_bytes)) if self._tapped else CHUNK)
        for size in sizes[:-1]:
            self._forward(ids[start : start + size], last=False)
            start += size
        taps = self._forward(ids[start:])
        self._free_chunks()
        return taps

    def step(self, token_id: int) -> Taps:
        check_room(self, (token_id,))
        return self._forward((token_id,))

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length} of {self.length} positions")
        self.length = length

    def close(self) -> None:
        self._binding = None
        self._session = None

    def _forward(self, ids: Sequence[int], *, last: bool = True) -> Taps:
        """Runs one pass; without `last` only the logits of its taps mean anything."""
        if (threads := self._thread_count.now()) != self._threads:
            self._open(threads)
        new, spec = len(ids), self.spec
        self._ids[0, :new] = ids
        total = self.length + new
        self._seqlens_k[0] = total - 1
        self._total[()] = total
        if self._bound_ids != new:
            self._input("input_ids", self._ids[:, :new])
            if self._tapped:
                self._bind_hidden(new)
            self._bound_ids = new
        if not self._tapped:
            self._session.run_with_iobinding(self._binding)
            self.length = total
            return Taps(total - 1, self._logits[0], None, None)
        rows = self._attention[: spec.layers * spec.heads * total].reshape(spec.layers, spec.heads, total)
        patterns = rows[:, :, None] if new == 1 else self._chunk_patterns(new, total, last=last)
        self._bind_attention(patterns)
        self._session.run_with_iobinding(self._binding)
        if new > 1 and last:
            rows[:] = patterns[:, :, -1]
            self._hidden[:] = self._streams[:, new - 1]
        self.length = total
        return Taps(total - 1, self._logits[0], rows, self._hidden)

    def _bind_attention(self, patterns: Array) -> None:
        """Binds every layer's attention to its part of [L, H, S, T]."""
        bind, shape = self._binding.bind_output, (1, *patterns.shape[1:])
        address, stride = patterns.ctypes.data, patterns.strides[0]
        for layer, name in enumerate(self._attention_names):
            bind(name, "cpu", 0, np.float32, shape, address + layer * stride)

    def _bind_hidden(self, new: int) -> None:
        if new > 1 and not self._streams.size:
            self._streams = np.empty((self.spec.layers + 1, CHUNK, self.spec.hidden), np.float32)
        for index, name in enumerate(self._hidden_names):
            buffer = self._hidden[index] if new == 1 else self._streams[index, :new]
            self._output(name, buffer.reshape(1, new, self.spec.hidden))

    def _free_chunks(self) -> None:
        """Frees the buffers of chunks, which decoding does without; the next pass binds its own outputs."""
        self._patterns, self._streams = np.empty(0, np.float32), np.empty((0, 0, 0), np.float32)
        self._bound_ids = 0

    def _chunk_patterns(self, new: int, total: int, *, last: bool) -> Array:
        """Buffer of a chunk's attention [L, H, S, T]: in the last chunk a part for each layer, else one."""
        spec = self.spec
        size = spec.heads * new * total
        if not self._patterns.size:  # for all that any chunk may need, most of which is never touched
            row, most = spec.layers * spec.heads * self.capacity, min(CHUNK, self.capacity)
            room = max(
                spec.heads * most * self.capacity, min(LAST_BYTES // FLOAT_BYTES, most * row), 3 * row
            )
            self._patterns = np.empty(room, np.float32)
        shape = (spec.heads, new, total)
        if last:
            return self._patterns[: spec.layers * size].reshape(spec.layers, *shape)
        return np.broadcast_to(self._patterns[:size].reshape(shape), (spec.layers, *shape))
