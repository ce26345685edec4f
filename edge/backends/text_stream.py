"""Text of an answer while it grows: what each token adds, so that all additions join to the decoded answer.

The text of a character belongs to the token that makes it certain; the tokens before add "". What is never
completed is added at the end, as U+FFFD.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

REPLACEMENT = "\ufffd"
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TextStream(Protocol):
    """The text of one answer, token by token."""

    def add(self, token_id: int, *, last: bool = False) -> str:
        """What the next token adds to the text; with `last`, also everything that waits."""


def pieces(stream: TextStream, ids: Sequence[int]) -> list[str]:
    """What each of the tokens of a whole answer adds to its text."""
    end = len(ids) - 1
    return [stream.add(token_id, last=place == end) for place, token_id in enumerate(ids)]


class ByteStream:
    """Tokens that are bytes of UTF-8, as `bytes_of` gives them. Without the first space where `strips`."""

    def __init__(self, bytes_of: Callable[[int], bytes], *, strips: bool = False) -> None:
        self._bytes_of, self._strips = bytes_of, strips
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int, *, last: bool = False) -> str:
        data = self._bytes_of(token_id)
        if self._strips and data:
            self._strips = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data, last)


class WindowStream:
    """Tokens of any decoder: what decoding adds when the window of the last tokens grows by one.

    `decode` decodes ids and leaves out special tokens. `waits(id, text)` says whether the text that ends
    with this token is not certain yet. The window begins with the last tokens that had text: decoders treat
    the first text differently. Without `additive` all text waits for the end.
    """

    def __init__(
        self,
        decode: Callable[[tuple[int, ...]], str],
        is_text: Callable[[int], bool],
        waits: Callable[[int, Callable[[], str]], bool],
        *,
        additive: bool,
    ) -> None:
        self._decode, self._is_text, self._waits, self._additive = decode, is_text, waits, additive
        self._ids: list[int] = []
        self._known = 0  # so many ids of the window have been added,
        self._text = ""  # and this is their text

    def add(self, token_id: int, *, last: bool = False) -> str:
        if self._is_text(token_id):
            self._ids.append(token_id)
        elif not last:
            return ""
        if len(self._ids) == self._known:
            return ""
        if not last and (
            not self._additive or self._waits(self._ids[-1], lambda: self._decode(tuple(self._ids)))
        ):
            return ""
        text = self._decode(tuple(self._ids))
        added = text[len(self._text) :]
        fresh = self._ids[self._known :]
        if shorter := self._decode(tuple(fresh)):  # these have text of their own: the tokens before can go
            self._ids, text = fresh, shorter
        self._known, self._text = len(self._ids), text
        return added


def byte_level_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level tokenizers (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


ALPHABET = byte_level_alphabet()


def byte_level(token: str) -> bytes:
    """The bytes of a byte-level token; a token with other characters stands for itself."""
    try:
        return bytes(ALPHABET[character] for character in token)
    except KeyError:
        return token.encode("utf-8", "replace")


def steps_of(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a decoder of tokenizer.json, in order."""
    if decoder is None:
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    return [step for part in decoder["decoders"] for step in steps_of(part)]


def is_additive(steps: Sequence[dict[str, Any]]) -> bool:
    """Whether a longer answer begins with the text of a shorter one, incomplete characters aside.

    A replacement that sees several tokens at once can change text that was there before.
    """
    fused = False
    for step in steps:
        if step["type"] == "Replace" and fused and len(step["pattern"].get("String", "  ")) != 1:
            return False
        fused |= step["type"] in ("Fuse", "ByteLevel")
    return True


def waiting_rule(
    steps: Sequence[dict[str, Any]], token_of: Callable[[int], str | None]
) -> Callable[[int, Callable[[], str]], bool]:
    """Whether text is uncertain, for WindowStream.

    A run of byte tokens is one text to the decoder, whole or not at all: it waits for the run's end.
    """
    kinds = {step["type"] for step in steps}

    def waits(token_id: int, text: Callable[[], str]) -> bool:
        if "ByteFallback" in kinds and BYTE.fullmatch(token_of(token_id) or ""):
            return True
        return "ByteLevel" in kinds and text().endswith(REPLACEMENT)

    return waits
