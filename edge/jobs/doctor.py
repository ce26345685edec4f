"""The check behind `edge doctor`: memory, disk, libraries, and whether llama.cpp gives its taps."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.architectures import ARCHITECTURES, Architecture
from edge.artifact import Artifact, Manifest, record_file
from edge.backends.base import Runtime
from edge.backends.gguf_file import read_spec
from edge.backends.llama_callback import compiled_callback
from edge.backends.llama_header import Header
from edge.backends.llama_library import INSTALL, NEWEST, OLDEST, llama_cpp, version
from edge.backends.llama_vocabulary import Vocabulary
from edge.backends.llamacpp import LlamaBackend
from edge.errors import UserError
from edge.files import DATA
from edge.machine import device, processors
from edge.machine.telemetry import Sample, Sensors
from edge.precision import GGUF_F16
from edge.signals.compiled import compiled_code
from edge.version import __version__

PACKAGES = ("onnxruntime", "llama-cpp-python", "numpy", "tokenizers", "pyarrow")
POSITIONS = 8  # of a probe model's cache


@dataclass(frozen=True)
class LlamaCpp:
    """State of the installed llama.cpp.

    `installed` is the binding's version, "" for none, and `problem` why it cannot be used. `tested` are the
    oldest and newest version that taps are tested with. `taps` says for each architecture why attention and
    hidden states cannot be read, "" where they can. `features` is llama.cpp's text on the processor features
    it was built for. `gpu` says whether it can put layers on a GPU. `callback` says why the slower Python
    callback reads the taps, "" where compiled code reads them.
    """

    installed: str
    problem: str
    tested: tuple[str, str]
    taps: dict[str, str]
    features: str = ""
    gpu: bool = False
    callback: str = ""


@dataclass(frozen=True)
class Findings:
    """Results of the check. Sizes are in bytes, and `now` is a reading of the sensors.

    `versions` has "" for a library that is not installed. `signals` says why the slower numpy code computes
    the signals, "" where compiled code does.
    """

    device: device.Device
    processors: processors.Processors
    now: Sample
    memory_available_bytes: int | None
    disk_free_bytes: int
    versions: dict[str, str]
    llama_cpp: LlamaCpp
    signals: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"now": self.now._asdict()}


def examine(folder: Path) -> Findings:
    """Checks this machine; disk space is that of `folder`."""
    return Findings(
        device=device.describe(),
        processors=processors.examine(processors.Neighbours()),
        now=Sensors().sample(0),
        memory_available_bytes=device.available_memory(),
        disk_free_bytes=shutil.disk_usage(folder).free,
        versions={"edgetrace": __version__, "python": platform.python_version()}
        | {name: installed(name) for name in PACKAGES},
        llama_cpp=examine_llama_cpp(),
        signals=compiled_code().problem,
    )


def installed(name: str) -> str:
    """Version of an installed distribution, "" for none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def examine_llama_cpp() -> LlamaCpp:
    """Runs a tiny model of each architecture through the installed llama.cpp, with its taps."""
    low, high = (".".join(map(str, numbers)) for numbers in (OLDEST, NEWEST))
    try:
        lib = llama_cpp()
    except UserError as error:
        problem = str(error) if installed("llama-cpp-python") else f"not installed: {INSTALL}"
        return LlamaCpp("", problem, (low, high), {})
    return LlamaCpp(
        installed=version(),
        problem="",
        tested=(low, high),
        taps={
            model_type: taps_problem(DATA / f"probe-{model_type}.gguf", row)
            for model_type, row in ARCHITECTURES.items()
        },
        features=lib.llama_print_system_info().decode("utf-8", "replace").strip(),
        gpu=bool(lib.llama_supports_gpu_offload()),
        callback=compiled_callback().problem,
    )


def taps_problem(path: Path, architecture: Architecture) -> str:
    """Why taps of a probe model cannot be read, "" when they can."""
    try:
        with Header(path) as header:
            spec = read_spec(header, architecture, Vocabulary(path))
        files = {path.name: record_file(path)}
        manifest = Manifest(path.stem, path.name, GGUF_F16, "rows", spec, files, "", {})
        artifact = Artifact(path.parent, manifest)
        backend = LlamaBackend(artifact, capacity=POSITIONS, runtime=Runtime(threads=1))
    except UserError as error:
        return str(error)
    try:
        return backend.taps_lost
    finally:
        backend.close()
