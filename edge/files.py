"""Files that are whole or absent, checksums, and the lock of a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from edge.errors import UserError

DATA = Path(__file__).parent / "data"  # files that the package carries
LOCK_NAME = ".lock"


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls write(temporary path), then makes the file appear under its name in one step, on disk.

    A link keeps pointing where it points. Raises UserError where it cannot be written, and for what is there
    and is no plain file: a rename would put one in the place of a device or pipe (/dev/null, when run as
    root).
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
    """The folder's lock, held until the stream is closed or the process ends, however. Raises UserError when
    the folder cannot be written or locked, or another process has it."""
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


def put(temporary: Path, write: Callable[[Path], object], place: Callable[[Path], Path]) -> Path:
    """Writes under the temporary name, onto the disk, and renames to place(temporary); removes it where that
    fails."""
    try:
        write(temporary)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        path = place(temporary)
        temporary.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        reason = error.strerror or error
        raise UserError(
            f"cannot write {temporary.parent} ({reason}): free space there or give another place"
        ) from error
    sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(folder: Path) -> None:
    """Removes what a killed process was writing in a run directory."""
    for path in [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]:
        path.unlink()
