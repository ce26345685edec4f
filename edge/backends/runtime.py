"""The choice of the backend that runs an artifact, and its loading."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field

from edge.artifact import TOKENIZER_NAME, Artifact
from edge.backends.base import KV_CACHES, Backend, LlamaSettings, Runtime
from edge.backends.llamacpp import LlamaBackend, cache_type
from edge.backends.memory import check_memory
from edge.backends.onnx import FLOAT_BYTES, OnnxBackend, check_graph
from edge.backends.prepacked import find_or_make
from edge.errors import OnNote, UserError
from edge.machine.processors import Neighbours, usable_cores
from edge.precision import LLAMA_CPP
from edge.version import __version__

MOST_THREADS = 4  # for each processor
VERSIONS_OF = ("numpy", "tokenizers", "pyarrow")
LIBRARY = {LLAMA_CPP: "llama-cpp-python"}  # distribution of a backend's library, where it is not named alike


def check_runtime(artifact: Artifact, runtime: Runtime) -> None:
    """Raises UserError for choices, graphs or threads that the artifact's backend does not support."""
    if (runtime.threads or 0) > (most := MOST_THREADS * usable_cores()):
        raise UserError(
            f"--threads is {runtime.threads} and this process may use {usable_cores()} processors: give at "
            f"most {most}"
        )
    if artifact.manifest.backend == LLAMA_CPP:
        if runtime.taps == "rows" and artifact.manifest.taps == "none":
            raise UserError(
                f"{artifact.label} was built with --taps none: build it again without, or run with --taps "
                "none"
            )
        return
    check_graph(artifact)
    default = Runtime()
    for option, given, usual in (
        ("--kv-cache", runtime.kv_cache, default.kv_cache),
        ("--low-memory", runtime.low_memory, default.low_memory),
        ("--gpu-layers", runtime.gpu_layers, default.gpu_layers),
    ):
        if given != usual:
            raise UserError(
                f"{option} is llama.cpp's and {artifact.label} is run by onnxruntime: leave it out"
            )
    if runtime.taps == "none" and artifact.manifest.taps != "none":
        raise UserError(
            f"{artifact.label} has its taps built in: build it with --taps none, or leave --taps out"
        )
    if runtime.taps == "rows" and artifact.manifest.taps == "none":
        raise UserError(f"{artifact.label} was built with --taps none: build it again without")


@dataclass(frozen=True)
class Loader:
    """An artifact and how it is run, checked when it is made and loaded later.

    So a job refuses a wrong choice before it writes anything, and nothing is checked again when it loads.
    Raises UserError as check_runtime does.
    """

    artifact: Artifact
    runtime: Runtime
    # Its first reading comes before the load, so that a busy machine is known by then.
    neighbours: Neighbours = field(default_factory=Neighbours, compare=False)

    def __post_init__(self) -> None:
        check_runtime(self.artifact, self.runtime)

    @property
    def tapped(self) -> bool:
        """Whether attention and hidden states are asked for."""
        return self.runtime.taps != "none" and self.artifact.manifest.taps != "none"

    def load(self, capacity: int, on_note: OnNote) -> Backend:
        """The backend that runs the artifact, with a cache of `capacity` positions (its context at most).

        `on_note` is told what it left on disk. Raises UserError when its library is missing, memory will not
        do, or it cannot load the model.
        """
        artifact, runtime = self.artifact, self.runtime
        if TOKENIZER_NAME in artifact.manifest.files and artifact.manifest.tokenizer_rules is None:
            on_note(
                f"{artifact.label} was built by an Edgetrace that read tokenizer.json alone: build it again "
                "for prompts as transformers makes them"
            )
        if not runtime.anyway:
            check_memory(artifact, cache_bytes_each(artifact, runtime), capacity)
        if artifact.manifest.backend == LLAMA_CPP:
            return LlamaBackend(artifact, capacity=capacity, runtime=runtime, neighbours=self.neighbours)
        graph = (
            find_or_make(artifact, runtime.threads or usable_cores(), on_note) if runtime.prepack else None
        )
        return OnnxBackend(
            artifact, capacity=capacity, threads=runtime.threads, neighbours=self.neighbours, graph=graph
        )


def open_backend(artifact: Artifact, runtime: Runtime, capacity: int, on_note: OnNote) -> Backend:
    """Checks the choice and loads the backend at once, as Loader.load does. Raises UserError as both do."""
    return Loader(artifact, runtime).load(capacity, on_note)


def cache_bytes_each(artifact: Artifact, runtime: Runtime) -> int:
    """Bytes of one cached number."""
    if artifact.manifest.backend == LLAMA_CPP:
        return KV_CACHES[cache_type(artifact, runtime)].bytes
    return FLOAT_BYTES


def llama_settings(artifact: Artifact, runtime: Runtime) -> LlamaSettings | None:
    """The choices that decide a run's rows; None for onnxruntime, where none does."""
    if artifact.manifest.backend != LLAMA_CPP:
        return None
    return LlamaSettings(runtime.taps, cache_type(artifact, runtime), runtime.low_memory)


def versions(artifact: Artifact) -> dict[str, str]:
    """Versions of this project and of what runs the artifact, by name."""
    backend = artifact.manifest.backend
    names = (LIBRARY.get(backend, backend), *VERSIONS_OF)
    return {"edgetrace": __version__} | {name: importlib.metadata.version(name) for name in names}
