"""The sums behind the metrics: numpy's and those of compiled code, for every kind of vector that this processor has."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import edge.reductions
import numpy as np
import pytest
from edge.reductions import (
    SOURCE,
    TARGETS,
    Code,
    Kernel,
    Scratch,
    kernel,
    numpy_row_sums,
    numpy_stream_sums,
    row_sums,
    stream_sums,
    target,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.artifact import ModelSpec
from edge.backends.base import Taps
from edge.compiled import compiled
from edge.device import simd
from edge.signal_reader import SignalReader

HERE = set(simd(Path("/proc/cpuinfo").read_text()))
OPTIONS = [(), *(options for needs, options in TARGETS if needs <= HERE)]


def implementations():
    """Name -> (row sums, stream sums)."""
    made = {"numpy": (numpy_row_sums, numpy_stream_sums)}
    for options in OPTIONS:
        library, problem = compiled(SOURCE, ("-ffp-contract=fast", *options))
        assert not problem
        code = Code(library)
        made[" ".join(options) or "baseline"] = (code.row_sums, lambda now, before, _, code=code: code.stream_sums(now, before))
    return made


WAYS = implementations()
each_way = pytest.mark.parametrize("way", WAYS)


def true_row_sums(rows):
    """In float64, with 0 ln 0 = 0."""
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=1)
    by_head, of_mean = (np.where(x > 0, x * np.log(np.where(x > 0, x, 1.0)), 0.0).sum(axis=-1) for x in (rows, mean))
    return by_head, of_mean, rows[:, :, 0]


def true_stream_sums(now, before):
    now, before = now.astype(np.float64), before.astype(np.float64)
    change, since = now[1:] - now[:-1], now - before
    pairs = [(now, now), (change, change), (now[1:], now[:-1]), (since, since), (now, before), (before, before)]
    return [(a * b).sum(axis=-1) for a, b in pairs], [(abs(a) * abs(b)).sum(axis=-1) for a, b in pairs]


@st.composite
def weights(draw):
    """Rows that sum to one, some weights zero, in an array that has room for more keys."""
    layers, heads, keys = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 70))
    logits = draw(hnp.arrays(np.float64, (layers, heads, keys), elements=st.floats(-120, 120)))
    made = np.exp(logits - logits.max(axis=2, keepdims=True))
    room = np.full((layers, heads, keys + draw(st.integers(0, 3))), np.nan, np.float32)
    room[:, :, :keys] = made / made.sum(axis=2, keepdims=True)
    return room[:, :, :keys]


pairs = hnp.arrays(
    np.float32, st.tuples(st.just(2), st.integers(1, 4), st.integers(1, 40)), elements=st.floats(-1e3, 1e3, width=32)
)


@each_way
@given(rows=weights())
def test_row_sums_equal_the_true_ones(way, rows):
    for made, true in zip(WAYS[way][0](rows, Scratch()), true_row_sums(rows), strict=True):
        np.testing.assert_allclose(made, true, rtol=1e-5, atol=3e-7)


@each_way
@pytest.mark.parametrize("shape", [(16, 32, 1024), (26, 4, 4095), (2, 9, 32769)])
def test_row_sums_keep_five_digits_at_real_sizes(way, shape):
    """METRICS asks for four."""
    rows = np.random.default_rng(1).gamma(0.1, size=shape).astype(np.float32)
    rows /= rows.sum(axis=2, keepdims=True)
    for made, true in zip(WAYS[way][0](rows, Scratch()), true_row_sums(rows), strict=True):
        np.testing.assert_allclose(made, true, rtol=1e-5)


@each_way
def test_every_size_of_weight_has_its_logarithm(way):
    """One key a row: the sum is p ln p. From 1e-30 to 4, also on both sides of every power of two; below, it is next to 0."""
    powers = 2.0 ** np.arange(-100, 3)
    p = np.concatenate([powers, powers * 0.70710677, powers * 0.7071068, powers * (1 - 2**-24), np.geomspace(1e-30, 1, 20_000)])
    rows = p.astype(np.float32).reshape(-1, 1, 1)
    rows = rows[rows[:, 0, 0] > 1e-30]
    exact = rows[:, 0, 0].astype(np.float64)
    made = WAYS[way][0](rows, Scratch()).by_head[:, 0]
    near = np.abs(np.log(exact))
    assert (np.abs(made - exact * np.log(exact)) <= 3e-7 * exact * np.maximum(near, 2e-1)).all()
    tiny = np.asarray([0.0, 1e-45, 1e-40, 1e-37, 1e-30], np.float32).reshape(-1, 1, 1)
    assert (np.abs(WAYS[way][0](tiny, Scratch()).by_head) < 1e-28).all()
    certain = WAYS[way][0](np.ones((1, 2, 1), np.float32), Scratch())
    assert not certain.by_head.any() and not certain.of_mean.any()


@each_way
def test_a_weight_that_is_not_a_number_is_not_hidden(way):
    rows = np.full((1, 2, 40), 1 / 40, np.float32)
    rows[0, 1, 33] = np.nan
    sums = WAYS[way][0](rows, Scratch())
    assert np.isfinite(sums.by_head).tolist() == [[True, False]]
    assert np.isnan(sums.of_mean[0])


@each_way
@given(
    pair=hnp.arrays(
        np.float32, st.tuples(st.just(2), st.integers(1, 4), st.integers(1, 40)), elements=st.floats(-1e3, 1e3, width=32)
    )
)
def test_stream_sums_equal_the_true_ones(way, pair):
    now, before = pair
    true, size = true_stream_sums(now, before)
    for made, exact, magnitude in zip(WAYS[way][1](now, before, Scratch()), true, size, strict=True):
        assert (np.abs(made - exact) <= 1e-5 * magnitude + 1e-30).all()


@each_way
def test_streams_without_a_position_before_have_three_sums(way):
    now = np.random.default_rng(2).normal(size=(5, 33)).astype(np.float32)
    alone, paired = (WAYS[way][1](now, before, Scratch()) for before in (None, now))
    assert alone[3:] == (None, None, None)
    for a, b in zip(alone[:3], paired[:3], strict=True):
        assert np.array_equal(a, b)
    assert not paired.token_change.any()


def test_arrays_that_compiled_code_cannot_read_go_through_numpy():
    random = np.random.default_rng(3)
    assert kernel().code
    rows = random.random((2, 3, 20))
    for odd in (rows, rows.astype(np.float32).transpose(0, 2, 1), rows.astype(np.float32)[:, :, ::-2]):
        for made, meant in zip(row_sums(odd, Scratch()), numpy_row_sums(odd, Scratch()), strict=True):
            assert np.array_equal(made, meant)
    streams = random.normal(size=(2, 8, 12)).astype(np.float32)
    for now, before in ((streams[0, :, ::2], streams[1, :, ::2]), (streams[0, ::2], None)):
        for made, meant in zip(stream_sums(now, before, Scratch()), numpy_stream_sums(now, before, Scratch()), strict=True):
            assert np.array_equal(made, meant)


def test_a_step_has_the_same_signals_with_and_without_a_compiler(monkeypatch):
    spec = ModelSpec("llama", 3, 48, 4, 2, 8, 50, 64, (0, 0, 0), (1,))
    random = np.random.default_rng(4)
    rows = random.gamma(0.2, size=(3, 4, 37)).astype(np.float32)
    rows /= rows.sum(axis=2, keepdims=True)
    streams = random.normal(size=(2, 4, 48)).astype(np.float32)
    logits = random.normal(size=50).astype(np.float32)

    def read():
        reader = SignalReader(spec)
        reader.read(Taps(35, logits, rows, streams[0]))
        return reader.read(Taps(36, logits, rows, streams[1]))

    assert kernel().code
    fast = read()
    monkeypatch.setattr(edge.reductions, "kernel", lambda: Kernel(None, "switched off by the test"))
    slow = read()
    for ours, theirs in ((fast.attention, slow.attention), (fast.hidden, slow.hidden)):
        for name in ours._fields:
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-6, err_msg=name)


def test_code_with_other_sums_is_not_used(tmp_path, monkeypatch):
    """A compiler that gets the logarithm wrong: its work runs, and numpy is taken instead."""
    fake = tmp_path / "bin" / "cc"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!{shutil.which("python3")}
import pathlib, subprocess, sys
wrong = pathlib.Path({str(tmp_path / "wrong.c")!r})
wrong.write_text(pathlib.Path(sys.argv[-1]).read_text().replace("0.693147180560f", "0.6931f"))
sys.exit(subprocess.call([{shutil.which("cc")!r}, *sys.argv[1:-1], str(wrong)]))
"""
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for cached in (compiled, kernel):
        cached.cache_clear()
    try:
        assert kernel() == (None, "what the compiler made gives other sums than numpy")
        assert list((tmp_path / "cache" / "edgetrace").glob("reductions-*.so"))
        rows = np.full((1, 1, 4), 0.25, np.float32)
        assert row_sums(rows, Scratch()).by_head[0, 0] == pytest.approx(-np.log(4))
    finally:
        for cached in (compiled, kernel):
            cached.cache_clear()


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "options"),
    [
        ("x86_64", "flags\t: fpu sse2 avx2 fma avx512f", ("-mavx512f", "-mfma")),
        ("x86_64", "flags\t: fpu sse2 avx2 fma", ("-mavx2", "-mfma")),
        ("x86_64", "flags\t: fpu sse2 avx", ()),
        ("x86_64", "", ()),
        ("aarch64", "Features\t: fp asimd", ()),
        ("aarch64", "flags\t: avx2 fma", ()),
    ],
)
def test_code_is_made_for_the_vectors_that_the_processor_lists(machine, cpuinfo, options, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert target(cpuinfo) == options
