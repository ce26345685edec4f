"""The llama.cpp binding, imported only when a GGUF model is used, with its log kept instead of printed."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from edge.errors import UserError

# Where taps and export are tested: names, structures and constants below may differ elsewhere.
OLDEST, NEWEST = (0, 3, 36), (0, 3, 36)
INSTALL = (
    "install the extra edgetrace[llama], in a clone with 'make setup EXTRAS=export,llama' (a source build)"
)
LEVEL_WARN, LEVEL_ERROR, LEVEL_CONTINUED = 3, 4, 5  # ggml_log_level


class Log:
    """Warnings and errors that the library logged, in whole lines, oldest first."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._open = False  # the last line waits for its continuation

    def add(self, level: int, text: bytes, data: Any) -> None:
        """ggml_log_callback. It must not raise: nothing could catch it."""
        if level == LEVEL_CONTINUED:
            if self._open:
                self.lines[-1] += text.decode("utf-8", "replace")
            return
        self._open = level in (LEVEL_WARN, LEVEL_ERROR)
        if self._open:
            self.lines.append(text.decode("utf-8", "replace"))

    def first(self) -> str:
        """The first line in one piece, at most 200 characters, "" if there is none."""
        lines = (" ".join(line.split()) for line in self.lines)
        return next((line for line in lines if line), "")[:200]


def llama_cpp() -> Any:
    """The low-level module of llama-cpp-python; raises UserError when it cannot be imported."""
    try:
        return importlib.import_module("llama_cpp.llama_cpp")
    except (ImportError, OSError, RuntimeError, FileNotFoundError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"GGUF models need llama-cpp-python ({detail}): {INSTALL}") from error


def version() -> str:
    """The version of the installed binding; raises UserError as `llama_cpp` does."""
    llama_cpp()
    return str(importlib.import_module("llama_cpp").__version__)


def supported(text: str) -> bool:
    """Whether a version lies in the tested range."""
    try:
        numbers = tuple(int(part) for part in text.split(".")[:3])
    except ValueError:
        return False
    return OLDEST <= numbers <= NEWEST


_log_callback: Any = (
    None  # the library keeps the pointer it was given last, so that callback must live as long
)


def set_log(callback: Callable[[int, bytes, Any], None]) -> None:
    """Sends the library's log to `callback` instead of stderr."""
    global _log_callback
    lib = llama_cpp()
    wrapped = lib.llama_log_callback(callback)
    lib.llama_log_set(wrapped, ctypes.c_void_p(0))
    _log_callback = wrapped


@contextlib.contextmanager
def captured_log() -> Iterator[Log]:
    """Keeps the library's log while the block runs; afterwards the library logs nothing."""
    log = Log()
    set_log(log.add)
    try:
        yield log
    finally:
        set_log(lambda level, text, data: None)
