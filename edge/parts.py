"""Files that are whole or absent, the lock of a folder, and parts that are known again by the checksum in their names.

A part is named part-IofN-FIRST-LAST.CHECKSUM.parquet: the checksum (16 hex digits of SHA-256 of the file) travels with the file
when the parts of shards are copied into one folder, and needs no second file that a crash could tear from the first. Parts
without one, of older versions, are read as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from edge.errors import UserError

PART = re.compile(r"(part-\d+of\d+-\d+-\d+)(?:\.([0-9a-f]{16}))?\.parquet")
DIGITS = 16
LOCK_NAME = ".lock"
# Columns whose values come again and again in a part.
REPEATED = frozenset({"question_index", "question_id", "phase", "token", "token_id", "category", "stop_reason"})
AGAIN = "run the same command again to trace its questions anew"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls write(temporary path), then makes the file appear under its name in one step, on disk.

    A link keeps pointing where it points. Raises UserError where it cannot be written, and for what is there and is no
    plain file: a rename would put one in the place of a device or pipe (/dev/null, when run as root).
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no plain file: give another place")
    path = path.resolve()
    _put(path.with_name(f".{path.name}.tmp"), write, lambda written: path)


def write_part(folder: Path, stem: str, table: pa.Table) -> Path:
    """Writes a part whole, named by what is in it; raises UserError where it cannot be written."""
    write = functools.partial(_write_parquet, table)
    return _put(folder / f".{stem}.tmp", write, lambda written: folder / f"{stem}.{checksum(written)}.parquet")


def write_record(path: Path, record: Any) -> None:
    """A dataclass as JSON, keys sorted."""
    text = json.dumps(dataclasses.asdict(record), indent=2, sort_keys=True) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def claim(folder: Path) -> IO[str]:
    """The folder's lock, held until the stream is closed or the process ends, however. Raises UserError when the folder cannot be
    written or locked, or another process has it."""
    try:
        lock = (folder / LOCK_NAME).open("w")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): give another --out") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise UserError(f"{folder} cannot be locked ({error.strerror}): give an --out on a local disk") from None
        raise UserError(f"{folder} is being written by another process: wait for it or give another --out") from None
    return lock


def part_name(shard: str, indices: Sequence[int]) -> str:
    """Stem of a part's name, from the shard I/N and the questions that it holds."""
    number, count = shard.split("/")
    return f"part-{number}of{count}-{indices[0]:06d}-{indices[-1]:06d}"


def write_table(path: Path, table: pa.Table) -> None:
    """A whole Parquet file; raises UserError where it cannot be written."""
    write_whole(path, functools.partial(_write_parquet, table))


def _write_parquet(table: pa.Table, path: Path) -> None:
    """The smallest encoding (docs/performance.md) that every reader knows: each float's bytes are stored by place,
    where signs and exponents are alike; a dictionary of floats only costs, one of texts and token ids pays."""
    leaves = dict(_leaves(table.schema))
    floats = [name for name, kind in leaves.items() if pa.types.is_floating(kind)]
    repeated = [name for name in leaves if name in REPEATED]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=3,
        use_dictionary=repeated,
        column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
        # A part of one answer is mostly its footer: no account of columns that nobody selects by, no second copy of the schema.
        write_statistics=["question_index"] if "question_index" in leaves else False,
        store_schema=False,
    )


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Each column's name inside the file, and the type of its values."""
    for column in schema:
        nested = pa.types.is_list(column.type)
        yield (f"{column.name}.list.element", column.type.value_type) if nested else (column.name, column.type)


def _put(temporary: Path, write: Callable[[Path], object], place: Callable[[Path], Path]) -> Path:
    """Writes under the temporary name, onto the disk, and renames to place(temporary); removes it where that fails."""
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
        raise UserError(f"cannot write {temporary.parent} ({reason}): free space there or give another place") from error
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


def part_stem(name: str) -> str | None:
    """A part's name without its checksum, None for a file that is no part."""
    found = PART.fullmatch(name)
    return found[1] if found else None


def checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:DIGITS]


def is_damaged(path: Path) -> bool:
    """Whether a part's content is not what its name says; a part without a checksum must at least be Parquet."""
    named = PART.fullmatch(path.name)
    try:
        if named and named[2]:
            state = path.stat()
            return _checksum_of(path, state.st_size, state.st_mtime_ns) != named[2]
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return True
    return False


@functools.lru_cache(maxsize=65536)  # once for each file and process: a reader asks column by column
def _checksum_of(path: Path, size: int, modified: int) -> str:
    return checksum(path)


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One Parquet file of a run; raises UserError when it is damaged."""
    named = PART.fullmatch(path.name)
    if named and named[2] and path.is_file() and is_damaged(path):
        raise UserError(f"{path} is damaged (its content is not what its name says): {AGAIN}")
    try:
        return pq.ParquetFile(path, memory_map=True).read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({detail}): delete it and {AGAIN}") from error
