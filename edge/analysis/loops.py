"""Loops: answers that end in repeating themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

GRAM = 8  # tokens
LAST = 5  # one part in so many of the answer is its end
HALF = 0.5


def repeated_share(tokens: Sequence[int]) -> float:
    """Share of the 8-grams that end in the last fifth of the answer and occur earlier in it, too.

    `tokens` are the ids of one answer. The last fifth has its rows rounded up, as an answer's late part has.
    A period that is longer than the fifth is found, since the earlier 8-gram may lie anywhere. NaN for fewer
    than 8 tokens.
    """
    n = len(tokens)
    if n < GRAM:
        return math.nan
    first_end = max(n - math.ceil(n / LAST), GRAM - 1)  # row on which the first of them ends
    seen: set[tuple[int, ...]] = set()
    repeated = 0
    for end in range(GRAM - 1, n):
        gram = tuple(tokens[end - GRAM + 1 : end + 1])
        repeated += end >= first_end and gram in seen
        seen.add(gram)
    return repeated / (n - first_end)


def loops(tokens: Sequence[int]) -> bool:
    """Whether an answer loops: more than half of the 8-grams that end in its last fifth came before.

    False for fewer than 8 tokens.
    """
    return repeated_share(tokens) > HALF
