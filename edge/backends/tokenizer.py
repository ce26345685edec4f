"""Text to token ids and back: tokenizer.json where there is one, else the tokenizer inside a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edge.artifact import TOKENIZER_NAME, Artifact
from edge.backends.llama_vocabulary import LlamaTokenizer
from edge.backends.tokenizer_library import TokenizerError, caught, load_tokenizer
from edge.errors import UserError


class Tokenizer(Protocol):
    """The part of a tokenizer that prompts and answers need."""

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids; special tokens in the text count. With `special`, the tokenizer adds its own as well."""

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        """Text of the ids, with or without special tokens; bytes that are no character are U+FFFD."""


class JsonTokenizer:
    """A tokenizer.json, as transformers reads it. Raises UserError when it is damaged."""

    def __init__(self, path: Path) -> None:
        try:
            self._tokenizer = load_tokenizer(path.read_bytes())
        except (OSError, TokenizerError) as error:
            raise UserError(f"{path} cannot be read ({error}): build the artifact again") from error

    def encode(self, text: str, *, special: bool) -> list[int]:
        try:
            with caught():
                return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        except TokenizerError as error:
            raise UserError(
                f"the text {text[:40]!r} cannot be tokenised ({error}): ask something else"
            ) from error

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))

    def vocabulary(self) -> dict[str, int]:
        """Every token as the file spells it -> id."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))


def open_tokenizer(artifact: Artifact) -> Tokenizer:
    """The artifact's tokenizer; raises UserError when it is missing or damaged."""
    if TOKENIZER_NAME in artifact.manifest.files:
        return JsonTokenizer(artifact.path / TOKENIZER_NAME)
    return LlamaTokenizer(artifact.weights)
