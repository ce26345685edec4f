"""Files that are whole or absent, checksums, and the lock of a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from edge.errors import Note, UserError

DATA = Path(__file__).parent / "data"  # data files of the package
LOCK_NAME = ".lock"
# What fsync of a folder gives where a file system has none.
UNSYNCABLE = (
    errno.EINVAL,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EBADF,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
)
UNSYNCED: set[int] = set()  # device numbers of such file systems that were named


def user_folder(variable: str, below: str) -> Path | None:
    """The folder of the user that $`variable` names, else `below` the home folder; None without either."""
    if given := os.environ.get(variable):
        return Path(given)
    try:
        return Path.home() / below
    except RuntimeError:  # neither HOME nor an entry of this user in the system's list
        return None


def data_folder(what: str) -> Path:
    """The folder in which downloads of the user are kept: below $XDG_DATA_HOME, by default ~/.local/share.

    Raises UserError, which says `what` cannot be kept, for a user without a home folder.
    """
    data = user_folder("XDG_DATA_HOME", ".local/share")
    if data is None:
        raise UserError(f"there is no home folder to keep {what} in: set HOME or XDG_DATA_HOME")
    return data / "edgetrace"


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls write(temporary path), syncs the file to disk, and renames it to `path` in one step.

    A link keeps its target. Raises UserError where the file cannot be written, and where `path` exists and
    is no plain file: a rename would replace a device or pipe (/dev/null, when run as root).
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no plain file: give another place")
    path = path.resolve()
    put(path.with_name(f".{path.name}.tmp"), write, lambda written: path)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON object, keys sorted."""
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def claim(folder: Path) -> IO[str]:
    """Locks a folder until the returned stream is closed or the process ends in any way.

    Raises UserError when the folder cannot be written or locked, or another process holds the lock.
    """
    try:
        lock = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): give another --out") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(
                f"{folder} cannot be locked ({error.strerror}): give an --out on a local disk"
            ) from None
        raise UserError(
            f"{folder} is being written by another process: wait for it or give another --out"
        ) from None
    return lock


@contextlib.contextmanager
def alone(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Holds the lock file `path` while the block runs, in a folder that is made where it is missing.

    Where another process has it, calls `on_wait` once and waits for that one. Raises UserError where it
    cannot be written or locked.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(path.open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"cannot write to {path.parent} ({error.strerror}): set XDG_DATA_HOME to a folder on "
                "another disk"
            ) from error
        yield


def put(temporary: Path, write: Callable[[Path], object], place: Callable[[Path], Path]) -> Path:
    """Writes the file `temporary`, syncs it to disk, and renames it to place(temporary).

    Raises UserError and removes the temporary file where that fails.
    """
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        path = place(temporary)
        temporary.rename(path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise UserError(
                f"cannot write {temporary.parent} ({reason}): free space there or give another place"
            ) from error
        raise
    return path


def sync_folder(folder: Path) -> None:
    """Syncs a folder's entries to disk, so that a rename survives a power failure.

    Some file systems refuse that (CIFS, shares of virtual machines, some of FUSE): work goes on there, and
    a Note says so once for each. Raises OSError where the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError as error:  # a folder that may be written and not listed
        note_unsynced(folder, error)
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCABLE:
            raise
        note_unsynced(folder, error)
    finally:
        os.close(descriptor)


def note_unsynced(folder: Path, error: OSError) -> None:
    """Warns once a file system that its folders are not synced."""
    device = folder.stat().st_dev
    if device not in UNSYNCED:
        UNSYNCED.add(device)
        warnings.warn(
            f"the file system of {folder} does not sync folders ({error.strerror}): after a power failure "
            "the newest files there may be missing",
            Note,
            stacklevel=2,
        )


def remove_temporary(folder: Path) -> None:
    """Removes the unfinished files that a killed process left in a run directory."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        path.unlink()
