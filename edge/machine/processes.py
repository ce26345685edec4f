"""Processes that a command starts: they end with it, and Ctrl-C is left to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

from edge.machine.early import SIGNALS

GONE = 1  # exit code of a process whose parent has ended


@contextmanager
def starting() -> Iterator[None]:
    """Encloses the start of processes, which get no SIGINT from then on; here signals wait until the end.

    Ctrl-C at a terminal reaches a whole group of processes. The one that started the others ends them.
    Outside the main thread, which alone handles signals, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # The mask is for the children, which inherit it. It does not cover the threads of libraries: a signal
    # that one of them takes reaches Python's handler here.
    for number, handler in handlers.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, lambda came, frame: received.append(came))
    resource_tracker.ensure_running()  # it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            if handler is not None:  # else it was not set from Python and stands
                signal.signal(number, handler)
        if received:
            os.kill(os.getpid(), received[0])


@contextmanager
def ending() -> Iterator[None]:
    """Kills the processes that were started inside, where an exception leaves it."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.kill()
        raise


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(GONE)

    threading.Thread(target=wait, daemon=True).start()
