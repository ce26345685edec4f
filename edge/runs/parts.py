"""Parts of a run: Parquet files whose names hold their checksums.

A part is named part-IofN-FIRST-LAST.CHECKSUM.parquet, with 16 hex digits of the SHA-256 of the file. The
checksum so stays with the file when parts are copied, and a crash cannot separate them. Parts of older
versions, without a checksum, are read as they are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edge.errors import UserError
from edge.files import file_sha256, put, write_whole

PART = re.compile(r"(part-\d+of\d+-\d+-\d+)(?:\.([0-9a-f]{16}))?\.parquet")
DIGITS = 16  # of the checksum
# Columns whose values repeat within a part.
REPEATED = frozenset(
    {"question_index", "question_id", "phase", "token", "token_id", "category", "stop_reason"}
)
AGAIN = "run the same command again to trace its questions anew"


def write_part(folder: Path, stem: str, table: pa.Table) -> Path:
    """Writes a part whole and names it by its checksum; raises UserError where it cannot be written."""
    write = functools.partial(_write_parquet, table)

    def place(written: Path) -> Path:
        return folder / f"{stem}.{checksum(written)}.parquet"

    return put(folder / f".{stem}.tmp", write, place)


def part_name(shard: str, indices: Sequence[int]) -> str:
    """A part's name without checksum, from the shard I/N and the questions that it holds."""
    number, count = shard.split("/")
    return f"part-{number}of{count}-{indices[0]:06d}-{indices[-1]:06d}"


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file whole; raises UserError where it cannot be written."""
    write_whole(path, functools.partial(_write_parquet, table))


def _write_parquet(table: pa.Table, path: Path) -> None:
    """Writes Parquet in the smallest encoding that every reader knows (docs/performance.md).

    Floats are stored byte by byte, since signs and exponents are alike. Texts and token ids get a
    dictionary, which would make floats larger.
    """
    leaves = dict(_leaves(table.schema))
    floats = [name for name, kind in leaves.items() if pa.types.is_floating(kind)]
    repeated = [name for name in leaves if name in REPEATED]
    with pa.OSFile(os.fsencode(path), "wb") as file:  # pyarrow takes a path that is not UTF-8 as bytes
        pq.write_table(
            table,
            file,
            compression="zstd",
            compression_level=3,
            use_dictionary=repeated,
            column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
            # A part of one answer is mostly its footer: no statistics of columns that no reader selects by,
            # and no second copy of the schema.
            write_statistics=["question_index"] if "question_index" in leaves else False,
            store_schema=False,
        )


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Each column's name inside the file, and the type of its values."""
    for column in schema:
        if pa.types.is_list(column.type):
            yield f"{column.name}.list.element", column.type.value_type
        else:
            yield column.name, column.type


def part_stem(name: str) -> str | None:
    """A part's name without its checksum, None for a file that is no part."""
    match = PART.fullmatch(name)
    return match[1] if match else None


def checksum(path: Path) -> str:
    """First DIGITS hex digits of the file's SHA-256, which its name holds."""
    return file_sha256(path)[:DIGITS]


def is_damaged(path: Path) -> bool:
    """Whether a part differs from its checksum; a part without a checksum must at least be Parquet."""
    name = PART.fullmatch(path.name)
    try:
        if name and name[2]:
            state = path.stat()
            return _checksum_of(path, state.st_size, state.st_mtime_ns) != name[2]
        pq.read_metadata(mapped(path))
    except (OSError, pa.ArrowException):
        return True
    return False


@functools.lru_cache(maxsize=65536)  # once for each file and process: a reader asks column by column
def _checksum_of(path: Path, size: int, modified: int) -> str:
    return checksum(path)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """A scope that reads a Parquet file of a run; raises UserError when it is damaged or cannot be read."""
    name = PART.fullmatch(path.name)
    if name and name[2] and path.is_file() and is_damaged(path):
        raise UserError(f"{path} is damaged (its content is not what its name says): {AGAIN}")
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({detail}): delete it and {AGAIN}") from error


def read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Reads a file, or the `columns` that it has; raises UserError when it is damaged."""
    with reading(path):
        return pq.ParquetFile(mapped(path)).read(columns=columns)


def mapped(path: Path) -> pa.MemoryMappedFile:
    """A file as pyarrow reads it, whatever bytes are in its name."""
    return pa.memory_map(os.fsencode(path))


def column_names(path: Path) -> tuple[str, ...]:
    """The columns of a file, from its footer; raises UserError when it is damaged."""
    with reading(path):
        state = path.stat()
        return _column_names_of(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=65536)  # as above: each analysis of a run asks which columns it has
def _column_names_of(path: Path, size: int, modified: int) -> tuple[str, ...]:
    return tuple(pq.read_schema(mapped(path)).names)


def shared_columns(paths: Iterable[Path]) -> list[str]:
    """Columns that all files have, in the order of the first; raises UserError for a damaged file.

    Parts of several versions may differ. A run has the columns that all its parts have.
    """
    different = list(dict.fromkeys(column_names(path) for path in paths))  # one for each version
    if not different:
        return []
    shared = set(different[0]).intersection(*different[1:])
    return [name for name in different[0] if name in shared]
