"""edge.jobs.decode: how tokens are chosen, and when an answer ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.artifact import Artifact, ModelSpec
from edge.backends.onnx import OnnxBackend
from edge.errors import UserError
from edge.jobs.decode import ChosenTokens, DecodeSettings, GivenTokens, decode, repeated, sample, sampler
from edge.runs.record import CONTEXT, LENGTH, REPETITION, STOP_TOKEN
from edge.signals.reader import SignalReader
from edge.signals.taps import Taps

VOCABULARY = 12


class Script:
    """A backend without weights: at each position the token that the script says is by far the most
    likely."""

    def __init__(self, script, capacity=1000, stop_ids=(1,)):
        self.spec = ModelSpec("script", 1, 2, 1, 1, 8, VOCABULARY, capacity, (0,), tuple(stop_ids))
        self.capacity, self.length = capacity, 0
        self.script = list(script)
        self.fed: list[int] = []
        self.prompt = 0

    def _taps(self):
        logits = np.zeros(VOCABULARY, np.float32)
        logits[self.script[self.length - self.prompt]] = 20.0
        return Taps(self.length - 1, logits, None, None)

    def prefill(self, ids):
        self.prompt = len(ids)
        self.length += len(ids)
        return self._taps()

    def step(self, token_id):
        assert self.length < self.capacity
        self.fed.append(token_id)
        self.length += 1
        return self._taps()

    def rewind(self, length):
        self.length = length

    def close(self):
        pass


def answer(backend, prompt=(5, 6, 7), index=0, **settings):
    source = ChosenTokens(DecodeSettings(**settings), backend.spec.stop_ids, index)
    return [step for step, _ in decode(backend, SignalReader(backend.spec), prompt, source)]


def read(backend, prompt, tokens):
    source = GivenTokens(tokens, LENGTH)
    return [step for step, _ in decode(backend, SignalReader(backend.spec), prompt, source)]


def reasons(steps):
    return [step.stop_reason for step in steps]


def test_an_answer_ends_with_its_stop_token_which_is_a_row():
    backend = Script([4, 3, 1, 2, 2])
    steps = answer(backend)
    assert [step.token_id for step in steps] == [4, 3, 1]
    assert reasons(steps) == [None, None, STOP_TOKEN]
    assert [step.position for step in steps] == [2, 3, 4]  # (prompt length - 1) + step
    assert [step.phase for step in steps] == ["prompt", "generation", "generation"]
    assert backend.fed == [4, 3]  # the last prompt token is fed once, the stop token never


@pytest.mark.parametrize("stop", [1, 9])
def test_every_stop_id_stops(stop):
    assert reasons(answer(Script([4, stop, 4], stop_ids=(1, 9)))) == [None, STOP_TOKEN]


def test_an_answer_ends_at_its_longest():
    steps = answer(Script([2, 3] * 10), max_new_tokens=7)
    assert reasons(steps) == [None] * 6 + [LENGTH]
    assert reasons(answer(Script([2, 3]), max_new_tokens=1)) == [LENGTH]


def test_fifteen_equal_tokens_in_a_row_end_an_answer_and_fourteen_do_not():
    steps = answer(Script([3, 3, *[4] * 14, 3, *[5] * 40]), max_new_tokens=100)
    assert len(steps) == 2 + 14 + 1 + 15
    assert steps[-1].stop_reason == REPETITION


def test_a_stop_token_counts_before_repetition_and_repetition_before_length():
    assert reasons(answer(Script([1]), max_new_tokens=1)) == [STOP_TOKEN]
    assert reasons(answer(Script([4] * 15), max_new_tokens=15))[-1] == REPETITION


@given(st.lists(st.integers(0, 1), max_size=40))
def test_repetition_looks_at_the_last_fifteen_alone(tokens):
    assert repeated(tokens) == (len(tokens) >= 15 and len(set(tokens[-15:])) == 1)


def test_an_answer_ends_where_the_cache_is_full():
    steps = answer(Script([2, 3] * 10, capacity=6), prompt=(5, 6, 7))
    assert len(steps) == 4  # three prompt positions and three fed tokens fill six
    assert reasons(steps)[-1] == CONTEXT
    assert reasons(answer(Script([2, 3], capacity=3), prompt=(5, 6, 7))) == [CONTEXT]


def test_a_prompt_longer_than_the_cache_has_no_steps():
    assert answer(Script([2], capacity=2), prompt=(5, 6, 7)) == []


def test_greedy_is_what_transformers_generates(checkpoints, artifacts):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    for shape in ("odd", "untied"):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoints(shape), dtype=torch.float32
        ).eval()
        backend = OnnxBackend(Artifact.open(artifacts(shape)), threads=1)
        for seed in range(3):
            prompt = np.random.default_rng(seed).integers(4, 290, 20 + 60 * seed).tolist()
            with torch.no_grad():
                made = model.generate(
                    torch.tensor([prompt]),
                    attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                    do_sample=False,
                    max_new_tokens=40,
                    eos_token_id=[1, 3],
                    pad_token_id=0,
                )
            expected = made[0, len(prompt) :].tolist()
            steps = answer(backend, prompt, max_new_tokens=40)
            if steps[-1].stop_reason == REPETITION:  # a rule that transformers does not have
                expected = expected[: len(steps)]
            assert [step.token_id for step in steps] == expected


def test_sampling_depends_on_seed_and_question_and_on_nothing_that_went_before(odd):
    backend = OnnxBackend(odd, threads=1)
    prompt, settings = [5, 60, 70, 80], {"max_new_tokens": 12, "temperature": 1.0}

    def tokens(index, seed=3):
        return [step.token_id for step in answer(backend, prompt, index, seed=seed, **settings)]

    alone = tokens(7)
    others = [tokens(i) for i in (0, 1, 2)]
    assert tokens(7) == alone
    assert alone not in others
    assert tokens(7, seed=4) != alone


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_frequencies_follow_softmax_at_the_temperature(temperature):
    logits = np.asarray([1.0, 0.0, -1.0, 2.0, -np.inf, 1.5, 0.5], np.float32)
    expected = np.exp(logits / temperature)
    expected /= expected.sum()
    rng, n = sampler(DecodeSettings(seed=5), 0), 20000
    counts = np.bincount([sample(logits, temperature, rng) for _ in range(n)], minlength=logits.size)
    assert counts[4] == 0
    possible = expected > 0
    chi2 = (((counts - n * expected) ** 2)[possible] / (n * expected)[possible]).sum()
    assert chi2 < 22.5  # 0.999 quantile of chi-square with 5 degrees of freedom is 20.5; the seed is fixed


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature):
    logits = np.asarray([0.0, 30.0, 29.0, -5.0], np.float32)
    rng = np.random.default_rng(0)
    assert {sample(logits, temperature, rng) for _ in range(50)} == {1}


class Highest:
    """A generator whose draw is as near to one as a float64 can be."""

    def random(self):
        return math.nextafter(1.0, 0.0)


def test_the_highest_draw_is_the_last_possible_token():
    assert sample(np.asarray([0.0, 0.0, 0.0], np.float32), 1.0, Highest()) == 2
    assert sample(np.asarray([0.0, 0.0, -np.inf], np.float32), 1.0, Highest()) == 1


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        ({"max_new_tokens": 0}, "--max-new-tokens is 0"),
        ({"max_new_tokens": -3}, "--max-new-tokens is -3"),
        ({"temperature": -0.1}, "--temperature is -0.1"),
        ({"temperature": math.nan}, "--temperature is nan"),
        ({"temperature": math.inf}, "--temperature is inf"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_settings_out_of_range_are_refused_by_option(settings, option):
    with pytest.raises(UserError, match=option):
        DecodeSettings(**settings)


def test_the_reference_keeps_the_most_likely_tokens_of_each_step(odd):
    backend = OnnxBackend(odd, threads=1)
    steps = answer(backend, [5, 60, 70], max_new_tokens=4, reference_k=5)
    for step in steps:
        assert step.reference.ids[0] == step.token_id
        assert step.surprisal == pytest.approx(-step.reference.logprobs[0], abs=1e-6)
        assert np.exp(step.reference.logprobs.astype(float)).sum() + step.reference.rest == pytest.approx(
            1.0, abs=1e-5
        )
    assert all(step.reference is None for step in answer(backend, [5, 60, 70], max_new_tokens=4))


def test_forcing_a_model_on_its_own_answer_gives_the_same_steps(odd):
    backend = OnnxBackend(odd, threads=1)
    free = answer(backend, [5, 60, 70], max_new_tokens=9)
    tokens = [step.token_id for step in free]
    forced = read(backend, [5, 60, 70], tokens)
    assert [(s.step, s.position, s.token_id, s.surprisal, s.stop_reason) for s in forced] == [
        (s.step, s.position, s.token_id, s.surprisal, s.stop_reason) for s in free
    ]
    for a, b in zip(free, forced, strict=True):
        np.testing.assert_array_equal(
            a.signals.attention.attention_entropy, b.signals.attention.attention_entropy
        )
        assert a.signals.output == b.signals.output


def test_forcing_feeds_the_given_tokens_whatever_the_model_says():
    backend = Script([4] * 20)
    steps = read(backend, (5, 6), [2, 3, 2])
    assert backend.fed == [2, 3]
    assert [step.signals.output.top1 for step in steps] == [4, 4, 4]
    assert [step.surprisal for step in steps] == pytest.approx([20.0] * 3, abs=1e-4)


def test_given_tokens_that_do_not_fit_are_refused_before_the_prompt_is_read():
    backend = Script([4] * 20, capacity=4)
    assert [step.stop_reason for step in read(backend, (5, 6), [2, 3, 2])] == [None, None, LENGTH]
    backend.fed.clear()
    with pytest.raises(ValueError, match="4 tokens do not fit a cache with place for 3"):
        read(backend, (5, 6), [2, 3, 2, 3])
    assert backend.fed == []


def test_where_no_token_is_given_the_prompt_is_not_read():
    backend = Script([4] * 20, capacity=2)
    assert read(backend, (5, 6, 7), []) == []  # a prompt that never fitted
    assert backend.length == 0


def test_what_a_pass_left_comes_with_its_step():
    backend = Script([4, 3, 1])
    source = ChosenTokens(DecodeSettings(), backend.spec.stop_ids)
    passes = decode(backend, SignalReader(backend.spec), (5, 6), source)
    assert [(taps.position, int(taps.logits.argmax())) for _, taps in passes] == [(1, 4), (2, 3), (3, 1)]
