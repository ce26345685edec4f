"""The loops: greedy and sampled decoding, and teacher forcing. Each yields one Step for each token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge.backends.base import Backend
from edge.errors import UserError
from edge.runs.record import CONTEXT, LENGTH, REPETITION, STOP_TOKEN, Step
from edge.signals.comparison import top_k
from edge.signals.definitions import surprisal
from edge.signals.reader import SignalReader
from edge.signals.taps import Array, Taps

REPETITION_LIMIT = 15  # the paper's rule: one token so many times in a row ends an answer


@dataclass(frozen=True)
class DecodeSettings:
    """How tokens are chosen and when to stop.

    `temperature` 0 is greedy; above it tokens are sampled with `seed`. `reference_k` > 0 keeps that many of
    the most likely tokens of each step. Raises UserError when a number is out of range.
    """

    max_new_tokens: int = 1000
    temperature: float = 0.0
    seed: int = 0
    reference_k: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"--max-new-tokens is {self.max_new_tokens}: a positive number is needed")
        if not 0.0 <= self.temperature <= 100.0:
            raise UserError(
                f"--temperature is {self.temperature}: a number from 0 (greedy) to 100 is needed"
            )
        if self.seed < 0:
            raise UserError(f"--seed is {self.seed}: a number from 0 is needed")


def sampler(settings: DecodeSettings, index: int) -> np.random.Generator:
    """A generator for one question: its own stream, so that resuming and sharding change nothing."""
    return np.random.default_rng([settings.seed, index])


def sample(logits: Array, temperature: float, rng: np.random.Generator) -> int:
    """One id from softmax(logits / temperature), by inversion of the cumulative sum in float64."""
    shifted = (
        logits.astype(np.float64) - logits.max()
    )  # before the division, which a tiny temperature makes overflow
    with np.errstate(over="ignore"):
        cumulative = np.cumsum(np.exp(shifted / temperature))
    drawn = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    return min(drawn, logits.size - 1)  # rounding may carry the product up to the last sum itself


def repeated(tokens: Sequence[int]) -> bool:
    return len(tokens) >= REPETITION_LIMIT and len(set(tokens[-REPETITION_LIMIT:])) == 1


def generate(
    backend: Backend,
    reader: SignalReader,
    prompt_ids: Sequence[int],
    settings: DecodeSettings,
    index: int = 0,
) -> Iterator[Step]:
    """Answers one prompt. Yields nothing when the prompt alone does not fit the context.

    Stops at a stop id, at `max_new_tokens`, at REPETITION_LIMIT equal tokens in a row, or where the cache is
    full.
    """
    if len(prompt_ids) > backend.capacity:
        return
    stop_ids = frozenset(backend.spec.stop_ids)
    rng = sampler(settings, index)
    reader.reset()
    backend.rewind(0)
    tokens: list[int] = []
    while True:
        started = time.perf_counter()
        taps = backend.step(tokens[-1]) if tokens else backend.prefill(prompt_ids)
        signals = reader.read(taps)
        output = signals.output
        token = (
            output.top1 if settings.temperature == 0.0 else sample(taps.logits, settings.temperature, rng)
        )
        kept = (
            top_k(taps.logits, output.log_normaliser, settings.reference_k) if settings.reference_k else None
        )
        token_surprisal = surprisal(taps.logits, output.log_normaliser, token)
        elapsed = (time.perf_counter() - started) * 1e3
        tokens.append(token)
        reason = None
        if token in stop_ids:
            reason = STOP_TOKEN
        elif repeated(tokens):
            reason = REPETITION
        elif len(tokens) == settings.max_new_tokens:
            reason = LENGTH
        elif backend.length == backend.capacity:
            reason = CONTEXT
        yield Step(len(tokens) - 1, taps.position, token, token_surprisal, signals, kept, reason, elapsed)
        if reason:
            return


class ForcedStep(NamedTuple):
    """One step of teacher forcing: the Step of the given token, and what this model's pass left (views)."""

    step: Step
    taps: Taps


def force(
    backend: Backend,
    reader: SignalReader,
    prompt_ids: Sequence[int],
    tokens: Sequence[int],
    stop_reason: str,
) -> Iterator[ForcedStep]:
    """Feeds `tokens` whatever this model would have said; the last step carries `stop_reason`.

    Raises ValueError when prompt and tokens do not fit the cache.
    """
    reader.reset()
    backend.rewind(0)
    for t, token in enumerate(tokens):
        started = time.perf_counter()
        taps = backend.step(tokens[t - 1]) if t else backend.prefill(prompt_ids)
        signals = reader.read(taps)
        token_surprisal = surprisal(taps.logits, signals.output.log_normaliser, token)
        elapsed = (time.perf_counter() - started) * 1e3
        reason = stop_reason if t == len(tokens) - 1 else None
        step = Step(t, taps.position, token, token_surprisal, signals, None, reason, elapsed)
        yield ForcedStep(step, taps)
