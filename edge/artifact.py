"""An artifact: one model in one precision, ready to run, with a manifest that says what it is.

Everything the runner needs to know of a model stands in `manifest.json`, so `edge` never looks at a
checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.errors import UserError
from edge.files import file_sha256
from edge.precision import GGUF_SUFFIX, backend_of

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
TEMPLATE_NAME = "chat_template.jinja"
TAPS = ("none", "rows", "raw")


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_mapping(value: object, kind: type) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(k, str) and isinstance(v, kind) for k, v in value.items()
    )


# What a field of a record that is read from JSON must hold, by its annotation.
HOLDS: dict[str, Callable[[object], bool]] = {
    "int": is_integer,
    "str": lambda value: isinstance(value, str),
    "tuple[int, ...]": lambda value: isinstance(value, tuple) and all(is_integer(item) for item in value),
    "Mapping[str, int]": lambda value: is_mapping(value, int),
    "Mapping[str, str]": lambda value: is_mapping(value, str),
    "Mapping[str, Any]": lambda value: is_mapping(value, object),
    "Mapping[str, Any] | None": lambda value: value is None or is_mapping(value, object),
}


def check_types(record: Any) -> None:
    """Raises TypeError, naming the field, when a dataclass read from a file holds something else than it
    says."""
    for each in dataclasses.fields(record):
        holds = HOLDS.get(str(each.type))
        value = getattr(record, each.name)
        if holds is not None and not holds(value):
            raise TypeError(f"{each.name} is {value!r:.80}, which is no {each.type}")


@dataclass(frozen=True)
class ModelSpec:
    """Shape of a decoder: L layers, D hidden width, H query heads, V vocabulary.

    `windows` has one entry for each layer: the number of keys a query can see, 0 for all of them.
    `context` is the largest number of positions the artifact was built for (its rope tables end there).
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    windows: tuple[int, ...]
    stop_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        check_types(self)
        sizes = (
            self.layers,
            self.hidden,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.vocabulary,
            self.context,
        )
        if min(sizes) < 1 or len(self.windows) != self.layers or min(self.windows) < 0:
            raise ValueError("the model's sizes do not make a model")

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> ModelSpec:
        """From the object that `dataclasses.asdict` gave; raises KeyError, TypeError or ValueError when it
        is none."""
        return ModelSpec(**{**raw, "windows": tuple(raw["windows"]), "stop_ids": tuple(raw["stop_ids"])})

    def visible_keys(self, position: int) -> tuple[int, ...]:
        """K of each layer: keys the query at `position` (0-based) can see."""
        return tuple(min(position + 1, window) if window else position + 1 for window in self.windows)

    def kv_bytes(self, cached_positions: int, bytes_each: int = 4) -> int:
        """Bytes of cached keys and values: 2 x layers x kv_heads x head_dim x bytes x positions
        (METRICS)."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_each * cached_positions


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of one file of an artifact."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds.

    `tensor_types` counts weights by storage type; `special_tokens` are the strings a chat template may ask
    for; `notice` is a sentence that must stand wherever the model's numbers are shown (nano models have
    one); `revision` is the hub's commit, "" for a local folder; `verification` is the verdict of
    `edge-export verify` with its numbers, tolerances and versions, empty before there is one. `tokenizer`
    says how a GGUF file holds the tokenizer (`model`, `pre`, and the `reason` where it holds none), empty
    for an ONNX graph, which holds none.
    """

    model_id: str
    source: str
    precision: str
    taps: str
    model: ModelSpec
    files: Mapping[str, FileRecord]
    checkpoint_sha256: str
    tensor_types: Mapping[str, int]
    quantization: Mapping[str, int] = field(default_factory=dict)
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notice: str = ""
    revision: str = ""
    verification: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_types(self)
        if self.taps not in TAPS:
            raise ValueError(f"taps is {self.taps!r}")

    @property
    def backend(self) -> str:
        """The library that runs it, ONNX or LLAMA_CPP."""
        return backend_of(self.precision)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(record.size for record in self.files.values())

    @property
    def tokenizer_sha256(self) -> str:
        """Tells whether two artifacts read and write the same tokens."""
        record = self.files.get(TOKENIZER_NAME)
        return record.sha256 if record else self.tokenizer["sha256"]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    def identity(self) -> str:
        """SHA-256 (hex) of all but the verdict: verifying an artifact does not make it another one."""
        raw = json.loads(self.to_json())
        del raw["verification"]
        return hashlib.sha256((json.dumps(raw, indent=2, sort_keys=True) + "\n").encode()).hexdigest()

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Raises ValueError, KeyError or TypeError when the text is not a manifest of this schema."""
        raw: dict[str, Any] = json.loads(text)
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {raw['schema_version']}, this Edgetrace reads {SCHEMA_VERSION}"
            )
        model = ModelSpec.from_json(raw.pop("model"))
        files = {name: FileRecord(**record) for name, record in raw.pop("files").items()}
        return Manifest(model=model, files=files, **raw)


@dataclass(frozen=True)
class Artifact:
    """An opened artifact folder, or a GGUF file on its own (`edge.backends.gguf_file`), which has its chat
    template inside."""

    path: Path
    manifest: Manifest
    chat_template: str = ""

    @staticmethod
    def open(path: str | Path, *, verify: bool = True) -> Artifact:
        """Reads the manifest and checks that every file is there, whole and unchanged.

        Raises UserError, naming the file and the mend, when something is missing, cut or altered.
        `verify=False` checks sizes only, for listings.
        """
        folder = Path(path)
        location = folder / MANIFEST_NAME
        if not folder.is_dir():
            raise UserError(
                f"no artifact at {folder}: build one with 'edge-export build SOURCE --to onnx-int4 --out "
                f"DIR'"
            )
        if not location.is_file():
            raise UserError(
                f"{folder} has no {MANIFEST_NAME}, so it is not a finished artifact: "
                "pass a folder such as DIR/onnx-int4 that 'edge-export build' made"
            )
        try:
            manifest = Manifest.from_json(location.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{location} cannot be read ({error}): build the artifact again") from error
        if TOKENIZER_NAME not in manifest.files:
            raise UserError(f"{location} lists no {TOKENIZER_NAME}: build the artifact again")
        for name, record in manifest.files.items():
            if Path(name).name != name:  # a manifest is untrusted: it may not point outside its folder
                raise UserError(
                    f"{location} names the file {name!r}, which is not a plain name: build the artifact "
                    f"again"
                )
            check_file(folder / name, record, verify)
        return Artifact(folder, manifest)

    @property
    def label(self) -> str:
        return f"{self.manifest.model_id} {self.manifest.precision}"

    @property
    def weights(self) -> Path:
        """The GGUF file of an artifact that llama.cpp runs; raises UserError when it names none."""
        names = [name for name in self.manifest.files if name.endswith(GGUF_SUFFIX)]
        if len(names) != 1:
            raise UserError(
                f"{self.path / MANIFEST_NAME} names {len(names)} GGUF files instead of one: build the "
                f"artifact again"
            )
        return self.path / names[0]


def check_file(path: Path, record: FileRecord, verify: bool) -> None:
    """Raises UserError when the file is not the one recorded."""
    if not path.is_file():
        raise UserError(f"{path} is missing: build the artifact again")
    size = path.stat().st_size
    if size != record.size:
        raise UserError(
            f"{path} has {size} bytes instead of {record.size}, it is cut or altered: build the artifact "
            f"again"
        )
    if verify and file_sha256(path) != record.sha256:
        raise UserError(f"{path} does not match its checksum in {MANIFEST_NAME}: build the artifact again")


def record_file(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, file_sha256(path))
