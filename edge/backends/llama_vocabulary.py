"""The vocabulary inside a GGUF file: its own tokenizer and special tokens, without the weights."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.backends.llama_library import captured_log, llama_cpp, version
from edge.errors import UserError

PIECE_BYTES = 256


class Vocabulary:
    """A model opened for its vocabulary alone; raises UserError when llama.cpp refuses the file."""

    def __init__(self, path: Path) -> None:
        self.lib = lib = llama_cpp()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        with captured_log() as log:
            self._model = lib.llama_model_load_from_file(str(path).encode(), params)
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
        text = self.lib.llama_vocab_get_text(self.handle, token_id) if 0 <= token_id < self.size else None
        return text.decode("utf-8", "replace") if text else ""

    def special_tokens(self) -> dict[str, str]:
        """The special tokens that a chat template may ask for, by role."""
        lib, roles = self.lib, {"bos_token": "bos", "eos_token": "eos", "pad_token": "pad"}
        tokens = {
            role: self.text(getattr(lib, f"llama_vocab_{short}")(self.handle))
            for role, short in roles.items()
        }
        return {role: text for role, text in tokens.items() if text}

    def stop_ids(self) -> tuple[int, ...]:
        """Every id that llama.cpp takes for the end of an answer."""
        return tuple(i for i in range(self.size) if self.lib.llama_vocab_is_eog(self.handle, i))


class LlamaTokenizer:
    """llama.cpp's own tokenizer of a GGUF file; see `edge.backends.tokenizer.Tokenizer`.

    Raises UserError for a file without one.
    """

    def __init__(self, path: Path) -> None:
        self._vocabulary = Vocabulary(path)
        if not self._vocabulary.present:
            raise UserError(f"{path} holds no tokenizer: put the model's tokenizer.json beside it")

    def encode(self, text: str, *, special: bool) -> list[int]:
        raw = text.encode()
        size = len(raw) + 8  # never more tokens than bytes, and those put around
        buffer = (ctypes.c_int32 * size)()
        vocabulary = self._vocabulary
        count = vocabulary.lib.llama_tokenize(vocabulary.handle, raw, len(raw), buffer, size, special, True)
        if count < 0:
            raise UserError(f"the text {text[:40]!r} cannot be tokenised: ask something shorter")
        return buffer[:count]

    def decode(self, ids: Sequence[int], *, special: bool) -> str:
        return b"".join(self._piece(token_id, special) for token_id in ids).decode("utf-8", "replace")

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
