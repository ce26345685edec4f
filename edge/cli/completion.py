"""Completions of artifacts, runs and known models for the shell's Tab key.

Where there is none, the shell completes file names.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from edge.artifact import MANIFEST_NAME
from edge.precision import GGUF_SUFFIX
from edge.registry import read_registry
from edge.runs.manifest import RUN_NAME

DEEPEST = 3  # folders below the one that is typed
MOST = 2000  # folders examined, so that Tab answers soon in any folder


def complete_artifacts(incomplete: str) -> list[str]:
    """Artifact folders and GGUF files that begin with what is typed, and known models."""
    return [*candidates(incomplete, MANIFEST_NAME, GGUF_SUFFIX), *complete_models(incomplete)]


def complete_runs(incomplete: str) -> list[str]:
    """Run directories that begin with what is typed."""
    return list(candidates(incomplete, RUN_NAME))


def complete_models(incomplete: str) -> list[str]:
    """Ids of the known models; the shell completes checkpoint folders."""
    return [model_id for model_id in read_registry() if model_id.startswith(incomplete)]


def candidates(incomplete: str, marker: str, suffix: str = "/") -> Iterator[str]:
    """Paths that continue `incomplete`: folders with the file `marker`, files that end with `suffix`."""
    cut = incomplete.rfind("/") + 1
    waiting = deque(
        (incomplete[:cut] + name, 0)
        for name in plain_names(incomplete[:cut])
        if name.startswith(incomplete[cut:])
    )
    for _ in range(MOST):
        if not waiting:
            return
        name, depth = waiting.popleft()
        path = Path(name).expanduser()
        if (path / marker).is_file() or (name.endswith(suffix) and path.is_file()):
            yield name
        elif depth < DEEPEST:
            waiting += ((f"{name}/{below}", depth + 1) for below in plain_names(name))


def plain_names(folder: str) -> list[str]:
    """Names in a folder that need no quotes, without hidden ones; none of a folder that cannot be read."""
    try:
        names = sorted(path.name for path in Path(folder or ".").expanduser().iterdir())
    except (OSError, RuntimeError):  # RuntimeError: a ~user that is not there
        return []
    return [name for name in names if not name.startswith(".") and shlex.quote(name) == name]
