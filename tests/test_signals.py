"""edge.signals against its slow twin, hand-worked numbers and properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edge.artifact import ModelSpec
from edge.errors import UserError
from edge.signals.comparison import kl_to_reference, tail_mass, top_k
from edge.signals.definitions import (
    Scratch,
    attention_signals,
    hidden_signals,
    normalised_attention_entropy,
    output_signals,
    scalars,
    surprisal,
)
from edge.signals.groups import SCALARS, measured
from edge.signals.metric import Source
from edge.signals.reader import SignalReader
from edge.signals.taps import Taps
from tests import reference

OUTPUTS = ("output_entropy", "varentropy", "top1_probability", "top1_top2_gap")
finite = st.floats(-60, 60, width=32)
logit_vectors = hnp.arrays(np.float32, st.integers(1, 40), elements=finite)


def output(logits):
    return output_signals(np.asarray(logits, np.float32), Scratch())


def attention(rows):
    return attention_signals(np.asarray(rows, np.float32), Scratch())


@st.composite
def attention_rows(draw, layers=2, heads=3):
    keys = draw(st.integers(1, 24))
    logits = draw(hnp.arrays(np.float64, (layers, heads, keys), elements=st.floats(-30, 30)))
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)


# Logits


@given(logit_vectors)
def test_output_signals_equal_the_slow_twin(logits):
    fast, slow = output(logits), logits.tolist()
    for name in OUTPUTS:
        assert getattr(fast, name) == pytest.approx(getattr(reference, name)(slow), rel=1e-4, abs=1e-6), name
    assert fast.log_normaliser == pytest.approx(reference.log_normaliser(slow), rel=1e-6, abs=1e-6)
    assert fast.top1 == slow.index(max(slow))


@pytest.mark.parametrize("size", [128256, 262144])
def test_output_signals_keep_four_digits_over_a_real_vocabulary(size):
    logits = np.random.default_rng(size).normal(0, 3, size).astype(np.float32)
    fast, slow = output(logits), logits.tolist()
    for name in OUTPUTS:
        assert getattr(fast, name) == pytest.approx(getattr(reference, name)(slow), rel=1e-4), name


@pytest.mark.parametrize("gap", [5.0, 15.0, 20.0, 30.0])
def test_a_nearly_certain_step_keeps_four_digits_of_its_tiny_entropy(gap):
    logits = [0.0, -gap, -gap - 1.0]
    fast = output(logits)
    assert fast.output_entropy == pytest.approx(reference.output_entropy(logits), rel=1e-4)
    assert fast.varentropy == pytest.approx(reference.varentropy(logits), rel=1e-4)
    assert surprisal(np.asarray(logits, np.float32), fast.log_normaliser, 0) == pytest.approx(
        reference.surprisal(logits, 0), rel=1e-4
    )


@pytest.mark.parametrize("size", [2, 7, 1000])
def test_equal_logits_have_the_entropy_ln_v_and_no_varentropy(size):
    fast = output([3.5] * size)
    assert fast.output_entropy == pytest.approx(math.log(size), rel=1e-6)
    assert fast.varentropy == pytest.approx(0.0, abs=1e-6)
    assert fast.top1_probability == pytest.approx(1 / size)
    assert (fast.top1_top2_gap, fast.top1) == (0.0, 0)


def test_two_point_distribution_by_hand():
    fast = output([math.log(3.0), 0.0])  # p = 3/4, 1/4
    assert fast.output_entropy == pytest.approx(0.5623351446, rel=1e-6)  # 2 ln 2 - 3/4 ln 3
    assert fast.varentropy == pytest.approx(3 / 16 * math.log(3) ** 2, rel=1e-6)  # p (1-p) (ln p/(1-p))^2
    assert fast.top1_probability == pytest.approx(0.75)
    assert fast.top1_top2_gap == pytest.approx(0.5)


def test_a_vocabulary_of_one_has_nothing_uncertain():
    assert output([-7.25])[:4] == (0.0, 0.0, 1.0, 1.0)


def test_minus_infinity_takes_no_part():
    with_hole, without = output([1.0, -math.inf, 2.0, -math.inf]), output([1.0, 2.0])
    assert with_hole[:5] == pytest.approx(without[:5], rel=1e-6)
    assert with_hole.top1 == 2
    assert (
        surprisal(np.asarray([1.0, -math.inf], np.float32), output([1.0, -math.inf]).log_normaliser, 1)
        == math.inf
    )


@pytest.mark.parametrize("logits", [[1e38, -1e38, 1e38], [1e30, 1e30 - 1e24, 0.0], [-3e38, -3e38, -3e38]])
def test_huge_logits_neither_overflow_nor_turn_into_nan(logits):
    fast, slow = output(logits), np.asarray(logits, np.float32).astype(float).tolist()
    for name in OUTPUTS:
        assert getattr(fast, name) == pytest.approx(getattr(reference, name)(slow), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("bad", [[math.nan, 1.0], [1.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_that_are_no_numbers_are_refused(bad):
    with pytest.raises(UserError, match="not finite"):
        output(bad)


@given(logit_vectors, st.randoms(use_true_random=False))
def test_output_entropy_is_bounded_and_ignores_order(logits, random):
    fast, shuffled = output(logits), logits.tolist()
    random.shuffle(shuffled)
    again = output(shuffled)
    assert 0.0 <= fast.output_entropy <= math.log(logits.size) + 1e-5
    assert fast.varentropy >= 0.0
    assert 0.0 <= fast.top1_top2_gap <= fast.top1_probability <= 1.0
    assert again[:5] == pytest.approx(fast[:5], rel=1e-4, abs=1e-5)


@given(
    hnp.arrays(np.float32, st.integers(1, 20), elements=st.integers(-20, 20).map(float)),
    st.integers(-500, 500),
)
def test_a_shift_of_all_logits_changes_the_normaliser_alone(logits, shift):
    fast, moved = (
        output(logits),
        output(logits + np.float32(shift)),
    )  # whole numbers: the shift itself is exact
    assert moved[:4] == fast[:4]
    assert moved.log_normaliser == pytest.approx(fast.log_normaliser + shift, abs=1e-9)


@given(
    hnp.arrays(np.float64, 5, elements=st.floats(-8, 8)),
    hnp.arrays(np.float64, 4, elements=st.floats(-8, 8)),
)
def test_entropy_and_varentropy_of_independent_choices_add(a, b):
    both = output((a[:, None] + b[None, :]).ravel())
    assert both.output_entropy == pytest.approx(
        output(a).output_entropy + output(b).output_entropy, rel=1e-4, abs=1e-5
    )
    assert both.varentropy == pytest.approx(output(a).varentropy + output(b).varentropy, rel=1e-3, abs=1e-4)


@given(logit_vectors)
def test_surprisal_of_every_token_averages_to_the_entropy(logits):
    fast = output(logits)
    surprisals = [surprisal(logits, fast.log_normaliser, i) for i in range(logits.size)]
    assert math.fsum(math.exp(-s) for s in surprisals) == pytest.approx(1.0, rel=1e-4)
    assert math.fsum(math.exp(-s) * s for s in surprisals) == pytest.approx(
        fast.output_entropy, rel=1e-3, abs=1e-4
    )


# Attention


@given(attention_rows())
def test_attention_signals_equal_the_slow_twin(rows):
    fast = attention(rows)
    for layer in range(rows.shape[0]):
        slow = rows[layer].astype(float).tolist()
        assert fast.sink_mass[layer].tolist() == reference.sink_mass(slow)
        for metric in measured(Source.ATTENTION):
            wanted = getattr(reference, metric.name)(slow)
            assert getattr(fast, metric.name)[layer] == pytest.approx(wanted, rel=1e-4, abs=1e-5), (
                metric.name
            )


def test_attention_entropy_keeps_four_digits_over_a_long_context():
    logits = np.random.default_rng(0).normal(0, 2, (1, 2, 8192))
    rows = np.exp(logits)
    rows = (rows / rows.sum(axis=-1, keepdims=True)).astype(np.float32)
    assert attention(rows).attention_entropy[0] == pytest.approx(
        reference.attention_entropy(rows[0].astype(float).tolist()), rel=1e-4
    )


@pytest.mark.parametrize("keys", [1, 2, 300])
def test_uniform_attention_has_ln_k_and_one_hot_has_none(keys):
    one_hot = [1.0] + [0.0] * (keys - 1)
    fast = attention([[[1 / keys] * keys, one_hot]])
    assert fast.attention_entropy[0].tolist() == pytest.approx([math.log(keys), 0.0], rel=1e-6, abs=1e-7)
    assert fast.attention_renyi2[0].tolist() == pytest.approx([math.log(keys), 0.0], rel=1e-6, abs=1e-6)
    assert fast.head_dispersion[0] == pytest.approx(math.log(keys) / 2, rel=1e-6, abs=1e-7)
    assert fast.sink_mass[0].tolist() == pytest.approx([1 / keys, 1.0])
    normalised = normalised_attention_entropy(fast.attention_entropy, [keys])
    assert normalised[0].tolist() == pytest.approx([1.0 if keys > 1 else 0.0, 0.0], abs=1e-6)


def test_two_heads_that_look_at_different_keys_diverge_by_ln_2():
    fast = attention([[[1.0, 0.0], [0.0, 1.0]]])
    assert fast.head_divergence[0] == pytest.approx(math.log(2), rel=1e-6)
    assert fast.head_dispersion[0] == 0.0  # both are certain: dispersion of the entropies does not see it


def test_renyi_entropy_of_a_worked_row():
    fast = attention([[[0.5, 0.25, 0.25, 0.0]]])
    assert fast.attention_renyi2[0, 0] == pytest.approx(math.log(8 / 3), rel=1e-6)  # 1/4 + 1/16 + 1/16 = 3/8


@given(attention_rows(), st.randoms(use_true_random=False))
def test_attention_signals_are_bounded_and_ignore_the_order_of_keys(rows, random):
    fast, keys = attention(rows), rows.shape[-1]
    order = list(range(keys))
    random.shuffle(order)
    again = attention(np.ascontiguousarray(rows[:, :, order]))
    assert (fast.attention_entropy >= 0).all()
    assert (fast.attention_entropy <= math.log(keys) + 1e-5).all()
    assert (fast.attention_renyi2 >= 0).all()
    assert (
        fast.attention_renyi2 <= fast.attention_entropy + 1e-5
    ).all()  # Renyi entropies fall with the order
    assert (fast.head_divergence >= 0).all()
    assert (fast.head_divergence <= math.log(rows.shape[1]) + 1e-5).all()
    for name in ("attention_entropy", "attention_renyi2", "head_dispersion", "head_divergence"):
        np.testing.assert_allclose(getattr(again, name), getattr(fast, name), rtol=1e-4, atol=2e-6)


@given(attention_rows(layers=1, heads=1), st.integers(2, 5))
def test_equal_heads_do_not_diverge(rows, heads):
    fast = attention(np.repeat(rows, heads, axis=1))
    assert fast.head_divergence[0] == pytest.approx(0.0, abs=1e-5)
    assert fast.head_dispersion[0] == pytest.approx(0.0, abs=1e-5)


def test_keys_outside_a_window_are_zeros_that_change_nothing_but_the_sink():
    row = [0.1, 0.2, 0.7]
    plain, windowed = attention([[row]]), attention([[[0.0, 0.0, *row]]])
    assert windowed.attention_entropy == pytest.approx(plain.attention_entropy)
    assert windowed.sink_mass[0, 0] == 0.0


# Hidden states


@given(
    hnp.arrays(
        np.float32,
        (2, 4, 6),
        elements=st.floats(-100, 100, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3),
    )
)
def test_hidden_signals_equal_the_slow_twin(pair):
    before, now = pair[0], pair[1]
    before[:, 0], now[:, 0] = 50.0, -40.0  # a zero vector has no cosine
    fast = hidden_signals(now, before, Scratch())
    slow, slow_before = now.astype(float).tolist(), before.astype(float).tolist()
    for name in ("hidden_norm", "layer_delta", "layer_cosine"):
        assert getattr(fast, name) == pytest.approx(getattr(reference, name)(slow), rel=1e-4, abs=1e-5), name
    for name in ("token_delta", "token_cosine"):
        assert getattr(fast, name) == pytest.approx(
            getattr(reference, name)(slow, slow_before), rel=1e-4, abs=1e-5
        ), name


def test_hidden_signals_by_hand():
    fast = hidden_signals(
        np.asarray([[3, 4], [0, 4]], np.float32), np.asarray([[3, 4], [0, -4]], np.float32), Scratch()
    )
    assert fast.hidden_norm.tolist() == [5, 4]
    assert fast.layer_delta.tolist() == [3]
    assert fast.layer_cosine.tolist() == pytest.approx([0.8])
    assert fast.token_delta.tolist() == [0, 8]
    assert fast.token_cosine.tolist() == pytest.approx([1, -1])


def test_the_first_position_of_each_answer_has_no_drift():
    spec = ModelSpec("llama", 1, 2, 1, 1, 8, 3, 16, (0,), (1,))
    taps = Taps(0, np.zeros(3, np.float32), np.ones((1, 1, 1), np.float32), np.ones((2, 2), np.float32))
    reader = SignalReader(spec)
    assert reader.read(taps).hidden.token_delta is None
    assert reader.read(taps).hidden.token_delta.tolist() == [0, 0]
    reader.reset()
    assert reader.read(taps).hidden.token_delta is None


def test_signals_survive_the_next_pass_over_the_same_buffers():
    spec = ModelSpec("llama", 1, 2, 1, 1, 8, 3, 16, (0,), (1,))
    taps = Taps(
        1,
        np.asarray([1, 2, 3], np.float32),
        np.asarray([[[0.5, 0.5]]], np.float32),
        np.ones((2, 2), np.float32),
    )
    reader = SignalReader(spec)
    kept = reader.read(taps)
    expected = [np.copy(array) for array in (*kept.attention, *kept.hidden[:3])]
    taps.logits[:] = 9.0
    taps.attention[:] = [0.1, 0.9]
    taps.hidden[:] = 7.0
    reader.read(taps)
    for was, now in zip(expected, (*kept.attention, *kept.hidden[:3]), strict=True):
        np.testing.assert_array_equal(was, now)


def test_scalars_are_means_in_the_order_of_their_names():
    spec = ModelSpec("llama", 1, 2, 2, 1, 8, 4, 16, (0,), (1,))
    rows = np.asarray([[[0.5, 0.5], [1.0, 0.0]]], np.float32)
    taps = Taps(1, np.zeros(4, np.float32), rows, np.asarray([[3, 4], [0, 4]], np.float32))
    values = dict(zip(SCALARS, scalars(SignalReader(spec).read(taps), 0.25, spec, 1), strict=True))
    assert values["output_entropy"] == pytest.approx(math.log(4))
    assert values["output_entropy_normalised"] == pytest.approx(1.0)
    assert values["surprisal"] == 0.25
    assert values["attention_entropy"] == pytest.approx(math.log(2) / 2)
    assert values["attention_entropy_normalised"] == pytest.approx(0.5)
    assert values["sink_mass"] == pytest.approx(0.75)
    assert values["hidden_norm"] == pytest.approx(4.5)
    assert math.isnan(values["token_delta"])
    assert math.isnan(values["token_cosine"])


def test_a_window_bounds_the_keys_that_normalise_attention_entropy():
    spec = ModelSpec("x", 2, 4, 1, 1, 8, 4, 16, (0, 3), (1,))
    assert spec.visible_keys(0) == (1, 1)
    assert spec.visible_keys(9) == (10, 3)


# The most likely tokens, and KL


@given(logit_vectors, st.integers(1, 50))
def test_top_k_and_the_rest_are_the_whole_distribution(logits, k):
    kept = top_k(logits, output(logits).log_normaliser, k)
    logp = reference.log_probabilities(logits.tolist())
    order = sorted(range(logits.size), key=lambda i: (-logits[i], i))[:k]
    assert [logits[i] for i in kept.ids] == [logits[i] for i in order]
    assert kept.logprobs.tolist() == pytest.approx([logp[i] for i in kept.ids], rel=1e-4, abs=1e-5)
    others = math.fsum(math.exp(logp[i]) for i in range(logits.size) if i not in set(kept.ids.tolist()))
    assert kept.rest == pytest.approx(others, rel=1e-4, abs=1e-30)
    assert len(kept.ids) == min(k, logits.size)


def test_the_most_likely_token_is_the_first_of_top_k_even_among_equals():
    logits = np.asarray([1.0, 5.0, 5.0, 0.0], np.float32)
    assert top_k(logits, output(logits).log_normaliser, 3).ids.tolist() == [1, 2, 0]
    assert output(logits).top1 == 1


pairs = st.integers(2, 30).flatmap(
    lambda n: st.tuples(*[hnp.arrays(np.float32, n, elements=st.floats(-20, 20, width=32))] * 2)
)


@given(pairs)
def test_kl_over_all_tokens_is_the_full_kl(pair):
    p, q = pair
    kept = top_k(p, output(p).log_normaliser, p.size)
    assert kept.rest == 0.0
    full = reference.kl(p.tolist(), q.tolist())
    assert kl_to_reference(kept, q, output(q).log_normaliser) == pytest.approx(full, rel=1e-4, abs=1e-5)


@given(pairs)
def test_kl_over_k_tokens_is_a_lower_bound_that_grows_with_k(pair):
    p, q = pair
    lnp, lnq = output(p).log_normaliser, output(q).log_normaliser
    bounds = [kl_to_reference(top_k(p, lnp, k), q, lnq) for k in range(1, p.size + 1)]
    for smaller, larger in itertools.pairwise(bounds):
        assert smaller <= larger * (1 + 1e-5) + 1e-5
    assert bounds[0] >= 0.0


@given(logit_vectors, st.integers(1, 50))
def test_kl_to_itself_is_nothing(logits, k):
    lse = output(logits).log_normaliser
    assert kl_to_reference(top_k(logits, lse, k), logits, lse) == pytest.approx(0.0, abs=1e-6)


def test_kl_by_hand():
    p, q = (
        np.log(np.asarray([0.5, 0.25, 0.25], np.float32)),
        np.log(np.asarray([0.25, 0.25, 0.5], np.float32)),
    )
    assert kl_to_reference(top_k(p, 0.0, 3), q, 0.0) == pytest.approx(0.25 * math.log(2), rel=1e-6)
    assert kl_to_reference(top_k(p, 0.0, 1), q, 0.0) == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75), rel=1e-6
    )


def test_kl_leaves_out_tokens_that_the_reference_rules_out():
    p, q = np.asarray([0.0, 0.0, -np.inf], np.float32), np.asarray([0.0, 0.0, 0.0], np.float32)
    kept = top_k(p, output(p).log_normaliser, 3)
    assert kl_to_reference(kept, q, output(q).log_normaliser) == pytest.approx(math.log(1.5), rel=1e-6)


def test_tail_mass_keeps_its_digits_far_from_zero():
    near = np.asarray([0.0, -30.0, -31.0], np.float32)
    far = near + np.float32(4096.0)  # exact in float32
    for logits in (near, far):
        rest = tail_mass(logits, output(logits).log_normaliser, np.asarray([0], np.int32))
        assert rest == pytest.approx(math.exp(-30) + math.exp(-31), rel=1e-4)
