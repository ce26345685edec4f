"""The run directory: traces are written, resumed and read.

Promise: a part file is whole or absent, and the answers part commits its questions. A process killed at any
moment loses at most the questions in flight, and the same command finishes the rest. A part that was damaged
later is detected by its checksum and traced again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from edge.errors import UserError
from edge.runs.columns import answers_schema, steps_schema
from edge.runs.job_directory import FINISHED, RUNNING, JobDirectory
from edge.runs.manifest import RUN_NAME, RunManifest, read_manifest
from edge.runs.parts import (
    is_damaged,
    part_name,
    part_stem,
    read_part,
    shared_columns,
    write_part,
    write_table,
)
from edge.runs.sessions import Session, settled
from edge.version import __version__

DEVICE_NAME = "device.parquet"
TABLES = ("steps", "answers")  # folders of parts

# Writing


class RunWriter(JobDirectory[RunManifest]):
    """Owns a run directory while a job writes into it.

    A run that another version began goes on with the columns that its parts have.
    """

    MANIFEST, FOLDERS, CONTENT = RUN_NAME, TABLES, "run"

    def _read(self) -> RunManifest:
        return read_manifest(self.folder)

    def _another(self, differing: Sequence[str]) -> str:
        return f"another run (it differs in {', '.join(differing)})"

    def _recover(self) -> None:
        """Removes damaged parts and those of one table only; finds the committed questions and columns.

        A part counts when both tables have it whole: deleting either file makes its questions run again.
        """
        steps, answers = (self._whole_parts(table) for table in TABLES)
        for stem in steps.keys() ^ answers.keys():
            (steps.get(stem) or answers[stem]).unlink()
        committed = sorted(steps.keys() & answers.keys())
        for stem in committed:
            indices = read_part(answers[stem], ["question_index"]).column("question_index")
            self.done.update(indices.to_pylist())
        self._columns = {
            table: shared_columns(paths[stem] for stem in committed)
            for table, paths in zip(TABLES, (steps, answers), strict=True)
        }

    def _whole_parts(self, table: str) -> dict[str, Path]:
        """Maps stems to the parts of a table; removes damaged parts."""
        paths: dict[str, Path] = {}
        for path in sorted((self.folder / table).glob("part-*.parquet")):
            stem = part_stem(path.name) or path.name
            if is_damaged(path):
                path.unlink()
                self.damaged.append(f"{table}/{path.name}")
            elif stem in paths:
                raise UserError(
                    f"{self.folder} holds {stem} more than once: keep the parts of one set of shards"
                )
            else:
                paths[stem] = path
        return paths

    def write_part(self, steps: pa.Table, answers: pa.Table) -> None:
        """Commits whole questions: steps first, answers last, in the columns that earlier parts have."""
        indices = answers.column("question_index").to_pylist()
        stem = part_name(self.manifest.settings.shard, indices)
        for table, rows in zip(TABLES, (steps, answers), strict=True):
            write_part(self.folder / table, stem, rows.select(self._columns[table] or rows.column_names))
        self.done.update(indices)

    def write_device(self, table: pa.Table) -> None:
        """Appends telemetry rows; the file is replaced as a whole.

        A file that cannot be read is begun anew, since it decides no row.
        """
        path = self.folder / DEVICE_NAME
        if path.exists():
            try:
                table = pa.concat_tables([read_part(path), table], promote_options="default")
            except (UserError, pa.ArrowInvalid):
                self.damaged.append(path.name)
        write_table(path, table)

    def complete(self, indices: Iterable[int]) -> bool:
        """Whether the run is finished and holds these questions.

        A run that has lost a part is marked as unfinished again. Raises UserError for an unfinished run with
        columns that this version lacks.
        """
        if self.manifest.state == FINISHED and self.done.issuperset(indices):
            return True
        self._check_columns()
        if self.manifest.state == FINISHED:
            self._write_manifest(state=RUNNING)
        return False

    @property
    def tokens_alone(self) -> bool:
        """Whether 0.2 began the run: its `steps.token` holds each token by itself, and it goes on so."""
        columns = self._columns["answers"]
        return bool(columns) and "note" not in columns

    def _check_columns(self) -> None:
        """Raises UserError where the run's parts have columns that this version does not write."""
        manifest = self.manifest
        forced = manifest.kind == "force"
        reference = not forced and manifest.settings.reference_k > 0
        steps = steps_schema(reference=reference, forced=forced, exact=manifest.exact)
        answers = answers_schema(forced=forced, exact=manifest.exact)
        known = {*steps.names, *answers.names}
        unknown = [name for names in self._columns.values() for name in names if name not in known]
        if unknown:
            began = manifest.versions.get("edgetrace", "another version")
            raise UserError(
                f"{self.folder} has the column {' and '.join(unknown)}, which Edgetrace {__version__} does "
                f"not write: finish it with Edgetrace {began}, or give another --out"
            )

    def note_lost_taps(self, reason: str) -> None:
        """Notes in run.json why the rows that follow lack attention and hidden states."""
        self._write_manifest(taps_lost=reason)


# Reading


@dataclass(frozen=True)
class Run:
    """A run directory opened for reading; tables are read when asked for, sorted by question and step."""

    folder: Path
    manifest: RunManifest

    @staticmethod
    def open(folder: str | Path, *, unfinished: bool = False) -> Run:
        """Opens a folder.

        Raises UserError when it holds no run, no answers, or (unless allowed) an unfinished run.
        """
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
                    f"{self.folder} holds question {twice[0]} more than once: "
                    "keep the parts of one set of shards"
                )
        return table

    def sessions(self) -> tuple[Session, ...]:
        """Which machine and versions answered which questions; one session for most runs."""
        done = self.answers(["question_index"]).column("question_index").to_pylist()
        return settled(self.manifest.known_sessions, done)

    def steps(self, columns: list[str] | None = None) -> pa.Table:
        """One row for each token, by question_index and step (both must be among `columns`)."""
        return self._read("steps", columns).sort_by([("question_index", "ascending"), ("step", "ascending")])

    def columns(self, table: str) -> list[str]:
        """Columns of `steps` or `answers` that all parts have; parts of several versions may differ."""
        return shared_columns(self.file(table, name) for name in self.parts())

    def _read(self, table: str, columns: list[str] | None) -> pa.Table:
        wanted = self.columns(table) if columns is None else list(dict.fromkeys(columns))
        return pa.concat_tables([self._part(table, name, wanted) for name in self.parts()])

    def each_question(self, columns: list[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yields each question_index with its steps (none for an answer without rows).

        It reads part by part, so that a long run is never in memory as a whole.
        """
        wanted = list(dict.fromkeys(["question_index", *columns]))
        for name in self.parts():
            table = self._part("steps", name, wanted)
            indices = table.column("question_index").to_numpy()
            answered = self._part("answers", name, ["question_index"]).column("question_index")
            for index in answered.to_pylist():
                rows = np.flatnonzero(indices == index)  # a question's rows stand together, in order of step
                yield index, table.slice(rows[0] if rows.size else 0, rows.size)

    def file(self, table: str, name: str) -> Path:
        """The file of a part of `steps` or `answers`; raises UserError when there is not just one."""
        paths = [path for path in (self.folder / table).glob(f"{name}.*") if part_stem(path.name) == name]
        if len(paths) != 1:
            problem = "there more than once" if paths else "missing"
            raise UserError(
                f"{self.folder / table / name} is {problem}: "
                "run the same command again to make its questions anew"
            )
        return paths[0]

    def _part(self, table: str, name: str, columns: list[str]) -> pa.Table:
        path = self.file(table, name)
        rows = read_part(path, columns)
        if missing := [name for name in columns if name not in rows.column_names]:
            raise UserError(
                f"{path} lacks the column {' and '.join(missing)}: trace the run again into another folder"
            )
        return rows.select(columns)
