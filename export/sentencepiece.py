"""The pieces of a sentencepiece model (tokenizer.model), read and written without its library."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge.errors import UserError

NORMAL = 1  # the type of a piece that names none


def read_pieces(path: Path) -> Iterator[tuple[str, float, int]]:
    """Text, score and type of each piece of a sentencepiece model (tokenizer.model), in the order of their
    ids.

    The file is a protobuf message whose field 1, repeated, is a piece: string 1, float 2, enum 3 (1 where
    absent). Raises UserError when it is none.
    """
    try:
        for number, value in fields(path.read_bytes()):
            if number == 1 and isinstance(value, bytes):
                piece = dict(fields(value))
                text, score, kind = piece.get(1, b""), piece.get(2, b"\0" * 4), piece.get(3, NORMAL)
                if not isinstance(text, bytes) or not isinstance(score, bytes) or not isinstance(kind, int):
                    raise ValueError("a piece has fields of other types")
                yield text.decode(), float(struct.unpack("<f", score)[0]), kind
    except (OSError, ValueError, IndexError, struct.error) as error:
        raise UserError(f"{path} is not a sentencepiece model ({error}): download it again") from error


def written_pieces(pieces: Iterable[tuple[str, float, int]]) -> bytes:
    """A sentencepiece model of pieces, each with text, score and type, in the order of their ids."""

    def varint(number: int) -> bytes:
        return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)

    def block(content: bytes) -> bytes:  # field 1 of a message
        return b"\x0a" + varint(len(content)) + content

    return b"".join(
        block(block(text.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind))
        for text, score, kind in pieces
    )


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message: whole numbers as int, all else as bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7) or (varint() if key & 7 == 2 else -1)
        if size < 0 or at + size > len(message):
            raise ValueError("a field ends beyond the file")
        yield key >> 3, message[at : at + size]
        at += size
