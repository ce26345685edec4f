"""Provenance of a job's rows: its artifact, its settings, its questions, and the run it followed.

These are parts of run.json (`manifest.RunManifest`) and score.json (`score_directory.ScoreManifest`). Each
class reads itself from JSON. It raises FieldError, naming the field, for one that is missing, of another
kind or not known: nothing that decides the rows is ignored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edge.artifact import Artifact
from edge.backends.base import LlamaSettings
from edge.fields import Fields, flag, integer, number, optional, text


@dataclass(frozen=True, kw_only=True)
class ArtifactIdentity:
    """The artifact of a job: enough to tell whether two jobs used the same weights and tokenizer.

    `manifest_sha256` is the artifact's identity(), `bytes` the size of its files together, None where it is
    not known. `checkpoint_sha256` is "" for a GGUF file on its own, whose checkpoint is not known.
    """

    model_id: str
    precision: str
    taps: str
    manifest_sha256: str = ""
    checkpoint_sha256: str = ""
    tokenizer_sha256: str
    bytes: int | None = None
    notice: str = ""

    @staticmethod
    def of(artifact: Artifact) -> ArtifactIdentity:
        manifest = artifact.manifest
        return ArtifactIdentity(
            model_id=manifest.model_id,
            precision=manifest.precision,
            taps=manifest.taps,
            manifest_sha256=manifest.identity(),
            checkpoint_sha256=manifest.checkpoint_sha256,
            tokenizer_sha256=manifest.tokenizer_sha256,
            bytes=manifest.size,
            notice=manifest.notice,
        )

    @property
    def tapped(self) -> bool:
        """Whether the artifact gives attention and hidden states."""
        return self.taps != "none"

    def to_json(self) -> dict[str, Any]:
        return known(asdict(self))

    @staticmethod
    def from_json(value: object) -> ArtifactIdentity:
        with Fields(value) as fields:
            return ArtifactIdentity(
                model_id=fields.take("model_id", text),
                precision=fields.take("precision", text),
                taps=fields.take("taps", text),
                manifest_sha256=fields.get("manifest_sha256", text, ""),
                checkpoint_sha256=fields.get("checkpoint_sha256", text, ""),
                tokenizer_sha256=fields.take("tokenizer_sha256", text),
                bytes=fields.get("bytes", integer, None),
                notice=fields.get("notice", text, ""),
            )


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run. A forced run has those of the run it followed, and its own `llama`.

    `reference_k` is the number of most likely tokens that were kept of each step, `prompt` the style of
    the prompt, `date` the day that templates see (ISO). `limit` is how many questions from the first on,
    None for all, `shard` I/N of them. `llama` is None where onnxruntime ran the model. `control_tokens`
    says whether control tokens in questions were parsed, None where no question has any, or 0.2 asked, which
    parsed them. `max_new_tokens`, `seed` and `date` are None where run.json lacks them.
    """

    max_new_tokens: int | None = None
    temperature: float
    seed: int | None = None
    reference_k: int
    prompt: str
    date: str | None = None
    limit: int | None = None
    shard: str
    control_tokens: bool | None = None
    llama: LlamaSettings | None = None

    def to_json(self) -> dict[str, Any]:
        return settings_json(self)

    @staticmethod
    def from_json(value: object) -> RunSettings:
        with Fields(value) as fields:
            return RunSettings(
                max_new_tokens=fields.get("max_new_tokens", integer, None),
                temperature=fields.take("temperature", number),
                seed=fields.get("seed", integer, None),
                reference_k=fields.take("reference_k", integer),
                prompt=fields.take("prompt", text),
                date=fields.get("date", text, None),
                limit=fields.get("limit", optional(integer), None),
                shard=fields.take("shard", text),
                control_tokens=fields.get("control_tokens", flag, None),
                llama=take_llama(fields),
            )


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Settings of scores; the fields are those of RunSettings."""

    limit: int | None
    shard: str
    prompt: str
    control_tokens: bool | None = None
    llama: LlamaSettings | None = None

    def to_json(self) -> dict[str, Any]:
        return settings_json(self)

    @staticmethod
    def from_json(value: object) -> ScoreSettings:
        with Fields(value) as fields:
            return ScoreSettings(
                limit=fields.take("limit", optional(integer)),
                shard=fields.take("shard", text),
                prompt=fields.take("prompt", text),
                control_tokens=fields.get("control_tokens", flag, None),
                llama=take_llama(fields),
            )


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a run: SHA-256 (hex) and length of the whole list, and how many of it were asked.

    Shards and limited runs of one file have the same `sha256` and `count`.
    """

    sha256: str
    count: int
    selected: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> QuestionSet:
        with Fields(value) as fields:
            return QuestionSet(
                fields.take("sha256", text), fields.take("count", integer), fields.take("selected", integer)
            )


@dataclass(frozen=True)
class FollowedRun:
    """The free run whose tokens a forced one followed: SHA-256 (hex) of its run.json, and its artifact.

    `exact` says that its model was stepped beside the forced one. It is not in run.json where it is False.
    """

    run_sha256: str
    artifact: ArtifactIdentity
    exact: bool = False

    def to_json(self) -> dict[str, Any]:
        raw = {"run_sha256": self.run_sha256, "artifact": self.artifact.to_json()}
        return raw | ({"exact": True} if self.exact else {})

    @staticmethod
    def from_json(value: object) -> FollowedRun:
        with Fields(value) as fields:
            return FollowedRun(
                fields.take("run_sha256", text),
                fields.take("artifact", ArtifactIdentity.from_json),
                fields.get("exact", flag, False),
            )


def settings_json(settings: RunSettings | ScoreSettings) -> dict[str, Any]:
    """JSON of settings: llama.cpp's are beside the others, and `limit` is there also where it is null."""
    raw = asdict(settings)
    llama = raw.pop("llama") or {}
    return known(raw) | {"limit": settings.limit} | llama


def take_llama(fields: Fields) -> LlamaSettings | None:
    """Takes llama.cpp's settings, which stand among the others: all of them or none."""
    if not any(name in fields for name in ("taps", "kv_cache", "low_memory")):
        return None
    return LlamaSettings(
        fields.take("taps", text), fields.take("kv_cache", text), fields.take("low_memory", flag)
    )


def known(raw: dict[str, Any]) -> dict[str, Any]:
    """The fields that are not None."""
    return {name: value for name, value in raw.items() if value is not None}
