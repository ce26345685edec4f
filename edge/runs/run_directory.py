"""The run directory: how traces are written, resumed and read.

Promise: a part file is whole or absent; the answers part commits its questions, so killing the process at
any moment loses at most the questions that were in flight, and running the same command again finishes the
rest. What was damaged afterwards is found by its checksum and traced again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from edge.artifact import ModelSpec, check_types
from edge.errors import UserError
from edge.runs.job_directory import FINISHED, RUNNING, JobDirectory
from edge.runs.parts import is_damaged, part_name, part_stem, read_part, write_part, write_table

SCHEMA_VERSION = 1
RUN_NAME = "run.json"
DEVICE_NAME = "device.parquet"
# What readers take for granted beside the fields themselves.
NEEDED = {
    "artifact": ("model_id", "precision", "taps", "tokenizer_sha256"),
    "settings": ("shard", "prompt", "reference_k", "temperature"),
    "questions": ("sha256", "count", "selected"),
}


@dataclass(frozen=True)
class RunManifest:
    """What `run.json` holds.

    `kind` is `run` or `force`. `artifact` names model, precision, taps and checksums; `settings` everything
    that decides the rows; `questions` the content hash and number; `like` the reference run of a forced one.
    `device`, `versions` and `created` describe and do not decide: a run may be resumed after they changed.
    `taps_lost` says why attention and hidden states are missing in some of its rows although they were asked
    for, "" where none are. `merged` has for each shard that `edge merge` put together its device, versions
    and origin.
    """

    kind: str
    artifact: Mapping[str, Any]
    model: ModelSpec
    settings: Mapping[str, Any]
    questions: Mapping[str, Any]
    like: Mapping[str, Any] | None
    device: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    state: str = RUNNING
    taps_lost: str = ""
    merged: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_types(self)

    @property
    def model_id(self) -> str:
        return str(self.artifact["model_id"])

    @property
    def precision(self) -> str:
        return str(self.artifact["precision"])

    @property
    def checkpoint(self) -> str:
        """Digest of the checkpoint, "" where it is not known (a GGUF file on its own)."""
        return str(self.artifact.get("checkpoint_sha256", ""))

    @property
    def label(self) -> str:
        return f"{self.model_id} {self.precision}" + (" forced" if self.kind == "force" else "")

    @property
    def notice(self) -> str:
        return str(self.artifact.get("notice", ""))

    def same_checkpoint(self, other: RunManifest) -> bool:
        """Whether both are known to come from one checkpoint."""
        return self.checkpoint != "" and self.checkpoint == other.checkpoint

    def decides(self) -> dict[str, Any]:
        """The part that must be equal for one run to continue another."""
        kept = ("kind", "artifact", "model", "settings", "questions", "like", "schema_version")
        return {name: plain(getattr(self, name)) for name in kept}


def plain(value: Any) -> Any:
    """The value as JSON gives it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value))


def read_manifest(folder: Path) -> RunManifest:
    """run.json of a folder; raises UserError when it is missing, damaged or of another schema."""
    path = folder / RUN_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version is {raw['schema_version']}, this Edgetrace reads {SCHEMA_VERSION}"
            )
        made = RunManifest(**(raw | {"model": ModelSpec.from_json(raw["model"])}))
        for name, keys in NEEDED.items():
            if missing := [key for key in keys if key not in getattr(made, name)]:
                raise KeyError(f"{name} lacks {', '.join(missing)}")
        return made
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no run directory (it has no {RUN_NAME}): make one with 'edge run'"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be read ({error}): trace again into another folder") from error


# Writing


class RunWriter(JobDirectory[RunManifest]):
    """Owns a run directory while a job writes into it."""

    RECORD, FOLDERS, ONE, ANOTHER = RUN_NAME, ("steps", "answers"), "run", "another run (it differs"

    def _read(self) -> RunManifest:
        return read_manifest(self.folder)

    def _recover(self) -> None:
        """Removes what an interrupted run left half-done and what is damaged; learns which questions are
        committed.

        A part counts when both its halves are there and whole: so deleting either makes its questions run
        again.
        """
        halves: list[dict[str, Path]] = []
        for kind in ("steps", "answers"):
            found: dict[str, Path] = {}
            for path in sorted((self.folder / kind).glob("part-*.parquet")):
                stem = part_stem(path.name) or path.name
                if is_damaged(path):
                    path.unlink()
                    self.damaged.append(f"{kind}/{path.name}")
                elif stem in found:
                    raise UserError(
                        f"{self.folder} holds {stem} more than once: keep the parts of one set of shards"
                    )
                else:
                    found[stem] = path
            halves.append(found)
        steps, answers = halves
        for stem in steps.keys() ^ answers.keys():
            (steps.get(stem) or answers[stem]).unlink()
        for stem in sorted(steps.keys() & answers.keys()):
            self.done.update(
                read_part(answers[stem], ["question_index"]).column("question_index").to_pylist()
            )

    def write_part(self, steps: pa.Table, answers: pa.Table) -> None:
        """Commits whole questions: steps first, answers last."""
        indices = answers.column("question_index").to_pylist()
        stem = part_name(str(self.manifest.settings["shard"]), indices)
        write_part(self.folder / "steps", stem, steps)
        write_part(self.folder / "answers", stem, answers)
        self.done.update(indices)

    def write_device(self, table: pa.Table) -> None:
        """Appends telemetry rows; the file is replaced as a whole. One that cannot be read is begun anew: it
        decides nothing."""
        path = self.folder / DEVICE_NAME
        if path.exists():
            try:
                table = pa.concat_tables([read_part(path), table], promote_options="default")
            except (UserError, pa.ArrowInvalid):
                self.damaged.append(path.name)
        write_table(path, table)

    def complete(self, indices: Iterable[int]) -> bool:
        """Whether the run is finished and holds these questions; one that has lost a part is marked as
        unfinished again."""
        if self.manifest.state == FINISHED and not self.done.issuperset(indices):
            self._write_manifest(state=RUNNING)
        return self.manifest.state == FINISHED

    def note_lost_taps(self, reason: str) -> None:
        """Says in run.json that rows without attention and hidden states follow, and why."""
        self._write_manifest(taps_lost=reason)


# Reading


@dataclass(frozen=True)
class Run:
    """A run directory opened for reading; tables are read when asked for, sorted by question and step."""

    folder: Path
    manifest: RunManifest

    @staticmethod
    def open(folder: str | Path, *, unfinished: bool = False) -> Run:
        """Raises UserError when the folder holds no run, no answers, or (unless allowed) an unfinished
        run."""
        run = Run(Path(folder), read_manifest(Path(folder)))
        if run.manifest.state != FINISHED and not unfinished:
            raise UserError(
                f"{folder} is unfinished: run the same 'edge {run.manifest.kind}' command again to finish it"
            )
        if not run.parts():
            raise UserError(f"{folder} holds no answers: trace it again")
        return run

    def parts(self) -> list[str]:
        """Stems of committed parts' names, in question order within each shard."""
        return sorted(
            stem
            for path in (self.folder / "answers").glob("part-*.parquet")
            if (stem := part_stem(path.name))
        )

    def answers(self, columns: list[str] | None = None) -> pa.Table:
        """One row for each question, by question_index."""
        table = self._read("answers", columns).sort_by("question_index")
        if "question_index" in table.column_names:
            indices = table.column("question_index").to_numpy()
            twice = indices[1:][indices[1:] == indices[:-1]]
            if twice.size:
                raise UserError(
                    f"{self.folder} holds question {twice[0]} more than once: keep the parts of one set of "
                    f"shards"
                )
        return table

    def steps(self, columns: list[str] | None = None) -> pa.Table:
        """One row for each token, by question_index and step (both must be among `columns`)."""
        return self._read("steps", columns).sort_by([("question_index", "ascending"), ("step", "ascending")])

    def _read(self, kind: str, columns: list[str] | None) -> pa.Table:
        return pa.concat_tables([self._part(kind, name, columns) for name in self.parts()])

    def each_question(self, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """question_index and its steps (none for an answer without rows), part by part, so that a long run
        is never in memory as a whole."""
        wanted = list(dict.fromkeys(["question_index", *columns]))
        for name in self.parts():
            table = self._part("steps", name, wanted)
            indices = table.column("question_index").to_numpy()
            for index in (
                self._part("answers", name, ["question_index"]).column("question_index").to_pylist()
            ):
                rows = np.flatnonzero(indices == index)  # a question's rows stand together, in order of step
                yield index, table.slice(rows[0] if rows.size else 0, rows.size)

    def file(self, kind: str, name: str) -> Path:
        """The file of a part of `steps` or `answers`; raises UserError when there is not just one."""
        found = [path for path in (self.folder / kind).glob(f"{name}.*") if part_stem(path.name) == name]
        if len(found) != 1:
            what = "missing" if not found else "there more than once"
            raise UserError(
                f"{self.folder / kind / name} is {what}: run the same command again to make its questions "
                f"anew"
            )
        return found[0]

    def _part(self, kind: str, name: str, columns: list[str] | None) -> pa.Table:
        path = self.file(kind, name)
        table = read_part(path, columns)
        if missing := [name for name in columns or () if name not in table.column_names]:
            raise UserError(
                f"{path} lacks the column {' and '.join(missing)}: trace the run again into another folder"
            )
        return table
