"""run.json as a typed object: RunManifest, whose parts that decide the rows are in `provenance`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edge.artifact import ModelSpec
from edge.errors import UserError
from edge.fields import Fields, check_schema, list_of, mapping_of, optional, parse_json, text
from edge.machine.device import Device
from edge.runs.job_directory import RUNNING
from edge.runs.provenance import ArtifactIdentity, FollowedRun, QuestionSet, RunSettings
from edge.runs.sessions import Session, session_of, sessions_json, shard_indices, together

SCHEMA_VERSION = 1
RUN_NAME = "run.json"
DECIDING = ("kind", "artifact", "model", "settings", "questions", "like", "schema_version")


@dataclass(frozen=True)
class MergedShard:
    """One of the runs in a merged run: its device, versions, date (ISO), and SHA-256 (hex) of run.json."""

    device: Device
    versions: Mapping[str, str]
    created: str
    run_sha256: str

    @staticmethod
    def from_json(value: object) -> MergedShard:
        with Fields(value) as fields:
            return MergedShard(
                device=fields.take("device", Device.from_json),
                versions=fields.take("versions", mapping_of(text)),
                created=fields.take("created", text),
                run_sha256=fields.take("run_sha256", text),
            )


@dataclass(frozen=True)
class RunManifest:
    """The object in run.json.

    `kind` is run or force, the command that makes it. `like` is the run that a forced one followed, None for
    a free one. `device`, `versions` and `created` (ISO) do not decide the rows: a run may be resumed after
    they changed. `taps_lost` says why some rows lack attention and hidden states, "" where none do. `merged`
    has the shards of a merged run by I/N and is empty for other runs. A merged run's `device` and `versions`
    hold what its shards have in common. `sessions` says which machine and versions answered which questions
    where there were several, and is empty where one machine did all. `device` and `versions` are then those
    of the first.

    Fields that decide the rows are compared when a run is continued. An unknown field is therefore refused
    by its name. A run of version 0.1 lacks `merged`, `taps_lost` and a part of `device`, which have
    defaults.
    """

    kind: str
    artifact: ArtifactIdentity
    model: ModelSpec
    settings: RunSettings
    questions: QuestionSet
    like: FollowedRun | None
    device: Device = field(default_factory=Device)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    state: str = RUNNING
    taps_lost: str = ""
    merged: Mapping[str, MergedShard] = field(default_factory=dict)
    sessions: tuple[Session, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def model_id(self) -> str:
        return self.artifact.model_id

    @property
    def precision(self) -> str:
        return self.artifact.precision

    @property
    def label(self) -> str:
        return f"{self.model_id} {self.precision}" + (" forced" if self.kind == "force" else "")

    @property
    def notice(self) -> str:
        return self.artifact.notice

    @property
    def exact(self) -> bool:
        """Whether the full model was stepped beside this one."""
        return self.like is not None and self.like.exact

    @property
    def known_sessions(self) -> tuple[Session, ...]:
        """The sessions; the only one where there were no several. Shards that version 0.2 merged are one
        session each."""
        if self.sessions or not self.merged:
            return self.sessions or (session_of(self),)
        return together(
            replace(session_of(shard), questions=shard_indices(name, self.questions.count))
            for name, shard in self.merged.items()
        )

    def same_checkpoint(self, other: RunManifest) -> bool:
        """Whether both are known to come from one checkpoint."""
        digest = self.artifact.checkpoint_sha256
        return digest != "" and digest == other.artifact.checkpoint_sha256

    def decides(self) -> dict[str, Any]:
        """The part that must be equal for one run to continue another."""
        raw = self.to_json()
        return {name: raw[name] for name in DECIDING}

    def to_json(self) -> dict[str, Any]:
        """The object in run.json. A merged run has the entries of `device` that its shards share."""
        device = self.device.to_json()
        devices = [shard.device.to_json() for shard in self.merged.values()]
        raw = asdict(self)
        del raw["sessions"]
        return raw | {
            "artifact": self.artifact.to_json(),
            "settings": self.settings.to_json(),
            "questions": self.questions.to_json(),
            "like": self.like.to_json() if self.like else None,
            "device": {
                name: value
                for name, value in device.items()
                if all(shard[name] == value for shard in devices)
            },
            **sessions_json(self.sessions),
        }

    @staticmethod
    def from_json(value: object) -> RunManifest:
        """Reads the object in run.json; raises ValueError, naming the field, for another kind or schema."""
        with Fields(value) as fields:
            check_schema(fields, SCHEMA_VERSION)
            return RunManifest(
                kind=fields.take("kind", text),
                artifact=fields.take("artifact", ArtifactIdentity.from_json),
                model=fields.take("model", ModelSpec.from_json),
                settings=fields.take("settings", RunSettings.from_json),
                questions=fields.take("questions", QuestionSet.from_json),
                like=fields.take("like", optional(FollowedRun.from_json)),
                device=fields.get("device", Device.from_json, Device()),
                versions=fields.get("versions", mapping_of(text), {}),
                created=fields.get("created", text, ""),
                state=fields.get("state", text, RUNNING),
                sessions=fields.get("sessions", list_of(Session.from_json), ()),
                taps_lost=fields.get("taps_lost", text, ""),
                merged=fields.get("merged", mapping_of(MergedShard.from_json), {}),
            )


def read_manifest(folder: Path) -> RunManifest:
    """Reads a folder's run.json; raises UserError when it is missing, damaged or of another schema."""
    path = folder / RUN_NAME
    try:
        return RunManifest.from_json(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no run directory (it has no {RUN_NAME}): make one with 'edge run'"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): trace again into another folder") from error
