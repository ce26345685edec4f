"""`edge models`: known models and built artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Group
from rich.text import Text

from edge.artifact import MANIFEST_NAME, Artifact
from edge.cli.common import check_json, console, write_json
from edge.cli.options import JsonFile
from edge.cli.tables import table
from edge.cli.terminal import unmarked
from edge.errors import UserError
from edge.registry import RegistryEntry, read_registry


def models(
    under: Annotated[Path, typer.Option(help="Folder in which to look for artifacts.")] = Path("models"),
    json_file: JsonFile = None,
) -> None:
    """List the known models and the artifacts that are built."""
    check_json(json_file)
    if not under.is_dir() and under != Path("models"):  # the default may not be there yet
        raise UserError(f"there is no folder {under}: give one with --under")
    registry, found = read_registry(), find_artifacts(under)
    if json_file != "-":
        console.print(models_table(registry, found))
    if json_file:
        write_json(
            json_file,
            {
                "known": [asdict(entry) for entry in registry.values()],
                "built": [
                    {
                        "path": str(f.path),
                        "manifest": asdict(f.artifact.manifest) if f.artifact else None,
                        "problem": f.problem,
                    }
                    for f in found
                ],
            },
        )


class Found(NamedTuple):
    """A line of `edge models`: an artifact folder, readable (`artifact`) or not (`problem`)."""

    path: Path
    artifact: Artifact | None
    problem: str


def find_artifacts(root: Path) -> list[Found]:
    """Every folder below `root` with a manifest."""
    found = []
    for path in sorted(root.rglob(MANIFEST_NAME)):
        try:
            found.append(Found(path.parent, Artifact.open(path.parent, verify=False), ""))
        except UserError as error:
            found.append(Found(path.parent, None, str(error)))
    return found


def models_table(registry: dict[str, RegistryEntry], found: Sequence[Found]) -> Group:
    known = table("Known models", "id", "architecture", "licence", "checkpoint")
    for entry in registry.values():
        known.add_row(
            entry.model_id,
            entry.model_type,
            entry.licence,
            "embedded" if entry.folder else f"hub: {entry.hub}",
        )
    built = table("Built artifacts", "folder", "model", "precision", "taps", "MB")
    for folder, artifact, problem in found:
        if artifact is None:
            built.add_row(unmarked(str(folder)), unmarked(problem), "", "", "")
        else:
            manifest = artifact.manifest
            size = manifest.size / 1e6
            built.add_row(
                unmarked(str(folder)),
                unmarked(manifest.model_id),
                manifest.precision,
                manifest.taps,
                f"{size:.1f}",
            )
    return Group(
        known,
        built if found else Text("No artifacts here: build one with 'edge-export build nano-llama ...'"),
    )
