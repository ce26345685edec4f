"""Loops: answers that end in repeating themselves."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.analysis.loops import loops, repeated_share
from tests import reference

SENTENCE = list(range(100, 130))  # 30 tokens, no two alike


@given(st.lists(st.integers(0, 2), max_size=60))
def test_the_share_is_that_of_the_slow_twin(tokens):
    assert repeated_share(tokens) == pytest.approx(reference.repeated_share(tokens), nan_ok=True)


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_what_repeats_itself_to_the_end_loops(start, period):
    """Whatever stood before: three fifths of the answer and more are the period."""
    repeats = math.ceil((2 * len(start) + 8 + 4 * len(period)) / len(period))
    assert loops(start + period * repeats)


def test_by_hand():
    # 40 tokens: the last fifth is rows 32 to 39, on each of which one 8-gram ends.
    assert repeated_share(range(40)) == 0.0
    # Rows 30 to 39 repeat rows 0 to 9: the 8-grams ending on rows 37, 38 and 39 came before.
    assert repeated_share([*SENTENCE, *SENTENCE[:10]]) == 3 / 8
    # Half of them is no loop, more than half is one.
    assert repeated_share([*SENTENCE[:29], *SENTENCE[:11]]) == 4 / 8
    assert not loops([*SENTENCE[:29], *SENTENCE[:11]])
    assert loops([*SENTENCE[:28], *SENTENCE[:12]])


def test_a_period_longer_than_the_last_fifth_is_found():
    assert loops(SENTENCE * 2)
    assert loops([7, *SENTENCE, *SENTENCE])


def test_short_answers_do_not_loop():
    assert math.isnan(repeated_share([1] * 7))
    assert not loops([1] * 7)
    assert not loops([])
    assert not loops([1] * 9)  # one of two
    assert loops([1] * 10)
    assert repeated_share([1] * 8) == 0.0  # its only 8-gram is the first


def test_a_loop_that_ended_long_ago_is_none():
    assert not loops([*SENTENCE, *SENTENCE, *range(200, 300)])
