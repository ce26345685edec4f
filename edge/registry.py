"""The models known by name: `registry.toml` and embedded checkpoints, in a clone's `models/` or inside an
installed package."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import UserError

PACKAGE = Path(__file__).resolve().parent
# A wheel carries them inside the package (pyproject.toml), a clone keeps them beside it.
MODELS = next(
    (folder for folder in (PACKAGE / "models", PACKAGE.parent / "models") if folder.is_dir()),
    PACKAGE / "models",
)


@dataclass(frozen=True)
class Shape:
    """Facts of a hub model, compared with its config.json after a download. Zero window, local_rope_theta or
    llama3_factor (that of rope type llama3): none."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    context: int
    tied: bool
    norm_eps: float
    rope_theta: float
    local_rope_theta: float = 0.0
    window: int = 0
    llama3_factor: float = 0.0


@dataclass(frozen=True)
class RegistryEntry:
    """One model. `folder` (embedded checkpoint, relative to MODELS) or `hub` (hub id) is set, not both.

    `notice` must stand wherever the model's numbers are shown; `paper_class` is the verdict of arXiv
    2604.03589.
    """

    model_id: str
    model_type: str
    licence: str
    hub: str = ""
    folder: str = ""
    notice: str = ""
    paper_class: str = ""
    stop_ids: tuple[int, ...] = ()
    shape: Shape | None = None

    @property
    def checkpoint(self) -> Path | None:
        """The embedded checkpoint folder, None for a model of the hub."""
        return MODELS / self.folder if self.folder else None


def entry_of(model_id: str, fields: dict[str, Any]) -> RegistryEntry:
    shape = Shape(**fields["shape"]) if "shape" in fields else None
    return RegistryEntry(
        model_id, **(fields | {"stop_ids": tuple(fields.get("stop_ids", ())), "shape": shape})
    )


def read_registry(path: Path = MODELS / "registry.toml") -> dict[str, RegistryEntry]:
    """All entries by id; raises UserError when the file is missing or malformed."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))["models"]
        return {model_id: entry_of(model_id, fields) for model_id, fields in raw.items()}
    except FileNotFoundError:
        raise UserError(f"{path} is missing: install Edgetrace again") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is malformed ({error}): install Edgetrace again") from error
