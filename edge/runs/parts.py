"""Files that are whole or absent, the lock of a folder, and parts that are known again by the checksum in
their names.

A part is named part-IofN-FIRST-LAST.CHECKSUM.parquet: the checksum (16 hex digits of SHA-256 of the file)
travels with the file when the parts of shards are copied into one folder, and needs no second file that a
crash could tear from the first. Parts without one, of older versions, are read as they are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from edge.errors import UserError
from edge.files import file_sha256, put, write_whole

PART = re.compile(r"(part-\d+of\d+-\d+-\d+)(?:\.([0-9a-f]{16}))?\.parquet")
DIGITS = 16
# Columns whose values come again and again in a part.
REPEATED = frozenset(
    {"question_index", "question_id", "phase", "token", "token_id", "category", "stop_reason"}
)
AGAIN = "run the same command again to trace its questions anew"


def write_part(folder: Path, stem: str, table: pa.Table) -> Path:
    """Writes a part whole, named by what is in it; raises UserError where it cannot be written."""
    write = functools.partial(_write_parquet, table)
    return put(
        folder / f".{stem}.tmp", write, lambda written: folder / f"{stem}.{checksum(written)}.parquet"
    )


def part_name(shard: str, indices: Sequence[int]) -> str:
    """Stem of a part's name, from the shard I/N and the questions that it holds."""
    number, count = shard.split("/")
    return f"part-{number}of{count}-{indices[0]:06d}-{indices[-1]:06d}"


def write_table(path: Path, table: pa.Table) -> None:
    """A whole Parquet file; raises UserError where it cannot be written."""
    write_whole(path, functools.partial(_write_parquet, table))


def _write_parquet(table: pa.Table, path: Path) -> None:
    """The smallest encoding (docs/performance.md) that every reader knows: each float's bytes are stored by
    place, where signs and exponents are alike; a dictionary of floats only costs, one of texts and token ids
    pays."""
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
        # A part of one answer is mostly its footer: no account of columns that nobody selects by, no second
        # copy of the schema.
        write_statistics=["question_index"] if "question_index" in leaves else False,
        store_schema=False,
    )


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Each column's name inside the file, and the type of its values."""
    for column in schema:
        nested = pa.types.is_list(column.type)
        yield (
            (f"{column.name}.list.element", column.type.value_type) if nested else (column.name, column.type)
        )


def part_stem(name: str) -> str | None:
    """A part's name without its checksum, None for a file that is no part."""
    found = PART.fullmatch(name)
    return found[1] if found else None


def checksum(path: Path) -> str:
    """The part of the SHA-256 that stands in a part's name."""
    return file_sha256(path)[:DIGITS]


def is_damaged(path: Path) -> bool:
    """Whether a part's content is not what its name says; a part without a checksum must at least be
    Parquet."""
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
