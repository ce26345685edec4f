"""Stopping a job by a signal, so that what it finished is written first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from edge.machine.early import SIGNALS


class Interrupted(Exception):
    """Raised after one of SIGNALS; finished work is on disk. `code` is 128 + the signal's number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"interrupted by signal {code - 128}")
        self.code = code


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], None]]:
    """Gives a function that raises Interrupted after one of SIGNALS, to be called between two tokens.

    A second signal raises Interrupted between two chunks of a long prompt, which can take a minute to read
    on a small board.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            check()

    def check() -> None:
        if received:
            raise Interrupted(128 + received[0])

    # Python delivers signals to the main thread only; a job in another thread leaves them to its program.
    in_main_thread = threading.current_thread() is threading.main_thread()
    hangup = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN  # nohup ignores it
    numbers = [number for number in SIGNALS if hangup or number != signal.SIGHUP] if in_main_thread else []
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
