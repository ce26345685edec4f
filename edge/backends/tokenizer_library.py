"""The tokenizers library at its border: whatever it raises, a panic of its Rust code included, is one error.

A panic is no Exception in Python, and its message goes to the process's own stderr.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import Iterator

import tokenizers

from edge.fields import parse_json

# Kinds of characters that a component of a tokenizer may fail on.
PROBE = "Do bats see?  É é ﬁ 你好 🙂 \u200d\n\t12 <s> a" + "b" * 40
STDERR = 2
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
    with caught(), no_stderr():
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    with caught(), no_stderr():
        tokenizer.decode(tokenizer.encode(PROBE).ids, skip_special_tokens=False)
    return tokenizer


@contextlib.contextmanager
def no_stderr() -> Iterator[None]:
    """Drops what is written to the process's stderr, where a panic would tell its place in the source."""
    try:
        kept = os.dup(STDERR)
    except OSError:  # closed
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(nothing)


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
