"""The registry: models known by name, from `registry.toml` and the embedded checkpoints."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import UserError

PACKAGE = Path(__file__).resolve().parent
# A wheel has the models inside the package (pyproject.toml), a clone beside it.
_FOLDERS = (PACKAGE / "models", PACKAGE.parent / "models")
MODELS = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])


@dataclass(frozen=True)
class Shape:
    """Facts of a hub model, compared with its config.json after a download.

    `llama3_factor` is the factor of rope type llama3. A `window`, `local_rope_theta` or `llama3_factor` of 0
    means none.
    """

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
    """One model, either with a `folder` (embedded checkpoint, relative to MODELS) or a `hub` id.

    `notice` must stand wherever the model's numbers are shown. `paper_class` is the verdict of arXiv
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
    """The entry of one table in registry.toml."""
    shape = Shape(**fields["shape"]) if "shape" in fields else None
    stop_ids = tuple(fields.get("stop_ids", ()))
    return RegistryEntry(model_id, **(fields | {"stop_ids": stop_ids, "shape": shape}))


def read_registry(path: Path = MODELS / "registry.toml") -> dict[str, RegistryEntry]:
    """Reads all entries by id; raises UserError when the file is missing or malformed."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))["models"]
        return {model_id: entry_of(model_id, fields) for model_id, fields in raw.items()}
    except FileNotFoundError:
        raise UserError(f"{path} is missing: install Edgetrace again") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is malformed ({error}): install Edgetrace again") from error
