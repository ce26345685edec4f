"""A recipe for onnx-int4-mixed: the groups of matrices in 8 bits that `edge-export mix` chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from edge.artifact import Manifest
from edge.errors import UserError
from edge.precision import MIXED


class Recipe(NamedTuple):
    """Groups in 8 bits, with model id and SHA-256 of their checkpoint ("" where the file does not say)."""

    wide: tuple[str, ...]
    model_id: str = ""
    checkpoint_sha256: str = ""


def read_recipe(path: Path) -> Recipe:
    """Reads a search's log or any JSON object with `wide`; raises UserError when it holds none."""
    try:
        log = json.loads(path.read_text(encoding="utf-8"))
        wide = log["wide"]
        if not isinstance(wide, list) or not wide or not all(isinstance(name, str) for name in wide):
            raise ValueError("'wide' is no list of groups")
        return Recipe(tuple(wide), str(log.get("model_id", "")), str(log.get("checkpoint_sha256", "")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no recipe ({error}): make one with 'edge-export mix'") from error


def foreign(recipe: Recipe, manifest: Manifest) -> bool:
    """Whether an artifact was built by a recipe that was found for another checkpoint."""
    return manifest.precision == MIXED and recipe.checkpoint_sha256 not in ("", manifest.checkpoint_sha256)
