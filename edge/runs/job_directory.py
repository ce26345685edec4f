"""A folder that one job owns while it writes parts into it: begun, continued by the same job alone, and
finished.

Promise: two processes never write into it at once, what another job wrote is never touched, and a job that
cannot begin leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from edge.errors import UserError
from edge.files import LOCK_NAME, claim, remove_temporary, write_record

RUNNING, FINISHED = "running", "finished"


class Record(Protocol):
    """A frozen dataclass that says what the job is; `state` is RUNNING or FINISHED."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def state(self) -> str: ...

    def decides(self) -> dict[str, Any]:
        """The part that must be equal for one job to continue another."""

    def to_json(self) -> dict[str, Any]:
        """The object that the folder's record holds."""


R = TypeVar("R", bound=Record)


class JobDirectory(ABC, Generic[R]):
    """A context manager: it holds the directory's lock.

    Raises UserError when the folder cannot be written, is in use, or holds anything but the same job. `done`
    are the questions that are committed, `damaged` the files that were found damaged and removed, so that
    their questions run again.
    """

    RECORD: ClassVar[str]  # the file that holds the record
    FOLDERS: ClassVar[tuple[str, ...]]  # of parts
    CONTENT: ClassVar[str]  # what is written, as a user calls it: "run"

    def __init__(self, folder: Path, manifest: R) -> None:
        self.folder = folder
        self.done: set[int] = set()
        self.damaged: list[str] = []
        self._existing(manifest)  # refuses before anything is written
        parts = [folder / name for name in self.FOLDERS]
        self._new_folders = missing_folders(*parts)
        try:
            for path in parts:
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror}): give another --out") from error
        self._lock = claim(folder)
        try:
            # Again: another process may have come and gone before the lock was ours.
            existing = self._existing(manifest)
            self._fresh = existing is None
            self.manifest = existing or manifest
            if existing is None:
                self._write_manifest()
            remove_temporary(folder)
            self._recover()
        except BaseException:
            self._lock.close()
            raise

    @abstractmethod
    def _read(self) -> R:
        """The record that is there; raises UserError when it is damaged or of another schema."""

    @abstractmethod
    def _another(self, differing: Sequence[str]) -> str:
        """Says that the folder holds another job's work and in which fields of decides() it differs."""

    @abstractmethod
    def _recover(self) -> None:
        """Removes parts that are damaged; learns which questions are committed."""

    def _existing(self, manifest: R) -> R | None:
        """The record of the same job in this folder, None for an empty or absent folder. Raises UserError
        when it holds anything else."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: give a folder with --out")
        if not (self.folder / self.RECORD).exists():
            own = {LOCK_NAME, *self.FOLDERS, f".{self.RECORD}.tmp"}
            foreign = {path.name for path in self.folder.glob("*")} - own
            if foreign or any(self.folder.glob("*/part-*.parquet")):
                raise UserError(
                    f"{self.folder} is not empty and holds no {self.CONTENT}: "
                    "give an empty or new folder with --out"
                )
            return None
        existing = self._read()
        if differing := differences(existing.decides(), manifest.decides()):
            raise UserError(f"{self.folder} holds {self._another(differing)}: give another --out")
        return existing

    @contextlib.contextmanager
    def or_nothing(self) -> Iterator[None]:
        """Encloses what must work before the first part: where it fails, what the job has just begun is
        taken away again, the folders as far as nothing else is in them."""
        try:
            yield
        except BaseException:
            if self._fresh:
                for name in (self.RECORD, LOCK_NAME):
                    (self.folder / name).unlink(missing_ok=True)
                for folder in self._new_folders:
                    with contextlib.suppress(OSError):  # the job's own error is what must be told
                        folder.rmdir()
            raise

    def _write_manifest(self, **changes: Any) -> None:
        """Writes the record with other fields."""
        self.manifest = dataclasses.replace(self.manifest, **changes)
        write_record(self.folder / self.RECORD, self.manifest.to_json())

    def finish(self) -> None:
        self._write_manifest(state=FINISHED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()


def missing_folders(*folders: Path) -> list[Path]:
    """Those of the folders and of the ones above them that are not there yet, deepest first."""
    missing = {path for folder in folders for path in (folder, *folder.parents) if not path.exists()}
    return sorted(missing, key=lambda path: len(path.parts), reverse=True)


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Dotted names of the leaves in which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [d for key in keys for d in differences(a.get(key), b.get(key), f"{name}.{key}".lstrip("."))]
    return [] if a == b else [name or "everything"]
