"""The vocabulary inside a GGUF file: its own tokenizer and special tokens, without the weights."""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge.backends.llama_library import captured_log, llama_cpp, version
from edge.backends.llama_stack import LONGEST_TEXT, SHORT_TEXT, with_stack
from edge.backends.text_stream import ByteStream, TextStream
from edge.errors import UserError

PIECE_BYTES = 256
VALUE_BYTES = 64  # of a number or a flag among the keys
SENTENCEPIECE = 1  # llama_vocab_type
# llama_token_attr: what a text is not taken for unless control tokens are parsed.
UNKNOWN, CONTROL = 1, 8


class Part(NamedTuple):
    """A part of a text. Where it is not `parsed`, control tokens in it are text like any other."""

    text: str
    parsed: bool


class Vocabulary:
    """A model opened for its vocabulary alone; raises UserError when llama.cpp refuses the file."""

    def __init__(self, path: Path) -> None:
        self.lib = lib = llama_cpp()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        with captured_log() as log:
            self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise UserError(
                f"llama.cpp {version()} cannot load {path} ({log.first()}): download it or build it again"
            )
        self.handle: Any = lib.llama_model_get_vocab(self._model)
        self.size = int(lib.llama_vocab_n_tokens(self.handle))

    def __del__(self) -> None:
        if getattr(self, "_model", None):
            self.lib.llama_model_free(self._model)

    @property
    def present(self) -> bool:
        """Whether the file has a tokenizer at all."""
        return bool(self.lib.llama_vocab_type(self.handle) != 0)  # LLAMA_VOCAB_TYPE_NONE

    def text(self, token_id: int) -> str:
        """A token as the file spells it, "" for none."""
        known = self.present and 0 <= token_id < self.size  # the library ends the process for others
        text = self.lib.llama_vocab_get_text(self.handle, token_id) if known else None
        return text.decode("utf-8", "replace") if text else ""

    def value(self, key: str) -> str | None:
        """A number or flag among the file's keys, as text; None where the file has no such key."""
        buffer = ctypes.create_string_buffer(VALUE_BYTES)
        length = self.lib.llama_model_meta_val_str(self._model, key.encode(), buffer, VALUE_BYTES)
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None

    def named(self, role: str) -> int | None:
        """The id that the file's keys give a role (bos, eos, eot ...).

        None without such a key: llama.cpp then makes one up for some vocabularies.
        """
        value = self.value(f"tokenizer.ggml.{role}_token_id")
        known = value is not None and value.isascii() and value.isdigit() and int(value) < self.size
        return int(value) if value is not None and known else None

    def added(self, role: str) -> list[int]:
        """The ids, one or none, that are put before (bos) or behind (eos) every text."""
        token_id = self.named(role)
        wanted = token_id is not None and getattr(self.lib, f"llama_vocab_get_add_{role}")(self.handle)
        return [token_id] if token_id is not None and wanted else []

    def is_control(self, token_id: int) -> bool:
        """Whether a text is taken for this token only where control tokens are parsed."""
        known = 0 <= token_id < self.size
        return known and bool(self.lib.llama_vocab_get_attr(self.handle, token_id) & (CONTROL | UNKNOWN))

    def special_tokens(self) -> dict[str, str]:
        """The special tokens that a chat template may ask for, by role, as the file's keys name them."""
        roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}
        ids = {role: self.named(short) for role, short in roles.items()}
        tokens = {role: self.text(token_id) for role, token_id in ids.items() if token_id is not None}
        return {role: text for role, text in tokens.items() if text}

    def usual_end(self) -> int | None:
        """The end that llama.cpp makes up; None where the file's keys name one."""
        return int(self.lib.llama_vocab_eos(self.handle)) if self.named("eos") is None else None

    def stop_ids(self) -> tuple[int, ...]:
        """Every id that llama.cpp takes for the end of an answer."""
        return tuple(i for i in range(self.size) if self.lib.llama_vocab_is_eog(self.handle, i))


class LlamaTokenizer:
    """llama.cpp's own tokenizer of a GGUF file; see `edge.backends.tokenizer.Tokenizer`.

    Raises UserError for a file without one.
    """

    def __init__(self, path: Path) -> None:
        self._vocabulary = vocabulary = Vocabulary(path)
        if not vocabulary.present:
            raise UserError(f"{path} holds no tokenizer: put the model's tokenizer.json beside it")
        self._before, self._behind = vocabulary.added("bos"), vocabulary.added("eos")
        sentencepiece = vocabulary.lib.llama_vocab_type(vocabulary.handle) == SENTENCEPIECE
        prefix = vocabulary.value("tokenizer.ggml.add_space_prefix")
        # Such a tokenizer puts a space before every text, which is none of the text's own.
        self._strips = sentencepiece and prefix != "false"
        self._pieces: dict[int, bytes] = {}

    def encode(self, text: str, *, special: bool) -> list[int]:
        return self._around(self._encode(text, parsed=True), special)

    def encode_parts(self, parts: Sequence[Part], *, special: bool) -> list[int]:
        """See Tokenizer. The library splits a text at its control tokens; here only at those of parsed
        parts."""
        pieces: list[str | int] = []
        for part in parts:
            found = self._controls.split(part.text) if part.parsed else [part.text]
            for place, text in enumerate(found):
                pieces.append(self._ids[text] if place % 2 else text)
        ids: list[int] = []
        for is_text, group in itertools.groupby(pieces, lambda piece: isinstance(piece, str)):
            if is_text:
                ids += self._encode("".join(str(text) for text in group), parsed=False)
            else:
                ids += [int(token_id) for token_id in group]
        return self._around(ids, special)

    def _around(self, ids: list[int], special: bool) -> list[int]:
        return [*self._before, *ids, *self._behind] if special else ids

    def _encode(self, text: str, *, parsed: bool) -> list[int]:
        """Raises UserError for a text that the library cannot encode, or not without risk."""
        if not text:
            return []
        if len(text) > LONGEST_TEXT:
            raise UserError(
                f"the text {text[:40]!r} has {len(text)} characters, more than the {LONGEST_TEXT} that "
                "llama.cpp's tokenizer is given: put the model's tokenizer.json beside the GGUF file"
            )
        raw = text.encode()
        size = len(raw) + 8  # never more tokens than bytes, and those put around
        buffer = (ctypes.c_int32 * size)()
        vocabulary = self._vocabulary

        def call() -> int:
            return int(
                vocabulary.lib.llama_tokenize(vocabulary.handle, raw, len(raw), buffer, size, False, parsed)
            )

        count = call() if len(text) <= SHORT_TEXT else with_stack(len(text), call)
        if count < 0:
            raise UserError(f"the text {text[:40]!r} cannot be tokenised: ask something shorter")
        return buffer[:count]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        """Control tokens by their text."""
        vocabulary = self._vocabulary
        ids = (i for i in range(vocabulary.size) if vocabulary.is_control(i))
        return {text: i for i in ids if (text := vocabulary.text(i))}

    @functools.cached_property
    def _controls(self) -> re.Pattern[str]:
        """Finds control tokens, the longest first as the library does."""
        texts = sorted(self._ids, key=len, reverse=True)
        return re.compile("(" + ("|".join(map(re.escape, texts)) or r"(?!)") + ")")

    def is_control(self, token_id: int) -> bool:
        return self._vocabulary.is_control(token_id)

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        data = b"".join(self._piece(token_id, special) for token_id in ids)
        return (data.removeprefix(b" ") if self._strips else data).decode("utf-8", "replace")

    def stream(self) -> TextStream:
        return ByteStream(self._bytes_of, strips=self._strips)

    def _bytes_of(self, token_id: int) -> bytes:
        known = self._pieces.get(token_id)
        if known is None:
            known = self._pieces[token_id] = self._piece(token_id, special=False)
        return known

    def _piece(self, token_id: int, special: bool) -> bytes:
        vocabulary, size = self._vocabulary, PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = vocabulary.lib.llama_token_to_piece(
                vocabulary.handle, token_id, buffer, size, 0, special
            )
            if count >= 0:
                return buffer.raw[:count]
            size = -count
