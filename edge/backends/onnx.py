"""ONNX Runtime on the CPU: every buffer is made once and bound; a step copies nothing that it does not need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edge.artifact import Artifact
from edge.backends.base import Array, Taps, check_room
from edge.backends.graph_order import put_in_order
from edge.backends.mapped import let_go
from edge.device import usable_cores
from edge.errors import UserError

RUNTIME_VERSION: str = ort.__version__
GRAPH_NAME = "model.onnx"
DATA_NAME = "model.onnx.data"
WEIGHTS_NAME = "weights.bin"  # beside a graph of save_prepacked
FLOAT_BYTES = 4  # the cache is in float32
CHUNK = 128  # prefill in chunks: the same bits, and attention buffers that do not grow with the prompt squared


def session_options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Without it the attention buffers of all layers stay alive at once during prefill.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    options.log_severity_level = 3
    return options


def open_session(path: Path, threads: int, options: Any = None) -> ort.InferenceSession:
    """A CPU session of one graph; raises UserError when onnxruntime refuses the file."""
    try:
        return ort.InferenceSession(str(path), options or session_options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        detail = " ".join(str(error).split())[:300]
        raise UserError(f"onnxruntime {RUNTIME_VERSION} cannot load {path} ({detail}): build the artifact again") from error


def save_prepacked(path: Path, folder: Path, threads: int) -> None:
    """Writes the graph as this machine's kernels have its weights to GRAPH_NAME and WEIGHTS_NAME in `folder`.

    Takes as much memory as loading the graph does. Raises UserError when onnxruntime refuses the file or cannot write.
    """
    options = session_options(threads)
    options.optimized_model_filepath = str(folder / GRAPH_NAME)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_NAME)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    open_session(path, threads, options)
    put_in_order(folder / GRAPH_NAME, "logits")


class OnnxBackend:
    """Runs an artifact of `edge-export build --to onnx-*`; see `edge.backends.base.Backend`.

    `capacity` bounds the cached positions (default: all the artifact was built for); unused ones cost no memory.
    `threads` defaults to the processors this process may use; `graph` to the artifact's own.
    """

    def __init__(
        self, artifact: Artifact, *, capacity: int | None = None, threads: int | None = None, graph: Path | None = None
    ) -> None:
        self.spec = spec = artifact.manifest.model
        self.capacity = min(capacity or spec.context, spec.context)
        self.length = 0
        self.cache_bytes_each = FLOAT_BYTES
        self.taps_lost = ""  # the graph has its taps or was built without
        self._raw = artifact.manifest.taps == "raw"
        self._tapped = artifact.manifest.taps != "none"
        graph = graph or artifact.path / GRAPH_NAME
        self._session: Any = open_session(graph, threads or usable_cores())
        let_go(graph.with_name(DATA_NAME), graph.with_name(WEIGHTS_NAME))
        self._binding: Any = self._session.io_binding()
        self._cache = np.zeros((spec.layers, 2, 1, spec.kv_heads, self.capacity, spec.head_dim), np.float32)
        self._logits = np.empty((1, spec.vocabulary), np.float32)
        self._hidden = np.empty((spec.layers + 1, 1, 1, spec.hidden), np.float32)
        # One flat buffer, cut anew at every length, so that all rows [L, H, K] lie together for one reduction.
        self._attention = np.empty(spec.layers * spec.heads * self.capacity if self._tapped else 0, np.float32)
        self._ids = np.empty((1, CHUNK), np.int64)
        self._seqlens_k = np.empty(1, np.int32)
        self._total = np.empty((), np.int32)
        self._bound_ids = 0
        self._outputs: dict[str, None] = {}  # names in the order they were bound first, in which values come back
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
        if self._tapped:
            for index in range(self.spec.layers + 1):
                self._output(f"hidden.{index}", self._hidden[index])

    def _input(self, name: str, buffer: np.ndarray[Any, Any]) -> None:
        self._binding.bind_input(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

    def _output(self, name: str, buffer: np.ndarray[Any, Any]) -> None:
        self._binding.bind_output(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)
        self._outputs.setdefault(name)

    def prefill(self, ids: Sequence[int]) -> Taps:
        check_room(self, ids)
        start = 0
        while True:
            # A chunk of one would run the kernels of decoding, which round quantised activations in another way.
            size = CHUNK - (len(ids) - start == CHUNK + 1)
            taps = self._forward(ids[start : start + size])
            start += size
            if start >= len(ids):
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

    def _forward(self, ids: Sequence[int]) -> Taps:
        new, spec = len(ids), self.spec
        self._ids[0, :new] = ids
        total = self.length + new
        self._seqlens_k[0] = total - 1
        self._total[()] = total
        if self._bound_ids != new:
            self._input("input_ids", self._ids[:, :new])
            self._bound_ids = new
        if not self._tapped:
            self._session.run_with_iobinding(self._binding)
            self.length = total
            return Taps(total - 1, self._logits[0], None, None)
        rows = self._attention[: spec.layers * spec.heads * total].reshape(spec.layers, spec.heads, total)
        if self._raw and new > 1:
            self._run_raw(rows)
        else:
            address, stride, shape = rows.ctypes.data, rows.strides[0], (1, spec.heads, 1, total)
            for layer in range(spec.layers):
                name = f"attention.{layer}"
                self._binding.bind_output(name, "cpu", 0, np.float32, shape, address + layer * stride)
                self._outputs.setdefault(name)
            self._session.run_with_iobinding(self._binding)
        self.length = total
        return Taps(total - 1, self._logits[0], rows, self._hidden[:, 0, 0])

    def _run_raw(self, rows: Array) -> None:
        """A raw graph gives every position: let the runtime allocate those outputs, then keep the last rows."""
        names = [f"attention.{layer}" for layer in range(self.spec.layers)]
        hidden = [f"hidden.{index}" for index in range(self.spec.layers + 1)]
        for name in names + hidden:
            self._binding.bind_output(name, "cpu")
            self._outputs.setdefault(name)
        self._session.run_with_iobinding(self._binding)
        values = dict(zip(self._outputs, self._binding.get_outputs(), strict=True))
        for layer, name in enumerate(names):
            rows[layer] = values[name].numpy()[0, :, -1, :]
        for index, name in enumerate(hidden):
            self._hidden[index, 0, 0] = values[name].numpy()[0, -1]
            self._output(name, self._hidden[index])
