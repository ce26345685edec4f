"""A stack for llama.cpp's tokenizer, which takes some for each character of a text."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from edge.errors import UserError

# The library splits text with std::regex for some pre-tokenizers, which calls itself for each character:
# 420 bytes of stack each at most (docs/llama-cpp.md), and the process dies where the stack ends.
STACK_BYTES, STACK_BYTES_EACH = 1 << 20, 1024
SHORT_TEXT = 512  # characters that fit any thread's stack
LONGEST_TEXT = 400_000  # characters

T = TypeVar("T")

STACKS = threading.Lock()  # the size of new threads' stacks is one for the whole process


def with_stack(characters: int, call: Callable[[], T]) -> T:
    """Calls in a thread whose stack has room for a text of so many characters.

    The stack is address space: memory is taken only where it is used. Raises UserError where the system
    gives none.
    """
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    size = STACK_BYTES + STACK_BYTES_EACH * -(-characters // 4) * 4  # whole pages
    try:
        with STACKS:
            usual = threading.stack_size(size)
            try:
                thread.start()
            finally:
                threading.stack_size(usual)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"a text of {characters} characters needs {size} bytes of stack and there are none ({error}): "
            "ask something shorter"
        ) from error
    thread.join()
    return results[0]
