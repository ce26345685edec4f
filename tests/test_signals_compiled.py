"""The signals of a step in numpy and by compiled code, for every kind of vector that this processor has,
against float64."""

from __future__ import annotations

import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import edge.signals.reader
from edge.artifact import ModelSpec
from edge.errors import UserError
from edge.machine.device import simd
from edge.machine.native import compiled
from edge.signals.compiled import FLAGS, SOURCE, TARGETS, Code, CompiledCode, compiled_code, target
from edge.signals.definitions import Scratch, attention_signals, hidden_signals, output_signals
from edge.signals.reader import SignalReader
from edge.signals.taps import Taps
from tests import reference

HERE = set(simd(Path("/proc/cpuinfo").read_text()))
OPTIONS = [(), *(options for needs, options in TARGETS if needs <= HERE)]
OUTPUTS = ("output_entropy", "varentropy", "top1_probability", "top1_top2_gap", "log_normaliser")


class Way(NamedTuple):
    """One implementation: functions of logits, of rows, and of streams now and before (None where there are
    none)."""

    output: object
    attention: object
    hidden: object


def numpy_way():
    scratch = Scratch()
    return Way(
        lambda logits: output_signals(logits, scratch),
        lambda rows: attention_signals(rows, scratch),
        lambda now, before: hidden_signals(now, before, scratch),
    )


def compiled_way(options):
    library, problem = compiled(SOURCE, (*FLAGS, *options))
    assert not problem
    code, scratch = Code(library), Scratch()

    def hidden(now, before):
        kept = np.full_like(now, np.nan) if before is None else before.copy()
        made = code.hidden(now, kept, has_before=before is not None)
        assert np.array_equal(kept, now)
        return made

    return Way(code.output, lambda rows: code.attention(rows, scratch), hidden)


WAYS = {"numpy": numpy_way()} | {
    " ".join(options) or "baseline": compiled_way(options) for options in OPTIONS
}
each_way = pytest.mark.parametrize("way", WAYS)


def entropies(rows):
    """In float64 over the last axis, with 0 ln 0 = 0."""
    return -np.where(rows > 0, rows * np.log(np.where(rows > 0, rows, 1.0)), 0.0).sum(axis=-1)


def true_attention(rows):
    rows = rows.astype(np.float64)
    entropy = entropies(rows)
    by_layer = entropy.mean(axis=1)
    return {
        "attention_entropy": entropy,
        "sink_mass": rows[:, :, 0],
        "attention_entropy_layer": by_layer,
        "head_dispersion": entropy.std(axis=1),
        "head_divergence": entropies(rows.mean(axis=1)) - by_layer,
        "attention_renyi2": -np.log((rows**2).sum(axis=2)),
    }


def true_output(logits):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max()
    p = np.exp(shifted)
    normaliser = logits.max() + math.log(p.sum())
    p /= p.sum()
    logs = np.where(p > 0, logits - normaliser, 0.0)
    first, second = np.sort(np.concatenate([p, [0.0]]))[-1:-3:-1]
    entropy = -(p * logs).sum()
    return dict(
        zip(
            OUTPUTS,
            (entropy, (p * (logs + entropy) ** 2).sum(), first, first - second, normaliser),
            strict=True,
        )
    )


@st.composite
def weights(draw):
    """Rows that sum to one, some weights zero, in an array that has room for more keys."""
    layers, heads, keys = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 70))
    logits = draw(hnp.arrays(np.float64, (layers, heads, keys), elements=st.floats(-120, 120)))
    made = np.exp(logits - logits.max(axis=2, keepdims=True))
    room = np.full((layers, heads, keys + draw(st.integers(0, 3))), np.nan, np.float32)
    room[:, :, :keys] = made / made.sum(axis=2, keepdims=True)
    return room[:, :, :keys]


# Attention


@each_way
@given(rows=weights())
def test_attention_signals_equal_the_true_ones(way, rows):
    made = WAYS[way].attention(rows)
    for name, true in true_attention(rows).items():
        np.testing.assert_allclose(getattr(made, name), true, rtol=1e-5, atol=2e-6, err_msg=name)


@each_way
@pytest.mark.parametrize("shape", [(16, 32, 1024), (26, 4, 4095), (2, 9, 32769)])
def test_attention_signals_keep_five_digits_at_real_sizes(way, shape):
    """METRICS asks for four."""
    rows = np.random.default_rng(1).gamma(0.1, size=shape).astype(np.float32)
    rows /= rows.sum(axis=2, keepdims=True)
    made = WAYS[way].attention(rows)
    for name, true in true_attention(rows).items():
        # Entropies are nearly equal here, so that their dispersion has the digits of one of them.
        size = {"head_dispersion": 1e-6 * true_attention(rows)["attention_entropy"].max()}
        np.testing.assert_allclose(
            getattr(made, name), true, rtol=1e-5, atol=size.get(name, 0.0), err_msg=name
        )


@each_way
def test_every_size_of_weight_has_its_logarithm(way):
    """One key a row: the entropy is -p ln p. From 1e-30 to 1 and on both sides of every power of two; below,
    it is next to 0."""
    powers = 2.0 ** np.arange(-99, 1)
    p = np.concatenate(
        [
            powers,
            powers * 0.70710677,
            powers * 0.7071068,
            powers * (1 - 2**-24),
            np.geomspace(1e-30, 1, 20_000),
        ]
    )
    rows = p.astype(np.float32).reshape(-1, 1, 1)
    exact = rows[:, 0, 0].astype(np.float64)
    made = WAYS[way].attention(rows).attention_entropy[:, 0]
    near = np.abs(np.log(exact))
    assert (np.abs(made + exact * np.log(exact)) <= 3e-7 * exact * np.maximum(near, 0.2)).all()
    tiny = np.asarray([0.0, 1e-45, 1e-40, 1e-37, 1e-30], np.float32).reshape(-1, 1, 1)
    assert (np.abs(WAYS[way].attention(tiny).attention_entropy) < 1e-28).all()
    certain = WAYS[way].attention(np.ones((1, 2, 1), np.float32))
    for part in (
        certain.attention_entropy,
        certain.attention_entropy_layer,
        certain.head_dispersion,
        certain.head_divergence,
        certain.attention_renyi2,
    ):
        assert not part.any() and not np.signbit(part).any()


@each_way
def test_a_weight_that_is_not_a_number_is_not_hidden(way):
    rows = np.full((1, 2, 40), 1 / 40, np.float32)
    rows[0, 1, 33] = np.nan
    made = WAYS[way].attention(rows)
    assert np.isfinite(made.attention_entropy).tolist() == [[True, False]]
    assert np.isfinite(made.attention_renyi2).tolist() == [[True, False]]
    assert np.isnan(
        [made.attention_entropy_layer[0], made.head_dispersion[0], made.head_divergence[0]]
    ).all()


# Hidden states

pairs = hnp.arrays(
    np.float32,
    st.tuples(st.just(2), st.integers(2, 4), st.integers(1, 40)),
    elements=st.floats(-1e3, 1e3, width=32),
)


@each_way
@given(pair=pairs)
def test_hidden_signals_equal_the_true_ones(way, pair):
    now, before = pair
    made = WAYS[way].hidden(now, before)
    now, before = now.astype(np.float64), before.astype(np.float64)
    length, length_before = np.linalg.norm(now, axis=1), np.linalg.norm(before, axis=1)
    # Float32 products of numbers below 1e-19 are zero: such vectors are left out of the cosines.
    for name, true in (
        ("hidden_norm", length),
        ("layer_delta", np.linalg.norm(now[1:] - now[:-1], axis=1)),
        ("token_delta", np.linalg.norm(now - before, axis=1)),
    ):
        np.testing.assert_allclose(getattr(made, name), true, rtol=1e-5, atol=1e-15, err_msg=name)
    for name, a, b, product in (
        ("layer_cosine", length[1:], length[:-1], (now[1:] * now[:-1]).sum(axis=1)),
        ("token_cosine", length, length_before, (now * before).sum(axis=1)),
    ):
        large = (a > 1e-8) & (b > 1e-8)
        true = product[large] / (a[large] * b[large])
        np.testing.assert_allclose(getattr(made, name)[large], true, rtol=0, atol=1e-5, err_msg=name)


@each_way
def test_a_vector_of_zeros_has_no_direction(way):
    now, before = np.zeros((2, 20), np.float32), np.ones((2, 20), np.float32)
    made = WAYS[way].hidden(now, before)
    assert not made.hidden_norm.any() and not made.layer_cosine.any() and not made.token_cosine.any()
    assert made.token_delta == pytest.approx(math.sqrt(20))


@each_way
def test_the_first_position_has_no_drift(way):
    now = np.random.default_rng(2).normal(size=(5, 33)).astype(np.float32)
    alone, paired = (WAYS[way].hidden(now, before) for before in (None, now))
    assert alone.token_delta is None and alone.token_cosine is None
    for name in ("hidden_norm", "layer_delta", "layer_cosine"):
        assert np.array_equal(getattr(alone, name), getattr(paired, name)), name
    assert not paired.token_delta.any()


# Logits


@each_way
@given(logits=hnp.arrays(np.float32, st.integers(1, 90), elements=st.floats(-60, 60, width=32)))
def test_output_signals_equal_the_true_ones(way, logits):
    made = WAYS[way].output(logits)
    for name, true in true_output(logits).items():
        assert getattr(made, name) == pytest.approx(true, rel=1e-4, abs=1e-6), name
    assert made.top1 == logits.tolist().index(max(logits.tolist()))


@each_way
@pytest.mark.parametrize("size", [128_256, 151_936, 262_144])
@pytest.mark.parametrize("scale", [0.1, 3.0, 12.0])
def test_output_signals_keep_four_digits_over_a_real_vocabulary(way, size, scale):
    logits = np.random.default_rng(size).normal(-5.0, scale, size).astype(np.float32)
    made = WAYS[way].output(logits)
    for name, true in true_output(logits).items():
        assert getattr(made, name) == pytest.approx(true, rel=1e-4), name


@each_way
@pytest.mark.parametrize("top", [0, 17, 100_000, 100_351])
@pytest.mark.parametrize("gap", [5.0, 15.0, 30.0])
def test_a_nearly_certain_step_keeps_the_digits_of_its_tiny_entropy(way, top, gap):
    """Wherever the most likely token is: among those that are read at once, or at an end."""
    logits = np.random.default_rng(top).normal(0.0, 1.0, 100_352).astype(np.float32)
    logits[top] = logits.max() + gap
    made, true = WAYS[way].output(logits), true_output(logits)
    assert made.top1 == top
    for name in ("output_entropy", "varentropy"):
        assert getattr(made, name) == pytest.approx(true[name], rel=1e-4), name


@each_way
def test_the_lowest_of_equal_logits_is_the_most_likely(way):
    logits = np.zeros(3000, np.float32)
    logits[[700, 1900]] = 4.0
    made = WAYS[way].output(logits)
    assert (made.top1, made.top1_top2_gap) == (700, 0.0)
    assert WAYS[way].output(np.full(1000, 3.5, np.float32)).output_entropy == pytest.approx(
        math.log(1000), rel=1e-6
    )


@each_way
def test_impossible_and_huge_logits_take_no_part(way):
    holes = WAYS[way].output(np.asarray([1.0, -math.inf, 2.0, -math.inf] * 20, np.float32))
    whole = WAYS[way].output(np.asarray([1.0, 2.0] * 20, np.float32))
    assert holes[:5] == pytest.approx(whole[:5], rel=1e-6)
    for logits in ([1e38, -1e38, 1e38], [1e30, 1e30 - 1e24, 0.0], [-3e38, -3e38, -3e38], [-7.25]):
        logits = np.asarray(logits, np.float32)
        made, slow = WAYS[way].output(logits), logits.astype(float).tolist()
        for name in OUTPUTS[:4]:
            assert getattr(made, name) == pytest.approx(
                getattr(reference, name)(slow), rel=1e-5, abs=1e-6
            ), name


@each_way
@pytest.mark.parametrize("bad", [[math.nan, 1.0], [1.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_that_are_not_finite_are_refused(way, bad):
    with pytest.raises(UserError, match="the logits are not finite"):
        WAYS[way].output(np.asarray(bad, np.float32))


# Which of them is used


def read_two(spec, logits, rows, streams):
    reader = SignalReader(spec)
    reader.read(Taps(35, logits, rows, streams[0]))
    return reader.read(Taps(36, logits, rows, streams[1]))


def parts_of(spec):
    random = np.random.default_rng(4)
    rows = random.gamma(0.2, size=(spec.layers, spec.heads, 37)).astype(np.float32)
    rows /= rows.sum(axis=2, keepdims=True)
    streams = random.normal(size=(2, spec.layers + 1, spec.hidden)).astype(np.float32)
    return random.normal(size=spec.vocabulary).astype(np.float32), rows, streams


SPEC = ModelSpec("llama", 3, 48, 4, 2, 8, 50, 64, (0, 0, 0), (1,))


def assert_alike(ours, theirs):
    for group, other in zip(ours, theirs, strict=True):
        for name in group._fields:
            np.testing.assert_allclose(
                getattr(group, name), getattr(other, name), rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_a_step_has_the_same_signals_with_and_without_a_compiler(monkeypatch):
    assert compiled_code().code
    fast = read_two(SPEC, *parts_of(SPEC))
    monkeypatch.setattr(
        edge.signals.reader, "compiled_code", lambda: CompiledCode(None, "switched off by the test")
    )
    slow = read_two(SPEC, *parts_of(SPEC))
    assert_alike(fast, slow)
    assert not np.array_equal(
        fast.attention.attention_entropy, slow.attention.attention_entropy
    )  # two ways, indeed


def test_arrays_that_compiled_code_cannot_read_where_they_lie_go_through_numpy():
    logits, rows, streams = parts_of(SPEC)
    usual = read_two(SPEC, logits, rows, streams)
    spread = np.asfortranarray(rows), np.asfortranarray(streams)
    assert spread[0].strides[2] != 4 and not spread[1][0].flags.c_contiguous
    assert_alike(read_two(SPEC, np.repeat(logits, 2)[::2], *spread), usual)
    assert_alike(
        read_two(SPEC, logits.astype(np.float64), rows.astype(np.float64), streams.astype(np.float64)), usual
    )


def test_the_signals_of_a_step_are_not_those_of_the_next_one():
    """They are kept for a whole answer."""
    logits, rows, streams = parts_of(SPEC)
    reader = SignalReader(SPEC)
    first = reader.read(Taps(35, logits, rows, streams[0]))
    kept = [np.copy(part) for part in (*first.attention, *first.hidden[:3])]
    reader.read(Taps(36, logits[::-1].copy(), rows[:, ::-1].copy(), streams[1]))
    assert all(
        np.array_equal(a, b) for a, b in zip(kept, (*first.attention, *first.hidden[:3]), strict=True)
    )


def test_two_threads_have_numbers_of_their_own():
    spec = replace(SPEC, vocabulary=150_000)
    inputs = [
        np.random.default_rng(seed).normal(0.0, 1.0 + seed, 150_000).astype(np.float32) for seed in (0, 1)
    ]
    alone = [SignalReader(spec).output(logits) for logits in inputs]

    def again(index):
        reader = SignalReader(spec)
        return all(reader.output(inputs[index]) == alone[index] for _ in range(300))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(again, (0, 1))) == [True, True]


def test_streams_of_another_shape_are_refused_and_overwrite_nothing():
    logits, rows, streams = parts_of(SPEC)
    with pytest.raises(ValueError, match="broadcast"):
        SignalReader(SPEC).read(Taps(35, logits, rows, np.repeat(streams[0], 2, axis=0)))


def test_code_with_other_numbers_is_not_used(tmp_path, monkeypatch, nothing_compiled):
    """A compiler that gets the logarithm of two wrong: its work runs, and numpy is taken instead."""
    fake = tmp_path / "bin" / "cc"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!{shutil.which("python3")}
import pathlib, subprocess, sys
wrong = pathlib.Path({str(tmp_path / "wrong.c")!r})
*options, source, _ = sys.argv[1:]
wrong.write_text(pathlib.Path(source).read_text().replace("0.693147180560f", "0.6931f"))
sys.exit(subprocess.call([{shutil.which("cc")!r}, *options, str(wrong), "-lm"]))
"""
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    assert compiled_code() == (None, "what the compiler made gives other numbers than numpy")
    assert list(nothing_compiled.glob("compiled-*.so"))
    assert_alike(read_two(SPEC, *parts_of(SPEC)), read_two(SPEC, *parts_of(SPEC)))


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
