"""The first step of a program: it imports nearly nothing."""

import os
import signal


def end_quietly() -> None:
    """Ctrl-C ends the process without a word until the guard, whose imports take a while, is there."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
