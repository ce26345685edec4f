"""What a user is told: an error that ends a command, or a note beside which it goes on."""

from __future__ import annotations

from collections.abc import Callable

OnNote = Callable[[str], None]  # takes a sentence that the user should know although the job goes on


class UserError(Exception):
    """Bad input. The message is one sentence: what is wrong, where, and what mends it. Commands print it and
    exit with 2."""


def ignore(*said: object) -> None:
    """A callback for callers that want no notes and no progress."""
