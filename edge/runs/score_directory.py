"""DIR/score.json and DIR/choices/: what `edge score` keeps, resumed and read by the rules of a run
directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from edge.artifact import check_types
from edge.errors import UserError
from edge.runs.job_directory import RUNNING, JobDirectory
from edge.runs.parts import is_damaged, part_name, read_part, write_part
from edge.runs.run_directory import plain

SCHEMA_VERSION = 1
SCORE_NAME = "score.json"
FOLDER = "choices"
SCHEMA = pa.schema(
    [
        ("question_index", pa.int32()),
        ("question_id", pa.string()),
        ("category", pa.string()),
        ("task", pa.string()),
        ("choice", pa.int32()),
        ("true", pa.bool_()),
        ("text", pa.string()),
        ("tokens", pa.int32()),
        ("logprob", pa.float64()),
    ]
)


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
        return {
            name: plain(getattr(self, name))
            for name in ("artifact", "settings", "questions", "schema_version")
        }


def read_score_manifest(folder: Path) -> ScoreManifest:
    """Raises UserError when it is damaged or of another schema."""
    path = folder / SCORE_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {raw['schema_version']}, this Edgetrace reads {SCHEMA_VERSION}"
            )
        return ScoreManifest(**raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): score again into another folder") from error


class ScoreWriter(JobDirectory[ScoreManifest]):
    """Owns a score directory while a job writes into it."""

    RECORD, FOLDERS, ONE, ANOTHER = SCORE_NAME, (FOLDER,), "scores", "other scores (they differ"

    def _read(self) -> ScoreManifest:
        return read_score_manifest(self.folder)

    def _recover(self) -> None:
        for path in self._parts():
            if is_damaged(path):
                path.unlink()
                self.damaged.append(f"{FOLDER}/{path.name}")
            else:
                self.done.update(read_part(path, ["question_index"]).column("question_index").to_pylist())

    def _parts(self) -> list[Path]:
        return sorted((self.folder / FOLDER).glob("part-*.parquet"))

    def write_part(self, rows: pa.Table) -> None:
        """Commits whole questions."""
        indices = rows.column("question_index").to_pylist()
        write_part(self.folder / FOLDER, part_name(str(self.manifest.settings["shard"]), indices), rows)
        self.done.update(indices)

    def rows(self) -> pa.Table:
        """All that is committed: one row for each question, task and choice."""
        return pa.concat_tables([SCHEMA.empty_table(), *(read_part(path) for path in self._parts())])
