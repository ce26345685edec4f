"""Weights as this processor's kernels read them, kept in a folder of the artifact and mapped from there.

onnxruntime lays weights out anew each time that it loads a model, in memory of its own. The layout can be
saved once and mapped: less memory, no copy, the same bits. It holds for one version on one kind of
processor. So the folder records both, with checksums of its files; a folder that does not match is removed
and made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.artifact import Artifact
from edge.backends.mapped import trim
from edge.backends.onnx import RUNTIME_VERSION, WEIGHTS_NAME, save_prepacked
from edge.errors import OnNote, UserError
from edge.machine.device import entries
from edge.machine.system import SYSTEM, read_text
from edge.precision import GRAPH_NAME

FOLDER, MADE_NAME, LOCK_NAME = "prepacked", "made.json", ".prepacked.lock"
WORTH = 64 << 20  # bytes of an artifact below which a second copy in memory is of no account
# disk for the folder over the artifact's bytes, at most: 2.4 measured for onnx-int4 (docs/memory.md)
FACTOR = 2.5
SPARE = 2 << 30  # bytes of disk that are left to others
BLOCK = 1 << 20


def find(artifact: Artifact) -> Path | None:
    """The graph to load in place of the artifact's own, None where there is none that fits and is whole."""
    folder = artifact.path / FOLDER
    try:
        record = json.loads((folder / MADE_NAME).read_bytes())
        whole = record["identity"] == identity(artifact) and all(
            checksum(folder / name) == record["checksums"][name] for name in (GRAPH_NAME, WEIGHTS_NAME)
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder / GRAPH_NAME if whole else None


def find_or_make(artifact: Artifact, threads: int, on_note: OnNote) -> Path:
    """The graph to load: laid out before or now, or the artifact's own where it cannot or need not be."""
    plain = artifact.path / GRAPH_NAME
    size = artifact.manifest.size
    if size < WORTH:
        return plain
    if found := find(artifact):
        return found
    folder = artifact.path / FOLDER
    try:
        with locked(artifact.path / LOCK_NAME) as ours:
            if not ours:  # another process is at it
                return plain
            if found := find(artifact):  # another process has just been at it
                return found
            shutil.rmtree(folder, ignore_errors=True)
            if shutil.disk_usage(artifact.path).free < FACTOR * size + SPARE:
                return plain
            make(artifact, folder, threads)
    except (OSError, UserError) as error:
        on_note(f"weights are laid out anew at each start, since {folder} could not be made ({error})")
        return plain
    taken = sum(path.stat().st_size for path in folder.iterdir())
    on_note(
        f"laid the weights out for this processor in {folder}, once "
        f"({taken / 1e9:.1f} GB; --no-prepack does without)"
    )
    return folder / GRAPH_NAME


def make(artifact: Artifact, folder: Path, threads: int) -> None:
    """Lays the weights out in `folder`, whole or not at all. Raises OSError or UserError."""
    temporary = folder.with_name(f".{FOLDER}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        temporary.mkdir()
        save_prepacked(artifact.path / GRAPH_NAME, temporary, threads)
        trim()
        checksums = {name: checksum(temporary / name) for name in (GRAPH_NAME, WEIGHTS_NAME)}
        (temporary / MADE_NAME).write_text(
            json.dumps({"identity": identity(artifact), "checksums": checksums})
        )
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def identity(artifact: Artifact, root: Path = SYSTEM) -> str:
    """SHA-256 (hex) of what decides the layout: the artifact, onnxruntime's version, and the cores."""
    cpuinfo = read_text(root / "proc/cpuinfo") or platform.processor()
    kinds = sorted(
        set(entries(cpuinfo, "vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features"))
    )
    decisive = [artifact.manifest.identity(), RUNTIME_VERSION, platform.machine(), kinds]
    return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()


def checksum(path: Path) -> str:
    """Length and CRC-32: against accidents, at the speed of reading."""
    value = length = 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            value, length = zlib.crc32(block, value), length + len(block)
    return f"{length}:{value:08x}"


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds the lock while the block runs; gives False where another process has it."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
