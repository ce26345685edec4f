"""The token loop: a model reads a prompt, then token after token, chosen or given."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edge.backends.base import Backend
from edge.errors import UserError
from edge.runs.record import CONTEXT, LENGTH, REPETITION, STOP_TOKEN, Step
from edge.signals.comparison import top_k
from edge.signals.definitions import OutputSignals, surprisal
from edge.signals.reader import SignalReader
from edge.signals.taps import Array, Taps

REPETITION_LIMIT = 15  # the paper's rule: as many equal tokens in a row end an answer


@dataclass(frozen=True)
class DecodeSettings:
    """Settings for choosing tokens and for stopping.

    `temperature` 0 is greedy; above 0 tokens are sampled with `seed`. `reference_k` > 0 keeps that many of
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
    """A generator for one question: each has its own stream, so that resuming changes nothing."""
    return np.random.default_rng([settings.seed, index])


def sample(logits: Array, temperature: float, rng: np.random.Generator) -> int:
    """One id from softmax(logits / temperature), by inversion of the cumulative sum in float64."""
    # The maximum goes before the division, which a tiny temperature makes overflow.
    shifted = logits.astype(np.float64) - logits.max()
    with np.errstate(over="ignore"):
        cumulative = np.cumsum(np.exp(shifted / temperature))
    drawn = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    return min(drawn, logits.size - 1)  # rounding may make the product equal to the last sum


def repeated(tokens: Sequence[int]) -> bool:
    """Whether the last REPETITION_LIMIT tokens are equal."""
    return len(tokens) >= REPETITION_LIMIT and len(set(tokens[-REPETITION_LIMIT:])) == 1


class TokenSource(Protocol):
    """A source of the tokens of one answer; it also decides when the answer ends."""

    @property
    def reference_k(self) -> int:
        """Number of most likely tokens to keep of each step, 0 for none."""

    def begin(self, room: int) -> bool:
        """Begins an answer, for which the cache has room for `room` tokens; False when it has no tokens."""

    def next(self, logits: Array, output: OutputSignals) -> int:
        """The next token, after the pass that left `logits` [V]."""

    def stop_reason(self) -> str | None:
        """The reason why the last token ends the answer, None where it does not."""


class ChosenTokens:
    """Tokens that the model chooses, greedily or sampled.

    An answer ends at one of `stop_ids`, at `max_new_tokens`, at REPETITION_LIMIT equal tokens in a row, or
    where the cache is full. `index` is the question's, which decides its random numbers.
    """

    def __init__(self, settings: DecodeSettings, stop_ids: Sequence[int], index: int = 0) -> None:
        self.reference_k = settings.reference_k
        self._temperature, self._longest = settings.temperature, settings.max_new_tokens
        self._greedy = settings.temperature == 0.0
        self._stop_ids = frozenset(stop_ids)
        self._rng = sampler(settings, index)
        self._tokens: list[int] = []
        self._room = 0

    def begin(self, room: int) -> bool:
        self._room = room
        return room > 0

    def next(self, logits: Array, output: OutputSignals) -> int:
        token = output.top1 if self._greedy else sample(logits, self._temperature, self._rng)
        self._tokens.append(token)
        return token

    def stop_reason(self) -> str | None:
        tokens = self._tokens
        if tokens[-1] in self._stop_ids:
            return STOP_TOKEN
        if repeated(tokens):
            return REPETITION
        if len(tokens) == self._longest:
            return LENGTH
        return CONTEXT if len(tokens) == self._room else None


class GivenTokens:
    """Tokens that are fed whatever the model would choose (teacher forcing).

    The last token ends the answer with `reason`.
    """

    reference_k = 0

    def __init__(self, tokens: Sequence[int], reason: str) -> None:
        self._tokens, self._reason = tokens, reason
        self._next = 0

    def begin(self, room: int) -> bool:
        """Raises ValueError when the tokens do not fit."""
        if len(self._tokens) > max(0, room):
            raise ValueError(f"{len(self._tokens)} tokens do not fit a cache with place for {room}")
        return len(self._tokens) > 0

    def next(self, logits: Array, output: OutputSignals) -> int:
        token = self._tokens[self._next]
        self._next += 1
        return token

    def stop_reason(self) -> str | None:
        return self._reason if self._next == len(self._tokens) else None


def decode(
    backend: Backend, reader: SignalReader, prompt_ids: Sequence[int], source: TokenSource
) -> Iterator[tuple[Step, Taps]]:
    """Answers one prompt with the tokens of `source`.

    Yields for each token its Step and the taps of its pass, views that the next pass overwrites. Yields
    nothing where the source has no tokens, or where the prompt alone does not fit the cache and tokens are
    chosen. Raises ValueError when given tokens do not fit.
    """
    # The last token is never fed, so it needs no position.
    if not source.begin(backend.capacity - len(prompt_ids) + 1):
        return
    reader.reset()
    backend.rewind(0)
    reference_k = source.reference_k
    token = 0
    for number in itertools.count():
        started = time.perf_counter()
        taps = backend.step(token) if number else backend.prefill(prompt_ids)
        signals = reader.read(taps)
        logits, output = taps.logits, signals.output
        token = source.next(logits, output)
        kept = top_k(logits, output.log_normaliser, reference_k) if reference_k else None
        token_surprisal = surprisal(logits, output.log_normaliser, token)
        elapsed = (time.perf_counter() - started) * 1e3
        reason = source.stop_reason()
        yield Step(number, taps.position, token, token_surprisal, signals, kept, reason, elapsed), taps
        if reason is not None:
            return
