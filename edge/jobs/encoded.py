"""Questions and their choices as token ids, for scoring."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import NamedTuple

from edge.errors import UserError
from edge.jobs.multiple_choice import choices
from edge.questions.prompt import Prompter
from edge.questions.question import Question


class Encoded(NamedTuple):
    """A question's prompt and, by text, the tokens of each choice that continue it, and a note.

    The note says why the question cannot be scored, or what was done with control tokens in its texts.
    """

    prompt: tuple[int, ...]
    continuations: dict[str, tuple[int, ...]]
    note: str = ""

    @property
    def refused(self) -> bool:
        """Whether the question cannot be scored; the note says why."""
        return not self.continuations

    @property
    def positions(self) -> int:
        """Positions of the cache that scoring fills: a choice's last token is never fed."""
        return len(self.prompt) + max(map(len, self.continuations.values())) - 1


def encode(prompter: Prompter, question: Question) -> Encoded:
    """Tokenises TruthfulQA's preset followed by " " and each choice, cut where lm-evaluation-harness cuts.

    Prompt and choice are tokenised as one text. The choice is what follows as many tokens as the prompt
    alone has. Raises UserError for a question or a choice that has no tokens or cannot be encoded.
    """
    prompt = prompter.prompt(question.question)
    continuations, notes = {}, [prompt.note]
    for text in dict.fromkeys(choice.text for choice in choices(question)):
        whole, note = prompter.continued(question.question, f" {text}")
        if len(whole) <= len(prompt.ids):
            raise UserError(
                f"the answer {text[:40]!r} has no tokens of its own: write it out in the questions"
            )
        continuations[text] = tuple(whole[len(prompt.ids) :])
        notes.append(note)
    return Encoded(prompt.ids, continuations, next(filter(None, notes), ""))


def encode_or_note(prompter: Prompter, question: Question, context: int) -> Encoded:
    """As `encode`; for a question that cannot be scored in this context an Encoded that says why."""
    try:
        encoded = encode(prompter, question)
        if encoded.positions > context:
            raise UserError(
                f"the question {question.question[:40]!r} takes {encoded.positions} positions, more than "
                f"the {context} the artifact was built for: build it with a larger --context"
            )
        return encoded
    except UserError as error:
        return Encoded((), {}, str(error))


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Number of first tokens that all prompts share, at most all but two of the shortest prompt.

    A pass over a single token rounds quantised activations in another way (edge/backends/onnx.py). With one
    left, the question's bits would depend on the other questions.
    """
    first, last = min(prompts), max(prompts)  # all prompts between them begin with the same tokens
    alike: int = sum(itertools.takewhile(bool, map(operator.eq, first, last)))
    return max(0, min(alike, min(map(len, prompts)) - 2))
