"""The score directory of `edge score`: score.json and choices/, resumed and read like a run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from edge.errors import UserError
from edge.fields import Fields, check_schema, list_of, mapping_of, parse_json, text
from edge.machine.device import Device
from edge.runs.job_directory import RUNNING, JobDirectory
from edge.runs.parts import is_damaged, part_name, read_part, write_part
from edge.runs.provenance import ArtifactIdentity, QuestionSet, ScoreSettings
from edge.runs.sessions import Session, session_of, sessions_json

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
        ("note", pa.string()),
    ]
)


@dataclass(frozen=True)
class ScoreManifest:
    """The object in score.json; the fields are those of run.json."""

    artifact: ArtifactIdentity
    settings: ScoreSettings
    questions: QuestionSet
    device: Device = field(default_factory=Device)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    state: str = RUNNING
    sessions: tuple[Session, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def known_sessions(self) -> tuple[Session, ...]:
        """The sessions; the only one where there were no several."""
        return self.sessions or (session_of(self),)

    def decides(self) -> dict[str, Any]:
        """The part that must be equal for one job to continue another."""
        raw = self.to_json()
        return {name: raw[name] for name in ("artifact", "settings", "questions", "schema_version")}

    def to_json(self) -> dict[str, Any]:
        """The object in score.json."""
        raw = asdict(self)
        del raw["sessions"]
        return raw | {
            "artifact": self.artifact.to_json(),
            "settings": self.settings.to_json(),
            "questions": self.questions.to_json(),
            **sessions_json(self.sessions),
        }

    @staticmethod
    def from_json(value: object) -> ScoreManifest:
        """Reads score.json's object; raises ValueError, naming the field, for another kind or schema."""
        with Fields(value) as fields:
            check_schema(fields, SCHEMA_VERSION)
            return ScoreManifest(
                artifact=fields.take("artifact", ArtifactIdentity.from_json),
                settings=fields.take("settings", ScoreSettings.from_json),
                questions=fields.take("questions", QuestionSet.from_json),
                device=fields.get("device", Device.from_json, Device()),
                versions=fields.get("versions", mapping_of(text), {}),
                created=fields.get("created", text, ""),
                state=fields.get("state", text, RUNNING),
                sessions=fields.get("sessions", list_of(Session.from_json), ()),
            )


def read_score_manifest(folder: Path) -> ScoreManifest:
    """Reads a folder's score.json; raises UserError when it is damaged or of another schema."""
    path = folder / SCORE_NAME
    try:
        return ScoreManifest.from_json(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): score again into another folder") from error


class ScoreWriter(JobDirectory[ScoreManifest]):
    """Owns a score directory while a job writes into it."""

    MANIFEST, FOLDERS, CONTENT = SCORE_NAME, (FOLDER,), "scores"

    def _read(self) -> ScoreManifest:
        return read_score_manifest(self.folder)

    def _another(self, differing: Sequence[str]) -> str:
        return f"other scores (they differ in {', '.join(differing)})"

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
        write_part(self.folder / FOLDER, part_name(self.manifest.settings.shard, indices), rows)
        self.done.update(indices)

    def rows(self) -> pa.Table:
        """The committed rows: one for each question, task and choice.

        A question that cannot be scored has null as `logprob` and says why in `note`, which is null in rows
        of 0.2.
        """
        tables = [SCHEMA.empty_table(), *(read_part(path) for path in self._parts())]
        return pa.concat_tables(tables, promote_options="default")
