"""Intervals: the studentised bootstrap, Student's t for few answers, shares, and how often they hold the
truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.coverage import COUNTS, POPULATIONS, mean_coverage, share_coverage, weighted_coverage
from edge.analysis.intervals import (
    ENOUGH,
    STUDENT,
    bootstrap,
    bootstrap_columns,
    bootstrap_each,
    resampled,
    share,
    share_change,
)
from edge.analysis.paper_rows import profile_sd
from tests import reference

NAMED = {population.name: population for population in POPULATIONS}


@pytest.mark.parametrize("name", ["normal", "exponential"])
@pytest.mark.parametrize("count", [count for count in COUNTS if count >= ENOUGH])
def test_intervals_of_means_hold_the_truth_as_often_as_they_say(name: str, count: int) -> None:
    """1,500 seeded samples: the binomial SD is 0.006."""
    ours, percentile = mean_coverage(NAMED[name], count, 1500)
    assert 0.93 <= ours <= 0.97
    if count == ENOUGH:
        assert percentile < 0.92  # so that the samples are of the kind that the old intervals failed on


@pytest.mark.parametrize("count", [2, 5, 9])
def test_few_normal_answers_are_covered_by_students_t(count: int) -> None:
    assert 0.93 <= mean_coverage(NAMED["normal"], count, 1500)[0] <= 0.97


def test_weighted_means_are_covered() -> None:
    assert 0.92 <= weighted_coverage(20, 800) <= 0.975


def test_shares_are_covered() -> None:
    coverage = [share_coverage(p, count) for p in (0.1, 0.3, 0.5, 0.9) for count in (10, 20, 50, 200)]
    assert min(coverage) >= 0.90 and 0.94 <= np.mean(coverage) <= 0.97  # discrete: it swings around 0.95


# Each draw is made anew, one number at a time.


@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_is_that_of_resamples_made_one_by_one(weighted: bool) -> None:
    rng = np.random.default_rng(5)
    x = rng.exponential(size=12)
    w = rng.integers(1, 90, 12).astype(float) if weighted else np.ones(12)
    found = bootstrap(x, w if weighted else None)
    low, high = reference.studentised(x.tolist(), w.tolist(), resampled(12).astype(int).tolist())
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.value == pytest.approx(np.average(x, weights=w)) and not found.few
    assert found.high - found.value > found.value - found.low  # a tail to the right: further up than down


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30),
    st.floats(0.1, 10.0),
    st.floats(-100.0, 100.0),
)
def test_an_interval_moves_and_grows_with_its_values(xs: list[float], scale: float, place: float) -> None:
    found, moved = bootstrap(xs), bootstrap(scale * np.array(xs) + place)
    size = max(map(abs, (*xs, 1.0))) * scale + abs(place)
    assert moved[:3] == pytest.approx([scale * bound + place for bound in found[:3]], abs=1e-6 * size)
    assert found.low <= found.high


def test_equal_weights_change_nothing() -> None:
    x = np.random.default_rng(6).lognormal(size=25)
    assert bootstrap(x, np.full(25, 7.0))[:3] == pytest.approx(bootstrap(x)[:3], rel=1e-9)


def test_few_answers_get_students_t_and_a_mark() -> None:
    for count in range(2, ENOUGH):
        assert pytest.approx(scipy.stats.t.ppf(0.975, count - 1), abs=1e-4) == STUDENT[count - 2]
    x = [1.0, 2.0, 4.0, 8.0]
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(x), scipy.stats.sem(x))
    assert bootstrap(x) == pytest.approx((3.75, low, high, True), rel=1e-4)
    assert [bootstrap(np.arange(n)).few for n in (1, 9, 10)] == [True, True, False]


def test_undefined_answers_do_not_count_and_one_has_no_interval() -> None:
    assert bootstrap([1.0, math.nan, 3.0]).value == 2.0
    alone = bootstrap([4.0])
    assert (alone.value, alone.few) == (4.0, True) and math.isnan(alone.low)
    assert math.isnan(bootstrap([math.nan]).value) and math.isnan(bootstrap([]).value)
    assert bootstrap([1.0, 2.0, 9.0], [2, 2, 0]).value == 1.5  # an answer without a token has no weight


@pytest.mark.parametrize("count", [2, 9, 10, 11, 300])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e9 / 3, 1e-300])
def test_equal_values_have_an_interval_without_width(count: int, value: float) -> None:
    assert bootstrap(np.full(count, value))[:3] == (value, value, value)
    assert bootstrap(np.full(count, value), np.arange(1, count + 1))[:3] == (value, value, value)


@pytest.mark.parametrize("noise", [0.0, 1e-12, 1e-6, 1e-3])
@pytest.mark.parametrize("count", [10, 30])
def test_resamples_without_a_variance_do_not_make_an_interval_endless(noise: float, count: int) -> None:
    """All answers but one are (nearly) equal, so that a third of the resamples has (nearly) no variance."""
    x = 1.0 + noise * np.random.default_rng(7).normal(size=count)
    x[3] = 0.3
    found = bootstrap(x)
    error = float(np.std(x)) / math.sqrt(count)
    assert 1.0 < (found.value - found.low) / error < 6.0 and 0.5 < (found.high - found.value) / error < 6.0


def test_columns_are_what_each_is_alone_whatever_is_undefined_in_others() -> None:
    table = np.random.default_rng(8).normal(size=(40, 6))
    table[:35, 1], table[::3, 2], table[:, 3], table[1:, 4], table[:, 5] = *[math.nan] * 4, 2.5
    for column, found in zip(table.T, bootstrap_each(table), strict=True):
        assert found == pytest.approx(bootstrap(column), rel=1e-9, nan_ok=True)
    assert [found.few for found in bootstrap_each(table)] == [False, True, False, False, True, False]
    assert all(math.isnan(found.value) for found in bootstrap_each(np.empty((0, 3))))
    whole = bootstrap_columns(table[:, [0, 2]])
    assert whole.mean == pytest.approx(table[~np.isnan(table[:, 2])][:, [0, 2]].mean(axis=0))


def test_a_share_has_a_width_where_all_are_alike() -> None:
    for ones, count in ((20, 20), (0, 20), (3, 7), (150, 200)):
        wilson = scipy.stats.binomtest(ones, count).proportion_ci(method="wilson")
        found = share([1.0] * ones + [0.0] * (count - ones))
        assert found == pytest.approx((ones / count, wilson.low, wilson.high, count < ENOUGH), abs=1e-6)
    assert share([True, False, math.nan]).value == 0.5
    assert math.isnan(share([1.0]).low) and math.isnan(share([]).value)


def test_a_paired_change_of_shares_by_hand() -> None:
    before, after = np.array([1.0] * 8 + [0.0] * 12), np.array([1.0] * 2 + [0.0] * 17 + [1.0])
    found = share_change(before, after)  # six fell, one rose
    middle, error = -5 / 22, math.sqrt((2 / 22 + 7 / 22 - (5 / 22) ** 2) / 22)
    assert found == pytest.approx((-5 / 20, middle - 1.96 * error, middle + 1.96 * error, False), abs=1e-5)
    unchanged = share_change(before, before)
    assert unchanged.value == 0.0 and unchanged.low < 0.0 < unchanged.high


def test_the_sd_over_layers_has_an_interval_around_it() -> None:
    rng, profile = np.random.default_rng(9), np.array([1.0, 2.0, 4.0])
    hits = 0
    for _ in range(300):
        found = profile_sd(profile + rng.normal(0, 0.5, (20, 3)), np.ones(20))
        hits += found.low <= profile.std() <= found.high
    assert 0.90 <= hits / 300 <= 0.985
    layers, weights = profile + rng.normal(0, 0.5, (20, 3)), rng.integers(1, 50, 20).astype(float)
    assert profile_sd(layers, weights).value == pytest.approx(
        np.average(layers, axis=0, weights=weights).std()
    )
    assert math.isnan(profile_sd(np.ones((20, 1)), np.ones(20)).low)  # one layer has no spread
