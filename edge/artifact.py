"""An artifact: one model in one precision, ready to run, with a manifest that describes it.

`manifest.json` holds everything that `edge` needs to know about a model. It never reads a checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge.errors import UserError
from edge.fields import (
    FieldError,
    Fields,
    anything,
    check_schema,
    integer,
    list_of,
    mapping_of,
    optional,
    parse_json,
    text,
)
from edge.files import file_sha256
from edge.precision import GGUF_SUFFIX, LLAMA_CPP, backend_of
from edge.tokenizer_rules import TokenizerRules

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
TOKENIZER_NAME = "tokenizer.json"
TEMPLATE_NAME = "chat_template.jinja"
TAPS = ("none", "rows", "raw")
LARGEST_SIZE = 2**31 - 1  # of a shape: llama.cpp and onnxruntime count positions and rows in 32 bits


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
        widths = (self.hidden, self.heads, self.kv_heads, self.head_dim)
        if min(self.layers, *widths, self.vocabulary, self.context) < 1:
            raise ValueError("the model's sizes do not make a model")
        if max(self.layers, *widths, self.vocabulary, self.context) > LARGEST_SIZE:
            raise ValueError("the model's sizes are larger than any model's")
        if len(self.windows) != self.layers or min(self.windows) < 0:
            raise ValueError("the model's windows are not one for each layer")

    @staticmethod
    def from_json(value: object) -> ModelSpec:
        """Reads the object of `dataclasses.asdict`; raises ValueError when it describes no model."""
        with Fields(value) as fields:
            return ModelSpec(
                architecture=fields.take("architecture", text),
                layers=fields.take("layers", integer),
                hidden=fields.take("hidden", integer),
                heads=fields.take("heads", integer),
                kv_heads=fields.take("kv_heads", integer),
                head_dim=fields.take("head_dim", integer),
                vocabulary=fields.take("vocabulary", integer),
                context=fields.take("context", integer),
                windows=fields.take("windows", list_of(integer)),
                stop_ids=fields.take("stop_ids", list_of(integer)),
            )

    def visible_keys(self, position: int) -> tuple[int, ...]:
        """K of each layer [L]: the number of keys that the query at `position` (0-based) can see."""
        return tuple(min(position + 1, window) if window else position + 1 for window in self.windows)

    def kv_bytes(self, cached_positions: int, bytes_each: int = 4) -> int:
        """Bytes of cached keys and values: 2 x layers x kv_heads x head_dim x bytes x positions."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_each * cached_positions


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of one file of an artifact."""

    size: int
    sha256: str

    @staticmethod
    def from_json(value: object) -> FileRecord:
        """Reads a file's record; raises FieldError when the value is none."""
        with Fields(value) as fields:
            return FileRecord(fields.take("size", integer), fields.take("sha256", text))


@dataclass(frozen=True)
class Manifest:
    """The object in `manifest.json`.

    `tensor_types` counts weights by storage type. `special_tokens` are strings that a chat template may
    use. `notice` is a sentence that must stand wherever the model's numbers are shown (nano models have
    one). `revision` is the hub's commit, "" for a local folder. `verification` is the verdict of
    `edge-export verify` with its numbers, tolerances and versions, empty before there is one; only
    `edge-export` reads its entries. `tokenizer` says how a GGUF file holds the tokenizer (`model`, `pre`,
    and the `reason` where it holds none). It is empty for an ONNX graph, which holds none. `tokenizer_rules`
    says how the checkpoint's tokenizer files were read; None where tokenizer.json was copied as it was
    (before 0.3.0) or there is no checkpoint. `source_types` counts the tensors of a GGUF file that it was
    built from, by storage type; what such a file quantised stays so in every precision. It is empty for a
    checkpoint.
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
    verification: Mapping[str, object] = field(default_factory=dict)
    tokenizer: Mapping[str, str] = field(default_factory=dict)
    tokenizer_rules: TokenizerRules | None = None
    source_types: Mapping[str, int] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.taps not in TAPS:
            raise FieldError(f"is {self.taps!r}: one of {', '.join(TAPS)} is known", "taps")

    @property
    def backend(self) -> str:
        """The library that runs it, ONNX or LLAMA_CPP."""
        return backend_of(self.precision)

    @property
    def built(self) -> bool:
        """Whether edge-export made it of a checkpoint; False for a GGUF file on its own."""
        return bool(self.checkpoint_sha256) or self.backend != LLAMA_CPP

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(record.size for record in self.files.values())

    @property
    def tokenizer_sha256(self) -> str:
        """Tells whether two artifacts read and write the same tokens."""
        record = self.files.get(TOKENIZER_NAME)
        return record.sha256 if record else self.tokenizer["sha256"]

    def template_tokens(self) -> dict[str, str | list[str]]:
        """What a chat template gets beside the messages: special tokens by role."""
        more = self.tokenizer_rules.additional_special_tokens if self.tokenizer_rules else ()
        return {**self.special_tokens, **({"additional_special_tokens": list(more)} if more else {})}

    def to_json(self) -> str:
        raw = dataclasses.asdict(self)
        if self.tokenizer_rules is None:
            del raw["tokenizer_rules"]  # the identity of what was written before stays
        if not self.source_types:
            del raw["source_types"]
        return json.dumps(raw, indent=2, sort_keys=True) + "\n"

    def identity(self) -> str:
        """SHA-256 (hex) of all but the verdict: verifying an artifact does not change its identity."""
        raw = json.loads(self.to_json())
        del raw["verification"]
        return hashlib.sha256((json.dumps(raw, indent=2, sort_keys=True) + "\n").encode()).hexdigest()

    @staticmethod
    def from_json(content: str) -> Manifest:
        """Reads manifest.json; raises ValueError when it is not a manifest of this schema."""
        with Fields(parse_json(content)) as fields:
            check_schema(fields, SCHEMA_VERSION)
            return Manifest(
                model_id=fields.take("model_id", text),
                source=fields.take("source", text),
                precision=fields.take("precision", text),
                taps=fields.take("taps", text),
                model=fields.take("model", ModelSpec.from_json),
                files=fields.take("files", mapping_of(FileRecord.from_json)),
                checkpoint_sha256=fields.take("checkpoint_sha256", text),
                tensor_types=fields.take("tensor_types", mapping_of(integer)),
                quantization=fields.get("quantization", mapping_of(integer), {}),
                special_tokens=fields.get("special_tokens", mapping_of(text), {}),
                versions=fields.get("versions", mapping_of(text), {}),
                notice=fields.get("notice", text, ""),
                revision=fields.get("revision", text, ""),
                verification=fields.get("verification", mapping_of(anything), {}),
                tokenizer=fields.get("tokenizer", mapping_of(text), {}),
                tokenizer_rules=fields.get("tokenizer_rules", optional(TokenizerRules.from_json), None),
                source_types=fields.get("source_types", mapping_of(integer), {}),
            )


@dataclass(frozen=True)
class Artifact:
    """An opened artifact folder, or a GGUF file on its own (`edge.backends.gguf_file`).

    `chat_template` is the one inside a GGUF file, "" for a folder.
    """

    path: Path
    manifest: Manifest
    chat_template: str = ""

    @staticmethod
    def open(path: str | Path, *, verify: bool = True) -> Artifact:
        """Opens a folder and checks that every file is present, whole and unchanged.

        Raises UserError, naming the file and the remedy, when a file is missing, cut or altered.
        `verify=False` checks sizes only, for listings.
        """
        folder = Path(path)
        location = folder / MANIFEST_NAME
        if not folder.is_dir():
            raise UserError(
                f"no artifact at {folder}: build one with 'edge-export build SOURCE --to onnx-int4 --out "
                "DIR', or give the name of a known model ('edge models')"
            )
        if not location.is_file():
            raise UserError(
                f"{folder} has no {MANIFEST_NAME}, so it is not a finished artifact: "
                "pass a folder such as DIR/onnx-int4 that 'edge-export build' made"
            )
        try:
            manifest = Manifest.from_json(location.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{location} cannot be read ({error}): build the artifact again") from error
        if TOKENIZER_NAME not in manifest.files:
            raise UserError(f"{location} lists no {TOKENIZER_NAME}: build the artifact again")
        for name, record in manifest.files.items():
            if Path(name).name != name:  # a manifest is untrusted: it may not point outside its folder
                raise UserError(
                    f"{location} names the file {name!r}, which is not a plain name: "
                    "build the artifact again"
                )
            check_file(folder / name, record, verify)
        return Artifact(folder, manifest)

    @property
    def label(self) -> str:
        """Model and precision, as users read them."""
        return f"{self.manifest.model_id} {self.manifest.precision}"

    @property
    def weights(self) -> Path:
        """The GGUF file of an artifact that llama.cpp runs; raises UserError when it names none."""
        names = [name for name in self.manifest.files if name.endswith(GGUF_SUFFIX)]
        if len(names) != 1:
            raise UserError(
                f"{self.path / MANIFEST_NAME} names {len(names)} GGUF files instead of one: "
                "build the artifact again"
            )
        return self.path / names[0]


def check_file(path: Path, record: FileRecord, verify: bool) -> None:
    """Raises UserError when the file is not the one recorded."""
    if not path.is_file():
        raise UserError(f"{path} is missing: build the artifact again")
    size = path.stat().st_size
    if size != record.size:
        raise UserError(
            f"{path} has {size} bytes instead of {record.size}, it is cut or altered: "
            "build the artifact again"
        )
    if verify and file_sha256(path) != record.sha256:
        raise UserError(f"{path} does not match its checksum in {MANIFEST_NAME}: build the artifact again")


def record_file(path: Path) -> FileRecord:
    """Size and SHA-256 of a file."""
    return FileRecord(path.stat().st_size, file_sha256(path))
