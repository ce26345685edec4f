"""What `edge run` and `edge score` say of questions that are refused or have control tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edge.errors import OnNote
from edge.runs.provenance import RunSettings, ScoreSettings


class Asked(Protocol):
    """A question as token ids, with a note on what was done, or on why it is refused."""

    @property
    def note(self) -> str: ...
    @property
    def refused(self) -> bool: ...


def tell_questions(questions: Sequence[Asked], done: str, on_note: OnNote) -> None:
    """Notes how many questions are refused, and why the first, and how many have control tokens.

    `done` is the verb for a question, such as "asked".
    """
    refused = [question.note for question in questions if question.refused]
    noted = [question.note for question in questions if question.note and not question.refused]
    if refused:
        on_note(f"{len(refused)} of {len(questions)} questions cannot be {done}, the first: {refused[0]}")
    if noted:
        on_note(f"{len(noted)} of {len(questions)} questions: {noted[0]} (see --control-tokens)")


def parsed_of(before: RunSettings | ScoreSettings | None, control_tokens: bool) -> bool | None:
    """Whether control tokens are parsed; None, which parses them, where `before` says nothing.

    `before` are those of the directory that the job goes on with, None for a new one. 0.2 parsed control
    tokens. In a later job that says nothing no question has any.
    """
    return None if before is not None and before.control_tokens is None else control_tokens
