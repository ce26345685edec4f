"""DIR/score.json and DIR/choices/: what `edge score` keeps, resumed and read by the rules of a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from edge.artifact import check_types
from edge.errors import UserError
from edge.parts import (
    LOCK_NAME,
    claim,
    is_damaged,
    missing_folders,
    or_nothing,
    part_name,
    read_part,
    remove_temporary,
    write_part,
    write_record,
)
from edge.trace import FINISHED, RUNNING, differences, plain

SCHEMA_VERSION = 1
SCORE_NAME = "score.json"
FOLDER = "choices"
SCHEMA = pa.schema([
    ("question_index", pa.int32()), ("question_id", pa.string()), ("category", pa.string()), ("task", pa.string()),
    ("choice", pa.int32()), ("true", pa.bool_()), ("text", pa.string()), ("tokens", pa.int32()), ("logprob", pa.float64()),
])  # fmt: skip


@dataclass(frozen=True)
class ScoreManifest:
    """What score.json holds; fields are those of run.json."""

    artifact: Mapping[str, Any]
    settings: Mapping[str, Any]
    questions: Mapping[str, Any]
    device: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    state: str = RUNNING
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_types(self)

    def decides(self) -> dict[str, Any]:
        """The part that must be equal for one job to continue another."""
        return {name: plain(getattr(self, name)) for name in ("artifact", "settings", "questions", "schema_version")}


def read_score_manifest(folder: Path) -> ScoreManifest | None:
    """None where the folder has none; raises UserError when it is damaged or of another schema."""
    path = folder / SCORE_NAME
    if not path.exists():
        return None
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {raw['schema_version']}, this Edgetrace reads {SCHEMA_VERSION}")
        return ScoreManifest(**raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): score again into another folder") from error


class ScoreWriter:
    """Owns a score directory while a job writes into it. A context manager: it holds the directory's lock.

    Raises UserError when the folder cannot be written, is in use, or holds anything but the same job.
    """

    def __init__(self, folder: Path, manifest: ScoreManifest) -> None:
        self.folder, self.done, self.damaged = folder, set[int](), list[str]()
        self._existing(manifest)  # refuses before anything is written
        self._made = missing_folders(folder / FOLDER)
        try:
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror}): give another --out") from error
        self._lock = claim(folder)
        try:
            self._open(manifest)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, manifest: ScoreManifest) -> None:
        existing = self._existing(manifest)  # again: another process may have come and gone before the lock was ours
        self._fresh = existing is None
        self.manifest = existing or manifest
        if existing is None:
            self._write_manifest()
        remove_temporary(self.folder)
        for path in self._parts():
            if is_damaged(path):
                path.unlink()
                self.damaged.append(f"{FOLDER}/{path.name}")
            else:
                self.done.update(read_part(path, ["question_index"]).column("question_index").to_pylist())

    def _existing(self, manifest: ScoreManifest) -> ScoreManifest | None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: give a folder with --out")
        existing = read_score_manifest(self.folder)
        if existing is None:
            foreign = {p.name for p in self.folder.glob("*")} - {LOCK_NAME, FOLDER, f".{SCORE_NAME}.tmp"}
            if foreign or self._parts():
                raise UserError(f"{self.folder} is not empty and holds no scores: give an empty or new folder with --out")
        elif differing := differences(existing.decides(), manifest.decides()):
            raise UserError(f"{self.folder} holds other scores (they differ in {', '.join(differing)}): give another --out")
        return existing

    def or_nothing(self) -> contextlib.AbstractContextManager[None]:
        """A scope for what must work before the first score: where it fails, a job just begun leaves nothing behind."""
        if not self._fresh:
            return contextlib.nullcontext()
        return or_nothing([self.folder / SCORE_NAME, self.folder / LOCK_NAME], self._made)

    def _parts(self) -> list[Path]:
        return sorted((self.folder / FOLDER).glob("part-*.parquet"))

    def _write_manifest(self) -> None:
        write_record(self.folder / SCORE_NAME, self.manifest)

    def write_part(self, rows: pa.Table) -> None:
        """Commits whole questions."""
        indices = rows.column("question_index").to_pylist()
        write_part(self.folder / FOLDER, part_name(str(self.manifest.settings["shard"]), indices), rows)
        self.done.update(indices)

    def rows(self) -> pa.Table:
        """All that is committed: one row for each question, task and choice."""
        return pa.concat_tables([SCHEMA.empty_table(), *(read_part(path) for path in self._parts())])

    def finish(self) -> None:
        self.manifest = dataclasses.replace(self.manifest, state=FINISHED)
        self._write_manifest()

    def __enter__(self) -> ScoreWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()
