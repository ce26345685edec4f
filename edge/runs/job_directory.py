"""The folder of one job, which writes parts into it and may continue what it began.

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

from edge.errors import OnNote, UserError
from edge.files import LOCK_NAME, claim, remove_temporary, write_record
from edge.runs.sessions import Session, Worked, changes, session_of, settled

RUNNING, FINISHED = "running", "finished"


class JobManifest(Worked, Protocol):
    """A frozen dataclass that says what the job is; `state` is RUNNING or FINISHED."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def state(self) -> str: ...
    @property
    def sessions(self) -> tuple[Session, ...]: ...
    @property
    def known_sessions(self) -> tuple[Session, ...]: ...

    def decides(self) -> dict[str, Any]:
        """The part that must be equal for one job to continue another."""

    def to_json(self) -> dict[str, Any]:
        """The object in the manifest's file."""


M = TypeVar("M", bound=JobManifest)


class JobDirectory(ABC, Generic[M]):
    """A job's directory, locked until the end of the context manager.

    Raises UserError when the folder cannot be written, is in use, or holds anything but the same job. `done`
    are the questions that are committed. `damaged` are the files that were damaged and are removed, so that
    their questions run again.
    """

    MANIFEST: ClassVar[str]  # the file that holds the manifest
    FOLDERS: ClassVar[tuple[str, ...]]  # folders of parts
    CONTENT: ClassVar[str]  # what is written, as a user calls it: "run"

    def __init__(self, folder: Path, manifest: M) -> None:
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
            self._here = session_of(manifest)
            self.manifest = existing or manifest
            if existing is None:
                self._write_manifest()
            remove_temporary(folder)
            self._recover()
        except BaseException:
            self._lock.close()
            raise

    @abstractmethod
    def _read(self) -> M:
        """The manifest that is there; raises UserError when it is damaged or of another schema."""

    @abstractmethod
    def _another(self, differing: Sequence[str]) -> str:
        """A sentence: the folder holds another job, which differs in these fields of decides()."""

    @abstractmethod
    def _recover(self) -> None:
        """Removes damaged parts; fills `done` and `damaged`."""

    def _existing(self, manifest: M) -> M | None:
        """The manifest of the same job in this folder, None for an empty or absent folder.

        Raises UserError when the folder holds anything else.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder} is a file: give a folder with --out")
        if not (self.folder / self.MANIFEST).exists():
            own = {LOCK_NAME, *self.FOLDERS, f".{self.MANIFEST}.tmp"}
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

    @property
    def is_empty(self) -> bool:
        """Whether this process began the job, and has committed nothing yet."""
        return self._fresh and not self.done

    @contextlib.contextmanager
    def or_nothing(self, kind: type[BaseException] = BaseException) -> Iterator[None]:
        """Encloses the work up to the first part.

        Where it fails with such an error before that, a new job's files are removed, and its folders where
        they are empty.
        """
        try:
            yield
        except kind:
            if self.is_empty:
                remove_temporary(self.folder)
                for name in self.FOLDERS:  # half of a part that could not be committed
                    for path in (self.folder / name).glob("part-*.parquet"):
                        path.unlink()
                for name in (self.MANIFEST, LOCK_NAME):
                    (self.folder / name).unlink(missing_ok=True)
                for folder in self._new_folders:
                    with contextlib.suppress(OSError):  # the job's own error is what must be told
                        folder.rmdir()
            raise

    def _write_manifest(self, **changes: Any) -> None:
        """Writes the manifest with these fields changed."""
        self.manifest = dataclasses.replace(self.manifest, **changes)
        write_record(self.folder / self.MANIFEST, self.manifest.to_json())

    def go_on(self, on_note: OnNote) -> None:
        """Records that this process goes on with the job, before its first part; notes another machine and
        other versions."""
        if self._fresh:
            return
        before = self._settled()
        if before and (differing := changes(before[-1], self._here)):
            on_note(
                f"{self.folder} is continued on another machine or with other versions "
                f"({', '.join(differing)}): {self.MANIFEST} keeps which questions each answered"
            )
            before = (*before, self._here)
        self._write_sessions(before or (self._here,))

    def _settled(self) -> tuple[Session, ...]:
        """The sessions so far that have questions."""
        return settled(self.manifest.known_sessions, self.done)

    def _write_sessions(self, sessions: tuple[Session, ...], **fields: Any) -> None:
        """Writes the manifest where it changes: device and versions are those of the first session."""
        first, several = sessions[0], sessions if len(sessions) > 1 else ()
        if several or self.manifest.sessions or not self.done:
            fields |= {"device": first.device, "versions": first.versions, "sessions": several}
        if any(getattr(self.manifest, name) != value for name, value in fields.items()):
            self._write_manifest(**fields)

    def finish(self) -> None:
        sessions = self._settled() or (session_of(self.manifest),)
        self._write_sessions(sessions, state=FINISHED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.close()


def missing_folders(*folders: Path) -> list[Path]:
    """The folders and their parents that are not there yet, deepest first."""
    missing = {path for folder in folders for path in (folder, *folder.parents) if not path.exists()}
    return sorted(missing, key=lambda path: len(path.parts), reverse=True)


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Dotted names of the leaves in which two JSON values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        return [d for key in keys for d in differences(a.get(key), b.get(key), f"{name}.{key}".lstrip("."))]
    return [] if a == b else [name or "everything"]
