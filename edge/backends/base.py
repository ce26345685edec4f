"""The interface of a backend, and the choices and sizes that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from edge.artifact import ModelSpec
from edge.errors import UserError
from edge.signals.taps import Taps

TAPS_WANTED = ("auto", "rows", "none")
# ONNX Runtime reads a prompt in chunks of so many positions. The bits stay the same, and the buffers of
# attention do not grow with the prompt squared.
CHUNK = 128
# Bytes of attention that a prompt's last chunk leaves, two positions at least. Each layer leaves its own, so
# this chunk is the shorter the longer the prompt is. In all other chunks the layers share one buffer.
LAST_BYTES = 32 << 20


class CacheType(NamedTuple):
    """A type of cached numbers: llama.cpp's number for it (ggml_type) and its bytes."""

    ggml_type: int
    bytes: int


KV_CACHES = {"f16": CacheType(1, 2), "f32": CacheType(0, 4)}


@dataclass(frozen=True)
class Runtime:
    """The choices of how a model is run. Raises UserError for an unknown word.

    `threads` None: all processors this process may use.
    `taps`: "rows" needs attention and hidden states, else it is an error. "auto" goes on with logits alone
    where there are none. "none" never reads them.
    `prepack`, for onnxruntime: weights are laid out for this processor once and kept beside the artifact.
    `anyway`: starts although memory or disk may be too small.

    For llama.cpp alone: `kv_cache` is the type of cached numbers (None: f32 for weights in float32, else
    f16). `low_memory` makes no second copy of the weights, laid out for the processor. `gpu_layers` is
    the number of layers on a GPU.
    """

    threads: int | None = None
    taps: str = "auto"
    kv_cache: str | None = None
    low_memory: bool = False
    gpu_layers: int = 0
    prepack: bool = True
    anyway: bool = False

    def __post_init__(self) -> None:
        if self.taps not in TAPS_WANTED:
            raise UserError(f"--taps is {self.taps!r}: choose from {', '.join(TAPS_WANTED)}")
        if self.kv_cache is not None and self.kv_cache not in KV_CACHES:
            raise UserError(f"--kv-cache is {self.kv_cache!r}: choose from {', '.join(KV_CACHES)}")
        if self.gpu_layers < 0:
            raise UserError(f"--gpu-layers is {self.gpu_layers}: a number from 0 is needed")


@dataclass(frozen=True)
class LlamaSettings:
    """The choices of a Runtime that decide llama.cpp's rows; `kv_cache` is the type that was used."""

    taps: str
    kv_cache: str
    low_memory: bool

    def applied_to(self, runtime: Runtime) -> Runtime:
        """The runtime with these choices instead of its own."""
        return replace(runtime, taps=self.taps, kv_cache=self.kv_cache, low_memory=self.low_memory)


class Backend(Protocol):
    """A model with a KV cache of `capacity` positions, of which the first `length` are filled.

    `cache_bytes_each` is the size of one cached number. `taps_lost` is the reason why attention and hidden
    states will be missing although they were wanted, "" where they are not missing.
    """

    spec: ModelSpec
    capacity: int
    length: int
    cache_bytes_each: int
    taps_lost: str

    def prefill(self, ids: Sequence[int]) -> Taps:
        """Appends the ids to the cache; taps of the last one. Raises ValueError for none or too many."""

    def step(self, token_id: int) -> Taps:
        """Appends one id to the cache and returns its taps."""

    def rewind(self, length: int) -> None:
        """Forgets all but the first `length` positions."""

    def close(self) -> None:
        """Frees the model."""


def check_room(backend: Backend, ids: Sequence[int]) -> None:
    """Raises ValueError when there is nothing to append to a backend's cache, or no room for it."""
    if not ids:
        raise ValueError("prefill needs at least one token")
    if backend.length == backend.capacity:
        raise ValueError(f"the cache is full at {backend.capacity} positions")
    if backend.length + len(ids) > backend.capacity:
        raise ValueError(f"{backend.length + len(ids)} positions do not fit in {backend.capacity}")
