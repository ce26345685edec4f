"""Messages to the user: an error that ends a command, or a note while it continues."""

from __future__ import annotations

from collections.abc import Callable

OnNote = Callable[[str], None]  # takes a sentence for the user; the job continues


class UserError(Exception):
    """Bad input. The message is one sentence that says what is wrong, where, and how to mend it.

    Commands print it and exit with 2.
    """


class Note(UserWarning):
    """A note of code that is far from any `on_note`: commands print it, Python's `warnings` governs it."""


def ignore(*arguments: object) -> None:
    """Does nothing: the callback of callers that want no notes and no progress."""
