"""Comparison of two runs that decode each by itself: which answers are the same, and where others part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.intervals import Interval, bootstrap, share
from edge.runs.run_directory import Run


class FirstDivergence(NamedTuple):
    """The first differing row `step` of one question's two answers. It holds both tokens' text and the
    probability that each model gave its own token ("" and NaN past an end)."""

    question_index: int
    question: str
    step: int
    full_token: str
    quantised_token: str
    full_probability: float
    quantised_probability: float


@dataclass(frozen=True)
class FreePart:
    """Comparison of the answers of two free-running runs.

    `identical` is the share of answers with the same tokens. `common_prefix` is the share of the full
    answer's tokens before the first difference. `first` lists the answers that differ, in order of question.
    """

    identical: Interval
    common_prefix: Interval
    median_step: float
    first: tuple[FirstDivergence, ...]


class AnswerToken(NamedTuple):
    """One token of an answer, with the probability that the model gave it."""

    token_id: int
    text: str
    probability: float

    @property
    def shown(self) -> str:
        """Its text; the number of a token that adds none, such as the end of an answer."""
        return self.text or (f"<token {self.token_id}>" if self.token_id >= 0 else "")


NO_TOKEN = AnswerToken(-1, "", math.nan)  # past the end of an answer


def free_part(full: Run, quantised: Run, answers: pa.Table) -> FreePart:
    """Compare the tokens of both runs for each question of `answers`."""
    full_answers, quantised_answers = answer_tokens(full), answer_tokens(quantised)
    identical, shares, first = [], [], []
    indices, questions = (answers.column(c).to_pylist() for c in ("question_index", "question"))
    for index, question in zip(indices, questions, strict=True):
        a, b = full_answers.get(index, []), quantised_answers.get(index, [])
        if not a and not b:
            continue  # the question fitted neither context: nothing was answered, so nothing is the same
        step = first_difference([token.token_id for token in a], [token.token_id for token in b])
        identical.append(float(step is None))
        shares.append(1.0 if step is None else step / len(a) if a else math.nan)
        if step is not None:
            one, other = (tokens[step] if step < len(tokens) else NO_TOKEN for tokens in (a, b))
            first.append(
                FirstDivergence(
                    question_index=index,
                    question=question,
                    step=step,
                    full_token=one.shown,
                    quantised_token=other.shown,
                    full_probability=one.probability,
                    quantised_probability=other.probability,
                )
            )
    return FreePart(
        identical=share(identical),
        common_prefix=bootstrap(shares).within(0.0, 1.0),
        median_step=float(np.median([d.step for d in first])) if first else math.nan,
        first=tuple(first),
    )


def answer_tokens(run: Run) -> dict[int, list[AnswerToken]]:
    """The tokens of each answer, by question index."""
    steps = run.steps(["question_index", "step", "token_id", "token", "surprisal"])
    tokens: dict[int, list[AnswerToken]] = {}
    names = ("question_index", "token_id", "token", "surprisal")
    for index, token, text, surprisal in zip(*(steps.column(c).to_pylist() for c in names), strict=True):
        tokens.setdefault(index, []).append(AnswerToken(token, text, math.exp(-surprisal)))
    return tokens


def first_difference(a: list[int], b: list[int]) -> int | None:
    """Index of the first differing element; the shorter length if one is a prefix of the other; None if
    equal."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))
