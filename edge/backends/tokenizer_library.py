"""The tokenizers library at its border: whatever it raises, a panic of its Rust code included, is one error.

A panic is no Exception in Python, and its message goes to the process's own stderr.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import sys
from collections.abc import Iterator

import tokenizers

from edge.fields import parse_json

# Kinds of characters that a component of a tokenizer may fail on.
PROBE = "Do bats see?  É é ﬁ 你好 🙂 \u200d\n\t12 <s> a" + "b" * 40
STDOUT, STDERR = 1, 2
MOST_IDS = 1 << 24  # a hundred times the largest vocabulary that is published
NUMBER_BYTES = 4  # of the size at the beginning of a charsmap


class TokenizerError(ValueError):
    """The library cannot do what it is asked, for a reason that lies in the file or in the text."""


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Raises TokenizerError in place of what the library raises. Other ends of the process pass."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(" ".join(str(error).split())[:200]) from error


def load_tokenizer(content: bytes) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json; raises TokenizerError when it is damaged or does not work.

    The file may carry the length limits of its training, or a padding to a million tokens. They are dropped,
    as transformers drops them at every call.
    """
    if b'"Precompiled"' in content:
        check_charsmaps(content)
    with caught(), silenced():
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    with caught(), silenced():
        tokenizer.decode(tokenizer.encode(PROBE).ids, skip_special_tokens=False)
    return tokenizer


def written(tokenizer: tokenizers.Tokenizer) -> str:
    """tokenizer.json of a tokenizer; raises TokenizerError for an id that no vocabulary has.

    The library counts every number up to the largest id, and takes four bytes for each that is free.
    """
    text, largest = max(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda entry: entry[1])
    if largest >= MOST_IDS:
        raise TokenizerError(f"the token {text[:40]!r} has the id {largest}")
    with caught(), silenced():
        return str(tokenizer.to_str())


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Drops what native code writes to the process's standard output and error.

    That is a panic's place in the source, or a remark on numbers that no token has.
    """
    with contextlib.ExitStack() as stack:
        nothing = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nothing)
        for stream, number in ((sys.stdout, STDOUT), (sys.stderr, STDERR)):
            try:
                kept = os.dup(number)
            except OSError:  # closed
                continue
            with contextlib.suppress(OSError, ValueError):  # of Python's own, which must not be lost
                stream.flush()
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(nothing, number)
        yield


def check_charsmaps(content: bytes) -> None:
    """Raises TokenizerError for a charsmap that is shorter than its own size: the library would trust it.

    It reserves the memory that the size asks for, up to 16 GB, and ends the process without it.
    """
    try:
        left: list[object] = [parse_json(content)]
    except ValueError as error:
        raise TokenizerError(str(error)) from error
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
            charsmap = value.get("precompiled_charsmap")
            if value.get("type") == "Precompiled" and isinstance(charsmap, str):
                check_charsmap(charsmap)


def check_charsmap(charsmap: str) -> None:
    """Raises TokenizerError unless base64 text begins with the bytes of a trie that follows whole."""
    try:
        data = base64.b64decode(charsmap, validate=True)
    except binascii.Error as error:
        raise TokenizerError(f"its precompiled_charsmap is no base64 text: {error}") from error
    size = int.from_bytes(data[:NUMBER_BYTES], "little")
    if not 0 < size <= len(data) - NUMBER_BYTES:
        raise TokenizerError(f"its precompiled_charsmap has {len(data)} bytes for a table of {size}")
