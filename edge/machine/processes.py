"""Processes that a command starts: they end with it, and Ctrl-C is left to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

GONE = 1  # exit code of a process whose parent has ended


@contextmanager
def starting() -> Iterator[None]:
    """Encloses the start of processes, which get no SIGINT from then on; here it waits until the end.

    Ctrl-C at a terminal reaches a whole group of processes. The one that started the others ends them.
    """
    resource_tracker.ensure_running()  # it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
