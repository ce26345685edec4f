"""The keys and tensor names of a GGUF file, read without llama.cpp.

llama.cpp's own parser can end the process on a damaged head, and another process that tries it first
(`gguf_check`) reads the whole file. What says which kind of file it is can be had at once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from edge.backends.llama_header import ARRAY, BOOL, MAGIC, STRING, check_version
from edge.errors import UserError

MOST_BYTES = 1 << 26  # of a head that is read
VERSIONS = (2, 3)  # alike in their heads
# gguf_type -> its form in Python's struct.
FORMS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    BOOL: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}


class Damaged(Exception):
    """The head ends early, is too long, or is none."""


class Head(NamedTuple):
    """Keys with one value each (lists are left out), and the names of all tensors."""

    path: Path
    keys: Mapping[str, Any]
    tensors: tuple[str, ...]


class Reader:
    """Reads the parts of a head from a stream one after another; raises Damaged."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, MOST_BYTES

    def take(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0 or len(data := self._stream.read(size)) < size:
            raise Damaged
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", "replace")

    def _skip_texts(self, count: int) -> None:
        """Passes over a list of texts, of which a vocabulary has hundreds of thousands."""
        read, left = self._stream.read, self._left
        for _ in range(count):
            size = int.from_bytes(read(8), "little")
            left -= 8 + size
            if left < 0:
                raise Damaged
            read(size)
        self._left = left

    def value(self, kind: int) -> Any:
        """The value of a key; None for a list."""
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            if kind not in FORMS:
                raise Damaged
            return self.number(FORMS[kind])
        entries, count = self.number("<I"), self.number("<Q")
        if entries == STRING:
            self._skip_texts(count)
        elif entries in FORMS:
            self.take(count * struct.calcsize(FORMS[entries]))
        else:
            raise Damaged
        return None


def read_head(path: Path) -> Head | None:
    """The head of a file; None where it is damaged, or no GGUF file, which is for others to tell.

    Raises UserError for a file that cannot be read, and for a form that llama.cpp does not read.
    """
    try:
        with path.open("rb") as stream:
            reader, start = Reader(stream), stream.read(8)
            check_version(path, start)
            if not start.startswith(MAGIC) or int.from_bytes(start[4:], "little") not in VERSIONS:
                return None
            tensors, count = reader.number("<Q"), reader.number("<Q")
            keys = {}
            for _ in range(count):
                key = reader.text()
                keys[key] = reader.value(reader.number("<I"))
            names = []
            for _ in range(tensors):
                names.append(reader.text())
                # The sizes of each dimension, the type and the place.
                reader.take(8 * reader.number("<I") + 4 + 8)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}): give a GGUF file") from error
    except Damaged:
        return None
    return Head(path, keys, tuple(names))
