"""`edge models`: known models and built artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Group
from rich.text import Text

from edge.artifact import MANIFEST_NAME, Artifact
from edge.cli.common import check_json, console, write_json
from edge.cli.options import JsonFile
from edge.cli.tables import table
from edge.cli.terminal import unmarked
from edge.errors import UserError
from edge.registry import RegistryEntry, kept_models, read_registry

DEFAULT = Path("models")


def models(
    under: Annotated[
        Path,
        typer.Option(
            help="Folder in which to look for artifacts; by default also what a model's name has built."
        ),
    ] = DEFAULT,
    json_file: JsonFile = None,
) -> None:
    """The command `edge models`; its help is in edge/cli/app.py."""
    check_json(json_file)
    if not under.is_dir() and under != DEFAULT:  # the default may not be there yet
        raise UserError(f"there is no folder {under}: give one with --under")
    registry, listings = read_registry(), find_artifacts(under)
    if under == DEFAULT:
        listings += kept_artifacts()
    if json_file != "-":
        console.print(models_table(registry, listings))
    if json_file:
        write_json(
            json_file,
            {
                "known": [asdict(entry) for entry in registry.values()],
                "built": [as_json(listing) for listing in listings],
            },
        )


class Listing(NamedTuple):
    """An artifact folder that can be read (`artifact`) or cannot (`problem`)."""

    path: Path
    artifact: Artifact | None
    problem: str


def as_json(listing: Listing) -> dict[str, Any]:
    """Plain values; the manifest is None where it cannot be read."""
    manifest = asdict(listing.artifact.manifest) if listing.artifact else None
    return {"path": str(listing.path), "manifest": manifest, "problem": listing.problem}


def find_artifacts(root: Path) -> list[Listing]:
    """All folders below `root` with a manifest, in the order of their paths."""
    listings = []
    for path in sorted(root.rglob(MANIFEST_NAME)):
        try:
            listings.append(Listing(path.parent, Artifact.open(path.parent, verify=False), ""))
        except UserError as error:
            listings.append(Listing(path.parent, None, str(error)))
    return listings


def kept_artifacts() -> list[Listing]:
    """What was built by a model's name, in the user's own folder."""
    try:
        return find_artifacts(kept_models())
    except UserError:  # no home folder: nothing is kept
        return []


def models_table(registry: dict[str, RegistryEntry], listings: Sequence[Listing]) -> Group:
    """A table of the known models and one of the built artifacts."""
    known = table("Known models", "id", "architecture", "licence", "source")
    known.columns[-1].justify = "left"
    for entry in registry.values():
        known.add_row(
            entry.model_id,
            entry.model_type,
            entry.licence,
            entry.source,
        )
    built = table("Built artifacts", "folder", "model", "precision", "taps", "MB")
    for folder, artifact, problem in listings:
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
    nothing = Text("No artifacts here: build one with 'edge-export build nano-llama ...'")
    return Group(known, built if listings else nothing)
