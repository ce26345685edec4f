"""llama.cpp through its low-level API: the same taps as the ONNX backend, from GGUF files."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.artifact import Artifact
from edge.backends.base import KV_CACHES, Runtime, check_room
from edge.backends.llama_graph import TapError, check_layout
from edge.backends.llama_library import NEWEST, OLDEST, captured_log, llama_cpp, supported, version
from edge.backends.llama_taps import TapReader
from edge.backends.mapped import let_go
from edge.errors import UserError
from edge.machine.processors import Neighbours, ThreadCount
from edge.precision import PRECISIONS
from edge.signals.taps import Array, Taps

# prefill in micro-batches of so many tokens: attention buffers that do not grow with the prompt squared
CHUNK = 64
FLASH_OFF, FLASH_ON = 0, 1  # llama_flash_attn_type; fused attention never has its rows in memory
PROBE = 3  # tokens of the pass that checks the taps when a model is opened


def cache_type(artifact: Artifact, runtime: Runtime) -> str:
    """The type of cached numbers: the one chosen, else f32 for weights in float32 and f16 for others."""
    if runtime.kv_cache:
        return runtime.kv_cache
    known = PRECISIONS.get(artifact.manifest.precision)
    return "f32" if known is not None and known.bits == 32 else "f16"


class LlamaBackend:
    """Runs a GGUF file; see `edge.backends.base.Backend`.

    `capacity` bounds the cached positions, whose memory is taken at once. With `runtime.taps` "auto",
    `taps_lost` says why there are none where the installed llama.cpp does not give them; with "rows" that is
    a UserError. `flash_attention` is for measurements without taps: it computes in other roundings, so that
    a run would depend on whether it is tapped. Raises UserError when the file cannot be loaded or is not
    what the manifest says.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        capacity: int | None = None,
        runtime: Runtime | None = None,
        neighbours: Neighbours | None = None,
        flash_attention: bool = False,
    ) -> None:
        runtime = runtime or Runtime()
        self._thread_count = ThreadCount(runtime.threads, neighbours)
        self.spec = spec = artifact.manifest.model
        self.capacity = min(capacity or spec.context, spec.context)
        self.length = 0
        self.cache_bytes_each = KV_CACHES[cache_type(artifact, runtime)].bytes
        self.taps_lost = ""
        self._strict = runtime.taps == "rows"
        self._lib = llama_cpp()
        self._model: Any = None
        self._context: Any = None
        self._batch: Any = None
        self._reader: TapReader | None = None
        self._called: TapReader | None = None
        self._logits_address, self._logits = 0, np.empty(0, np.float32)
        path = artifact.weights
        self._model = load_model(path, runtime)
        try:
            self._check_model(path)
            if artifact.manifest.taps != "none" and runtime.taps != "none":
                self._reader = self._open_taps()
            self._open_context(path, artifact, runtime, flash_attention)
            if self._reader:
                self._check_taps()
            let_go(path)
        except BaseException:
            self.close()
            raise

    def _check_model(self, path: Path) -> None:
        lib, spec = self._lib, self.spec
        vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        shape = (lib.llama_model_n_layer(self._model), lib.llama_model_n_embd(self._model), vocabulary)
        if shape != (spec.layers, spec.hidden, spec.vocabulary):
            raise UserError(
                f"{path} has layers, width and vocabulary {shape} where its manifest says "
                f"{(spec.layers, spec.hidden, spec.vocabulary)}: build the artifact again"
            )

    def _open_taps(self) -> TapReader | None:
        try:
            if not supported(version()):
                low, high = (".".join(map(str, numbers)) for numbers in (OLDEST, NEWEST))
                raise TapError(
                    f"llama-cpp-python {version()} is not among the versions tested ({low} to {high})"
                )
            check_layout(self._lib)
            return TapReader(self._lib, self.spec, self.capacity)
        except TapError as error:
            self._lose(error)
            return None

    def _open_context(self, path: Path, artifact: Artifact, runtime: Runtime, flash_attention: bool) -> None:
        lib, params = self._lib, self._lib.llama_context_default_params()
        params.n_ctx = self.capacity
        params.n_batch = params.n_ubatch = min(CHUNK, self.capacity)
        params.n_outputs_max = 1  # logits of one position at a time: no buffer of n_batch x vocabulary
        self._threads = params.n_threads = params.n_threads_batch = self._thread_count.now()
        params.type_k = params.type_v = KV_CACHES[cache_type(artifact, runtime)].ggml_type
        params.swa_full = True  # a window layer keeps every position, so that column = position
        params.no_perf = True
        params.flash_attn_type = FLASH_ON if flash_attention and self._reader is None else FLASH_OFF
        if self._reader is not None:
            params.cb_eval, params.cb_eval_user_data = self._reader.callback, self._reader.user_data
            self._called = self._reader  # kept although the taps may be lost: llama.cpp calls it
        with captured_log() as log:
            self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise UserError(
                f"llama.cpp cannot run {path} ({log.first()}): free memory, or take a shorter context or "
                "fewer bits"
            )
        self._memory = lib.llama_get_memory(self._context)
        self._batch = lib.llama_batch_init(params.n_batch, 0, 1)
        for i in range(params.n_batch):
            self._batch.n_seq_id[i] = 1
            self._batch.seq_id[i][0] = 0
            self._batch.logits[i] = 0
        self._chunk = int(params.n_batch)

    # The interface

    def prefill(self, ids: Sequence[int]) -> Taps:
        check_room(self, ids)
        last = (len(ids) - 1) // self._chunk * self._chunk
        for start in range(0, last, self._chunk):
            self._decode(ids[start : start + self._chunk], output=False)
        return self._forward(ids[last:])

    def step(self, token_id: int) -> Taps:
        check_room(self, (token_id,))
        return self._forward((token_id,))

    def rewind(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot rewind to {length} of {self.length} positions")
        if length < self.length and not self._lib.llama_memory_seq_rm(self._memory, 0, length, -1):
            raise RuntimeError(f"llama.cpp cannot forget positions from {length} on")
        self.length = length

    def close(self) -> None:
        lib = self._lib
        if self._batch is not None:
            lib.llama_batch_free(self._batch)
        if self._context:
            lib.llama_free(self._context)
        if self._model:
            lib.llama_model_free(self._model)
        self._batch = self._context = self._model = self._reader = None

    # Passes

    def _forward(self, ids: Sequence[int]) -> Taps:
        """One pass of at most a chunk, with taps where there are any."""
        start = self.length
        if self._reader is not None:
            try:
                rows, hidden = self._tapped(ids)
                return Taps(self.length - 1, self._last_logits(), rows, hidden)
            except TapError as error:
                self._lose(error)
                # Whether the failed pass was whole does not matter any more: it is made again without a
                # callback.
                self.rewind(start)
        self._decode(ids, output=True)
        return Taps(self.length - 1, self._last_logits(), None, None)

    def _tapped(self, ids: Sequence[int]) -> tuple[Array, Array]:
        """Decodes and gives the rows [L, H, K] and residual streams [L+1, D]."""
        reader, start = self._reader, self.length
        assert reader is not None
        while True:
            reader.begin(len(ids))
            try:
                self._decode(ids, output=True)
                return reader.finish(self.length)
            except TapError:
                if reader.learned:
                    raise
                self.rewind(start)  # the graph was built anew at other addresses: look at the names again
            finally:
                reader.stop()

    def _decode(self, ids: Sequence[int], *, output: bool) -> None:
        """Appends ids to the cache; with `output`, logits of the last one."""
        if (threads := self._thread_count.now()) != self._threads:
            self._lib.llama_set_n_threads(self._context, threads, threads)
            self._threads = threads
        batch, new, start = self._batch, len(ids), self.length
        batch.n_tokens = new
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = start + i
        batch.logits[new - 1] = output
        status = self._lib.llama_decode(self._context, batch)
        batch.logits[new - 1] = 0
        if status:
            raise RuntimeError(f"llama_decode gave {status} at position {start} of {self.capacity}")
        self.length = start + new

    def _last_logits(self) -> Array:
        """[V], a view of llama.cpp's own buffer."""
        pointer = self._lib.llama_get_logits_ith(self._context, -1)
        if not pointer:
            raise RuntimeError("llama.cpp gave no logits")
        address = ctypes.addressof(pointer.contents)
        if address != self._logits_address:
            self._logits = np.ctypeslib.as_array(pointer, (self.spec.vocabulary,))
            self._logits_address = address
        return self._logits

    # Taps that do not come

    def _lose(self, error: TapError) -> None:
        """Goes on with logits alone, or not, as `runtime.taps` says."""
        self._reader = None
        if self._strict:
            raise UserError(
                f"{error}: run with --taps none for logits alone, or install a tested llama-cpp-python "
                "('edge doctor' says which)"
            ) from error
        self.taps_lost = str(error)

    def _check_taps(self) -> None:
        """Loses the taps unless those of a short prompt and a step are right.

        They must be sensible. They must equal those with every node read by itself, both when the nodes are
        learned and when they are known.
        """
        ids = [i % self.spec.vocabulary for i in range(1, min(PROBE, self.capacity) + 1)]
        try:
            apart, learning, known = (self._probe(ids, every) for every in (True, False, False))
            if not all(
                np.array_equal(a, b) and np.array_equal(a, c)
                for a, b, c in zip(apart, learning, known, strict=True)
            ):
                raise TapError(
                    "llama.cpp's graph does not keep a layer's input until its attention is computed"
                )
        except TapError as error:
            self._lose(error)
        self.rewind(0)

    def _probe(self, ids: list[int], every: bool) -> list[Array]:
        """Rows and residual streams of two passes: over all ids but the last, if any, and over the last."""
        reader = self._reader
        assert reader is not None
        reader.every = every
        self.rewind(0)
        arrays = []
        for part in (ids[:-1], ids[-1:]):
            if part:
                rows, hidden = self._tapped(part)
                check_values(rows, hidden, self.length)
                arrays += [rows.copy(), hidden.copy()]
        return arrays


def check_values(rows: Array, hidden: Array, keys: int) -> None:
    """Raises TapError unless rows [L, H, keys] sum to one and hidden [L+1, D] is finite and was written."""
    sums = rows.sum(axis=-1)
    if rows.shape[-1] != keys or not (rows >= 0.0).all() or not (np.abs(sums - 1.0) < 1e-3).all():
        raise TapError("llama.cpp's attention rows do not sum to one over the positions")
    if not np.isfinite(hidden).all() or not hidden[-1].any():
        raise TapError("llama.cpp's residual streams are not finite or are zero")


def load_model(path: Path, runtime: Runtime) -> Any:
    """A llama_model; raises UserError with llama.cpp's own message when it refuses the file."""
    lib = llama_cpp()
    params = lib.llama_model_default_params()
    params.n_gpu_layers = runtime.gpu_layers
    # A second copy of the weights, laid out for the processor.
    params.use_extra_bufts = not runtime.low_memory
    with captured_log() as log:
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise UserError(
            f"llama.cpp {version()} cannot load {path} ({log.first()}): download it or build it again"
        )
    return model
