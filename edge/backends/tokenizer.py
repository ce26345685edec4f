"""Text to token ids and back: tokenizer.json where there is one, else the tokenizer inside a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import tokenizers

from edge.artifact import TOKENIZER_NAME, Artifact
from edge.backends.llama_vocabulary import LlamaTokenizer
from edge.errors import UserError


class Tokenizer(Protocol):
    """The part of a tokenizer that prompts and answers need."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids; special tokens in the text count. With `special`, the tokenizer adds its own as well."""

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """Text of the ids, with or without special tokens; bytes that are no character are U+FFFD."""


class JsonTokenizer:
    """A tokenizer.json, as transformers reads it. Raises UserError when it is damaged.

    `split` encodes special tokens in a text as text (split_special_tokens).
    """

    def __init__(self, path: Path, *, split: bool = False) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path} cannot be read ({error}): build the artifact again") from error
        # A tokenizer.json may carry the length limits of its training; transformers drops them at every call
        # too.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = split

    def encode(self, text: str, *, special: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))

    def vocabulary(self) -> dict[str, int]:
        """Every token as the file spells it -> id."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """The artifact's tokenizer; raises UserError when it is missing or damaged."""
    if TOKENIZER_NAME in artifact.manifest.files:
        rules = artifact.manifest.tokenizer_rules
        return JsonTokenizer(
            artifact.path / TOKENIZER_NAME, split=rules is not None and rules.split_special_tokens
        )
    return LlamaTokenizer(artifact.weights)
