"""The first steps of a program: this module imports nearly nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

# Ctrl-C, `kill`, and the end of the terminal or connection.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending_quietly() -> Iterator[None]:
    """Encloses imports before the work, in which a signal ends the process at once and without a word.

    An exception would not do: modules swallow it, or make another of it. What is ignored stays ignored.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
