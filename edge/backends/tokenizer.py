"""Text to token ids and back: tokenizer.json where there is one, else the tokenizer inside a GGUF file."""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import tokenizers

from edge.artifact import TOKENIZER_NAME, Artifact
from edge.backends.llama_vocabulary import LlamaTokenizer, Part
from edge.backends.text_stream import (
    ByteStream,
    TextStream,
    WindowStream,
    byte_level,
    is_additive,
    steps_of,
    waiting_rule,
)
from edge.backends.tokenizer_library import TokenizerError, caught, load_tokenizer, written
from edge.errors import UserError

# A character that no text is expected to have, for names of control tokens that no question can guess.
MARK = "\U0010fffd"

REMEMBERED = 1 << 16  # texts of tokens
T = TypeVar("T")


class Tokenizer(Protocol):
    """The part of a tokenizer that prompts and answers need.

    A control token is a special token, or one of the model's stop ids that text can name.
    """

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids; control tokens in the text count. With `special`, the tokenizer adds its own as well.

        Raises UserError for a text that it cannot encode.
        """

    def encode_parts(self, parts: Sequence[Part], *, special: bool) -> list[int]:
        """Ids of the joined parts; control tokens count in parsed parts alone. Raises as `encode` does."""

    def is_control(self, token_id: int) -> bool:
        """Whether the id is a control token's."""

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """Text of the ids, with or without special tokens; bytes that are no character are U+FFFD."""

    def stream(self) -> TextStream:
        """The text of an answer while it grows: its additions join to decode(ids, special=False)."""


class Masked(NamedTuple):
    """A tokenizer whose control tokens have other names: `names` by their own text, `ids` are theirs."""

    tokenizer: tokenizers.Tokenizer
    names: dict[str, str]
    ids: dict[int, int]


class JsonTokenizer:
    """A tokenizer.json, as transformers reads it. Raises UserError when it is damaged.

    `stop_ids` are the model's: those among its added tokens count as control tokens. `split` encodes special
    tokens in any text as text (split_special_tokens).
    """

    def __init__(self, path: Path, stop_ids: Collection[int] = (), *, split: bool = False) -> None:
        try:
            # By content: the library takes no path that is not UTF-8.
            self._tokenizer = load_tokenizer(path.read_bytes())
        except (OSError, TokenizerError) as error:
            raise UserError(f"{path} cannot be read ({error}): build the artifact again") from error
        self._tokenizer.encode_special_tokens = split
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._special = {token_id for token_id, token in added.items() if token.special}
        stops = self._added.keys() & set(stop_ids)
        self._controls = stops - self._special if split else stops | self._special
        # Of a few ids each: a window of a growing answer. The same tokens follow each other often.
        self._text_of = functools.lru_cache(REMEMBERED)(functools.partial(self.decode, special=False))
        self._token = functools.lru_cache(REMEMBERED)(self._find_token)
        decoder = self._tokenizer.decoder
        self._steps = steps_of(json.loads(decoder.__getstate__()) if decoder else None)
        self._bytes: dict[int, bytes] = {}

    def encode(self, text: str, *, special: bool) -> list[int]:
        return encode(self._tokenizer, text, special)

    def encode_parts(self, parts: Sequence[Part], *, special: bool) -> list[int]:
        """See Tokenizer. Control tokens of parsed parts go by names that no other part can have."""
        masked, pattern = self._masked, self._names
        text = "".join(
            pattern.sub(lambda match: masked.names.get(match[0], match[0]), part.text)
            if part.parsed
            else part.text
            for part in parts
        )
        return [masked.ids.get(i, i) for i in encode(masked.tokenizer, text, special)]

    @functools.cached_property
    def _masked(self) -> Masked:
        nonce = secrets.token_hex(8)
        names = {self._added[i]: f"{MARK}{nonce}{i}{MARK}" for i in sorted(self._controls)}
        try:
            raw = json.loads(written(self._tokenizer))
        except TokenizerError as error:
            raise UserError(f"the tokenizer is damaged ({error}): build the artifact again") from error
        for token in raw["added_tokens"]:
            if token["content"] in names:
                token |= {"content": names[token["content"]], "normalized": False}
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(raw))
        tokenizer.encode_special_tokens = self._tokenizer.encode_special_tokens
        # The library numbers added tokens by itself where the model's vocabulary lacks their text.
        known = {tokenizer.token_to_id(names.get(text, text)): i for i, text in self._added.items()}
        return Masked(tokenizer, names, {own: i for own, i in known.items() if own is not None})

    @functools.cached_property
    def _names(self) -> re.Pattern[str]:
        """Finds added tokens as the library does: the longest at the first place."""
        texts = sorted((text for text in self._added.values() if text), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts)) or r"(?!)")

    def is_control(self, token_id: int) -> bool:
        return token_id in self._controls

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        def call() -> str:
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))

        return guarded(call, "the tokens cannot be decoded", "build the artifact again")

    def stream(self) -> TextStream:
        if [step["type"] for step in self._steps] == ["ByteLevel"]:
            return ByteStream(self._bytes_of)
        return WindowStream(
            self._text_of,
            lambda token_id: self._token(token_id) is not None,
            waiting_rule(self._steps, self._token),
            additive=is_additive(self._steps),
        )

    def _find_token(self, token_id: int) -> str | None:
        """A token as the file spells it; None for a special one, and for an id that is none."""
        return None if token_id in self._special else self._tokenizer.id_to_token(token_id)

    def _bytes_of(self, token_id: int) -> bytes:
        known = self._bytes.get(token_id)
        if known is None:
            known = self._bytes[token_id] = byte_level(self._token(token_id) or "")
        return known

    def vocabulary(self) -> dict[str, int]:
        """Every token as the file spells it -> id."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))


def encode(tokenizer: tokenizers.Tokenizer, text: str, special: bool) -> list[int]:
    """Ids of a text; raises UserError where the library fails."""
    return guarded(
        lambda: list(tokenizer.encode(text, add_special_tokens=special).ids),
        f"the text {text[:40]!r} cannot be tokenised",
        "ask something else",
    )


def guarded(call: Callable[[], T], what: str, mend: str) -> T:
    """Calls the library; raises UserError where it fails."""
    try:
        with caught():
            return call()
    except TokenizerError as error:
        raise UserError(f"{what} ({str(error)[:120]}): {mend}") from error


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """The artifact's tokenizer; raises UserError when it is missing or damaged."""
    if TOKENIZER_NAME in artifact.manifest.files:
        manifest = artifact.manifest
        return JsonTokenizer(
            artifact.path / TOKENIZER_NAME,
            manifest.model.stop_ids,
            split=manifest.tokenizer_rules is not None and manifest.tokenizer_rules.split_special_tokens,
        )
    return LlamaTokenizer(artifact.weights)
