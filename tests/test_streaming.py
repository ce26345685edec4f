"""edge.signals.streaming: as it comes equals all at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from edge.signals.streaming import AnswerStatistics, Moments, SeriesSummary, pearson, spearman
from tests import reference

values = st.floats(-1e4, 1e4).filter(lambda x: x == 0 or abs(x) > 1e-6)
series = st.lists(values, min_size=1, max_size=60)
NAN = [math.nan] * len(SeriesSummary._fields)


def summary_of(*columns):
    """Summaries of columns fed row by row."""
    statistics = AnswerStatistics(tuple("abcdef"[: len(columns)]))
    for row in zip(*columns, strict=True):
        statistics.add(row)
    return list(statistics.summaries().values())


def assert_same(fast, slow, scale=1.0):
    assert SeriesSummary._fields == reference.Summary._fields
    for name, a, b in zip(fast._fields, fast, slow, strict=True):
        assert a == pytest.approx(b, rel=1e-6, abs=1e-8 * scale, nan_ok=True), name


@given(series)
def test_summary_as_it_comes_equals_the_batch_twin(xs):
    assert_same(summary_of(xs)[0], reference.summary(xs), max(map(abs, xs)) + 1)


@given(series, st.floats(-1e4, 1e4))
def test_an_undefined_first_row_is_left_out(xs, other):
    drift, plain = summary_of([math.nan, *xs], [other, *xs])
    assert_same(drift, reference.summary(xs, first=1, rows=len(xs) + 1), max(map(abs, xs)) + 1)
    assert_same(plain, reference.summary([other, *xs]), max(map(abs, [other, *xs])) + 1)


def test_moments_keep_their_digits_far_from_zero():
    xs = (1e8 + np.random.default_rng(0).normal(0, 1, 1000)).tolist()
    moments = Moments(1)
    for x in xs:
        moments.add([x])
    assert moments.sd[0] == pytest.approx(reference.population_sd(xs), rel=1e-6)
    slope = reference.least_squares_slope([float(t) for t in range(1000)], xs)
    assert moments.slope[0] == pytest.approx(slope, rel=1e-4)


def test_summary_by_hand():
    s = summary_of([0.0, 1.0, 2.0, 3.0, 4.0, 9.0])[0]
    assert (s.mean, s.min, s.max, s.p50) == pytest.approx((19 / 6, 0.0, 9.0, 2.5))
    assert (s.p10, s.p90) == pytest.approx((0.5, 6.5))
    assert s.slope_per_token == pytest.approx(1.5714285714)
    assert s.slope == pytest.approx(6 * 1.5714285714)
    assert s.spearman == pytest.approx(1.0)


def test_windows_by_hand():
    s = summary_of([0.0, 1.0, *[5.0] * 7, 2.0, 3.0])[0]  # 20% of eleven rows, rounded up: three
    assert (s.early, s.late, s.shift) == pytest.approx((2.0, 10 / 3, 4 / 3))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9])
def test_an_answer_too_short_for_two_windows_has_no_shift(n):
    s, drift = (summary_of(xs)[0] for xs in ([float(i) for i in range(n)], [math.nan, *[1.0] * (n - 1)]))
    assert all(math.isnan(value) for value in (s.early, s.late, s.shift, drift.shift))
    assert s.mean == (n - 1) / 2


def test_ten_rows_are_enough_for_a_shift_also_where_the_first_is_undefined():
    drift = summary_of([math.nan, *[float(i) for i in range(9)]])[0]
    assert (drift.early, drift.late, drift.shift) == (0.5, 7.5, 7.0)


@pytest.mark.parametrize(("n", "rows"), [(10, 2), (11, 3), (15, 3), (16, 4), (1000, 200)])
def test_windows_are_a_fifth_rounded_up(n, rows):
    s = summary_of([float(i) for i in range(n)])[0]
    assert s.early == pytest.approx((rows - 1) / 2)
    assert s.late == pytest.approx(n - 1 - (rows - 1) / 2)


def test_one_row_has_no_slope_and_no_correlation():
    s = summary_of([2.5])[0]
    assert (s.mean, s.sd, s.min, s.max, s.p10, s.p50, s.p90) == (2.5, 0, 2.5, 2.5, 2.5, 2.5, 2.5)
    assert math.isnan(s.slope)
    assert math.isnan(s.slope_per_token)
    assert math.isnan(s.spearman)


def test_two_rows_have_a_slope():
    s = summary_of([1.0, 4.0])[0]
    assert (s.slope_per_token, s.slope, s.spearman) == pytest.approx((3.0, 6.0, 1.0))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9 / 3])
@pytest.mark.parametrize("n", [2, 10, 33])
def test_a_constant_series_is_flat_and_correlates_with_nothing(value, n):
    s = summary_of([value] * n)[0]
    assert (s.mean, s.sd, s.slope) == (value, 0.0, 0.0)
    assert math.isnan(s.shift) if n < 10 else s.shift == pytest.approx(0.0, abs=abs(value) * 1e-15)
    assert math.isnan(s.spearman)
    assert math.isnan(pearson(np.full(n, value), np.arange(n, dtype=float)))


def test_nothing_has_no_summary_and_nan_in_the_midst_is_not_hidden():
    assert list(AnswerStatistics(("a",)).summaries()["a"]) == pytest.approx(NAN, nan_ok=True)
    assert list(summary_of([1.0, math.nan, 2.0])[0]) == pytest.approx(NAN, nan_ok=True)
    assert list(summary_of([math.nan, math.nan])[0]) == pytest.approx(NAN, nan_ok=True)
    assert list(summary_of([math.nan])[0]) == pytest.approx(NAN, nan_ok=True)


@given(series)
def test_live_mean_and_slope_are_those_of_the_rows_so_far(xs):
    statistics = AnswerStatistics(("a",))
    for i, x in enumerate(xs):
        statistics.add([x])
        mean, slope = statistics.live("a")
        so_far, scale = xs[: i + 1], max(map(abs, xs)) + 1
        assert mean == pytest.approx(reference.mean(so_far), rel=1e-6, abs=1e-8 * scale)
        expected = reference.least_squares_slope([float(t) for t in range(i + 1)], so_far)
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8 * scale, nan_ok=True)


@given(st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_rank_correlation_with_ties_equals_scipy(xs, random):
    ys = [random.choice([0.0, 1.0, 2.0]) + x for x in xs]
    if len(set(xs)) > 1 and len(set(ys)) > 1:
        expected = scipy.stats.spearmanr(xs, ys).statistic
        assert spearman(np.asarray(xs), np.asarray(ys)) == pytest.approx(expected, abs=1e-12)
    else:
        assert math.isnan(spearman(np.asarray(xs), np.asarray(ys)))
