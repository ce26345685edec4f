"""llama.cpp's own chat templates, which a GGUF file may name instead of having one."""

from __future__ import annotations

import ctypes
from typing import NamedTuple

from edge.backends.llama_library import llama_cpp
from edge.errors import UserError

PROBE = "Why does 4179 come before 60253?"
LONGEST_NAME = 40
BUFFER_BYTES = 1 << 16


class BuiltinTemplate(NamedTuple):
    """Text before and behind a question; `trims` says that white space around the question is removed."""

    pieces: tuple[str, str]
    trims: bool


def builtin_names() -> list[str]:
    """Names of llama.cpp's own templates."""
    lib = llama_cpp()
    count = lib.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * count)()
    lib.llama_chat_builtin_templates(names, count)
    return [name.decode() for name in names if name]


def is_name(source: str) -> bool:
    """Whether a chat template is only a word, which could name one."""
    word = source.strip()
    return 0 < len(word) <= LONGEST_NAME and word.isascii() and not set(word) & set("{}%<> \n")


def builtin_template(name: str) -> BuiltinTemplate:
    """The template of this name; raises UserError when llama.cpp has none."""
    if name not in builtin_names():
        raise UserError(
            f"the chat template is the name {name!r} and llama.cpp has none of that name: use --prompt raw "
            "or qa, or put the model's own template there"
        )
    text, spaced = apply(name, PROBE), apply(name, f" {PROBE} ")
    if text.count(PROBE) != 1:
        raise UserError(
            f"llama.cpp's chat template {name!r} leaves the question out: use --prompt raw or qa"
        )
    before, behind = text.split(PROBE)
    return BuiltinTemplate((before, behind), trims=f" {PROBE} " not in spaced)


def apply(name: str, question: str) -> str:
    """The text of one question, ready for an answer."""
    lib = llama_cpp()
    message = lib.llama_chat_message(role=b"user", content=question.encode())
    buffer = ctypes.create_string_buffer(BUFFER_BYTES)
    size = lib.llama_chat_apply_template(name.encode(), ctypes.byref(message), 1, True, buffer, BUFFER_BYTES)
    return buffer.raw[: max(0, min(size, BUFFER_BYTES))].decode("utf-8", "replace")
