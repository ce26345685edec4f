"""Messages to the user: an error that ends a command, or a note while it continues."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

OnNote = Callable[[str], None]  # takes a sentence for the user; the job continues


class UserError(Exception):
    """Bad input. The message is one sentence that says what is wrong, where, and how to mend it.

    Commands print it and exit with 2.
    """


class NotFetched(UserError):
    """A model cannot be fetched here: nobody answers who has it. Commands exit with 3."""


class Note(UserWarning):
    """A note of code that is far from any `on_note`: commands print it, Python's `warnings` governs it."""


class NotFinite(UserError):
    """A model's logits are no numbers. `asking` names the question."""


@contextlib.contextmanager
def asking(question: int) -> Iterator[None]:
    """Names the question in the error of a pass whose logits are not finite."""
    try:
        yield
    except NotFinite as error:
        raise NotFinite(f"at question {question} {error}") from error


def ignore(*arguments: object) -> None:
    """Does nothing: the callback of callers that want no notes and no progress."""
