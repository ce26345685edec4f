"""Two models at one position: the likeliest tokens that a run keeps, KL, and the distance of hidden
states."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge.signals.definitions import TINY, cosines, norms
from edge.signals.taps import Array


class TopK(NamedTuple):
    """The K most likely tokens, most likely first: ids [K] int32, log-probabilities [K], mass of all
    others."""

    ids: npt.NDArray[np.int32]
    logprobs: Array
    rest: float


class HiddenDistance(NamedTuple):
    """How far one model's residual stream is from another's at the same position, each [L+1]: relative L2
    error |h - h_full| / |h_full| (0 where both are zero) and cosine."""

    hidden_error: Array
    hidden_similarity: Array


def top_k(logits: Array, log_normaliser: float, k: int) -> TopK:
    """The k most likely tokens (all of them where k >= V). `rest` is summed from the others, not one minus
    the sum, so that a tiny tail keeps its digits."""
    k = min(k, logits.size)
    largest = np.argpartition(logits, logits.size - k)[logits.size - k :]
    ids = largest[np.lexsort((largest, -logits[largest]))].astype(np.int32)
    logprobs = (logits[ids].astype(np.float64) - log_normaliser).astype(np.float32)
    return TopK(ids, logprobs, tail_mass(logits, log_normaliser, ids))


def tail_mass(logits: Array, log_normaliser: float, ids: npt.NDArray[np.int32]) -> float:
    """Probability of every token that is not among ids."""
    rounded = np.float32(log_normaliser)
    weights = logits - rounded
    np.exp(weights, out=weights)
    weights[ids] = 0.0
    return float(weights.sum()) * math.exp(float(rounded) - log_normaliser)


def kl_to_reference(reference: TopK, logits: Array, log_normaliser: float) -> float:
    """KL(reference || this) over the reference's K tokens and one bucket for all others: a lower bound of
    the full KL (data-processing inequality), equal to it where K = V. 0 or above.
    """
    ids, logprobs = reference.ids, reference.logprobs
    if logprobs[-1] == -np.inf:  # impossible ones come last: 0 ln 0 = 0
        possible = np.isfinite(logprobs)
        ids, logprobs = ids[possible], logprobs[possible]
    log_p = logprobs.astype(np.float64)
    log_q = logits[ids].astype(np.float64) - log_normaliser
    divergence = float((np.exp(log_p) * (log_p - log_q)).sum())
    if reference.rest > 0.0:
        rest = max(tail_mass(logits, log_normaliser, reference.ids), float(TINY))
        divergence += reference.rest * math.log(reference.rest / rest)
    return max(0.0, divergence)


def kl_exact(full: Array, full_normaliser: float, logits: Array, log_normaliser: float) -> float:
    """KL(full || this) over the whole vocabulary, from both models' logits [V] in float64: exactly 0 for
    equal logits, infinite where this model rules out what the full one does not."""
    log_p = full.astype(np.float64) - full_normaliser
    possible = np.isfinite(log_p)  # 0 ln 0 = 0
    if not possible.all():
        log_p, logits = log_p[possible], logits[possible]
    difference = log_p - (logits.astype(np.float64) - log_normaliser)
    # Not np.dot: its library wakes a thread on every processor for so many numbers.
    return max(0.0, float((np.exp(log_p) * difference).sum()))


def hidden_distance(full: Array, hidden: Array) -> HiddenDistance:
    """Compares both models' residual streams [L+1, D] at one position."""
    length, own = norms(full), norms(hidden)
    error = norms(hidden - full)
    error = np.divide(error, length, out=np.where(error > 0, np.float32(np.inf), error), where=length > 0)
    return HiddenDistance(error, cosines(full, hidden, length, own))
