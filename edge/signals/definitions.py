"""Definitions of all metrics, in numpy: from tapped arrays to the numbers of one step.

`edge.signals.compiled` computes the same numbers faster.

Everything is in nats, from raw logits at temperature 1. L layers, H query heads, K visible keys, D hidden
width, V vocabulary. A zero attention weight or probability adds nothing to an entropy (0 ln 0 = 0).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge.artifact import ModelSpec
from edge.errors import NotFinite
from edge.signals.groups import BY_NAME, SCALARS
from edge.signals.metric import Level, Metric, Source
from edge.signals.taps import HUGE, Array

TINY = np.finfo(np.float32).tiny  # ln of it is finite, and 0 * ln(TINY) = 0
BLOCK = 1 << 16  # attention weights reduced at once
# Below exp's float32 range: keeps -inf logits out of products without changing a sum.
FLOOR = np.float32(-200.0)


class OutputSignals(NamedTuple):
    """What the logits of one position say. `top1` is the most likely id (the lowest of equals), the others
    are nats."""

    output_entropy: float
    varentropy: float
    top1_probability: float
    top1_top2_gap: float
    log_normaliser: float
    top1: int


class AttentionSignals(NamedTuple):
    """What the attention rows of one query say: by head [L, H] and by layer [L], in the order of the
    table."""

    attention_entropy: Array
    sink_mass: Array
    attention_entropy_layer: Array
    head_dispersion: Array
    head_divergence: Array
    attention_renyi2: Array


class HiddenSignals(NamedTuple):
    """What the residual stream says: [L+1] or [L], in the order of the table; the token ones are None where
    there is no previous position."""

    hidden_norm: Array
    layer_delta: Array
    layer_cosine: Array
    token_delta: Array | None
    token_cosine: Array | None


class Signals(NamedTuple):
    """All signals of one step; attention and hidden are None where the artifact has no taps."""

    output: OutputSignals
    attention: AttentionSignals | None
    hidden: HiddenSignals | None

    def of(self, source: Source) -> OutputSignals | AttentionSignals | HiddenSignals | None:
        """The signals of one source."""
        if source == Source.LOGITS:
            return self.output
        return self.attention if source == Source.ATTENTION else self.hidden


class Scratch:
    """Work arrays that are made once and grow, so that a step allocates nothing large."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def take(self, name: str, size: int) -> Array:
        """A flat float32 array of `size`; its content is whatever was there."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[name] = np.empty(max(size, HUGE), np.float32)
        return buffer[:size]


def most_likely(logits: Array) -> tuple[int, float]:
    """The lowest id of the largest logit, and that logit.

    Whatever reads logits [V] begins here: raises NotFinite when one is NaN or infinite, or all are -inf. A
    token may be ruled out by -inf.
    """
    top1 = int(logits.argmax())
    largest = float(logits[top1])
    if not math.isfinite(largest):
        raise NotFinite(
            "the logits are not finite, so the weights are damaged or too large: build from a whole "
            "checkpoint"
        )
    return top1, largest


def output_signals(logits: Array, scratch: Scratch) -> OutputSignals:
    """Entropy and its relatives from logits [V], finite or -inf.

    H = lse(z) - sum p z and varentropy = sum p (ln p + H)^2, both about the maximum so that nothing
    overflows and the variance is taken from centred numbers. Raises NotFinite as most_likely does.
    """
    top1, largest = most_likely(logits)
    shifted = scratch.take("shifted", logits.size)
    weights = scratch.take("weights", logits.size)
    np.subtract(logits, np.float32(largest), out=shifted)
    np.maximum(shifted, FLOOR, out=shifted)
    np.exp(shifted, out=weights)
    # The top token's weight is 1 at a shift of 0. Summing the others alone keeps the digits of a nearly
    # certain step.
    weights[top1] = 0.0
    rest = float(weights.sum())
    # Sums of products, not np.dot: its library wakes a thread on every processor for so many numbers.
    product = np.multiply(weights, shifted, out=scratch.take("product", logits.size))
    mean = float(product.sum()) / (1.0 + rest)
    second = float(weights.max())
    np.subtract(shifted, np.float32(mean), out=shifted)
    np.multiply(shifted, shifted, out=shifted)
    np.multiply(weights, shifted, out=shifted)
    return output_of_sums(top1, largest, rest, mean, second, float(shifted.sum()))


def output_of_sums(
    top1: int, largest: float, rest: float, mean: float, second: float, spread: float
) -> OutputSignals:
    """Output signals of sums over all logits but the top one, of weights w = e^x, x a logit less the
    largest: `rest` of w, `mean` of w x over rest + 1, `second` the largest w, `spread` of w (x - mean)^2."""
    total, log_total = 1.0 + rest, math.log1p(rest)
    return OutputSignals(
        output_entropy=log_total - mean,
        varentropy=(spread + mean * mean) / total,
        top1_probability=1.0 / total,
        top1_top2_gap=(1.0 - second) / total,
        log_normaliser=largest + log_total,
        top1=top1,
    )


def surprisal(logits: Array, log_normaliser: float, token_id: int) -> float:
    """-ln p of one token."""
    return max(0.0, log_normaliser - float(logits[token_id]))


def attention_signals(rows: Array, scratch: Scratch) -> AttentionSignals:
    """Reduces attention rows [L, H, K] that sum to one over K (zeros outside a window are allowed).

    head_dispersion is the population standard deviation over heads; head_divergence the generalised
    Jensen-Shannon divergence, entropy of the heads' mean row less the mean of their entropies;
    attention_renyi2 -ln sum a^2 (arXiv 2602.13699).
    """
    layers, heads, keys = rows.shape
    entropy, renyi2 = np.empty((2, layers, heads), np.float32)
    mean_row = scratch.take("mean_row", layers * keys).reshape(layers, keys)
    # Some layers at a time, so that their logarithms stay in the cache; the rows themselves come from
    # memory.
    some = max(1, BLOCK // (heads * keys))
    for start in range(0, layers, some):
        block = rows[start : start + some]
        logs = scratch.take("logs", block.size).reshape(block.shape)
        np.add(block, TINY, out=logs)  # changes no weight but 0; a third of the time of a maximum
        np.log(logs, out=logs)
        np.vecdot(block, logs, out=entropy[start : start + some])
        np.vecdot(block, block, out=renyi2[start : start + some])
        np.add.reduce(block, axis=1, out=mean_row[start : start + some])
    np.negative(entropy, out=entropy)
    np.maximum(entropy, 0.0, out=entropy)
    renyi2 += TINY
    np.negative(np.log(renyi2, out=renyi2), out=renyi2)
    mean_row *= np.float32(1.0 / heads)
    logs = scratch.take("logs", mean_row.size).reshape(mean_row.shape)
    np.add(mean_row, TINY, out=logs)
    np.log(logs, out=logs)
    # The reductions themselves: the methods mean() and std() go through Python, which is cold after a pass
    # over the weights.
    by_layer = np.add.reduce(entropy, axis=1)
    by_layer *= np.float32(1.0 / heads)
    centred = entropy - by_layer[:, None]
    spread = np.vecdot(centred, centred)
    spread *= np.float32(1.0 / heads)
    divergence = np.vecdot(mean_row, logs)
    divergence += by_layer
    np.negative(divergence, out=divergence)
    return AttentionSignals(
        attention_entropy=entropy,
        sink_mass=rows[:, :, 0].copy(),
        attention_entropy_layer=by_layer,
        head_dispersion=np.sqrt(spread, out=spread),
        head_divergence=np.maximum(divergence, 0.0, out=divergence),
        attention_renyi2=np.maximum(renyi2, 0.0, out=renyi2),
    )


def normalised_attention_entropy(entropy: Array, visible: npt.ArrayLike) -> Array:
    """attention_entropy [L, ...] / ln K of each layer [L]; 0 where K = 1."""
    ceiling = np.log(np.asarray(visible, np.float32)).reshape(-1, *[1] * (entropy.ndim - 1))
    return np.divide(entropy, ceiling, out=np.zeros_like(entropy), where=ceiling > 0)


def norms(x: Array) -> Array:
    """L2 norm over the last axis."""
    length: Array = np.vecdot(x, x)
    return np.sqrt(length, out=length)


def cosines(a: Array, b: Array, norms_a: Array, norms_b: Array) -> Array:
    """Cosine over the last axis; 0 where a vector is zero, within [-1, 1]."""
    product = norms_a * norms_b
    cosine: Array = np.vecdot(a, b)
    # A zero vector's dot product is zero too.
    np.divide(cosine, product, out=cosine, where=product > 0)
    np.minimum(cosine, 1.0, out=cosine)
    return np.maximum(cosine, -1.0, out=cosine)


def hidden_signals(hidden: Array, previous: Array | None, scratch: Scratch) -> HiddenSignals:
    """Reduces the residual stream [L+1, D] of this position and of the one before (None at the first)."""
    difference = scratch.take("difference", hidden.size).reshape(hidden.shape)
    length = norms(hidden)
    token_delta = token_cosine = None
    if previous is not None:
        token_delta = norms(np.subtract(hidden, previous, out=difference))
        token_cosine = cosines(hidden, previous, length, norms(previous))
    return HiddenSignals(
        hidden_norm=length,
        layer_delta=norms(np.subtract(hidden[1:], hidden[:-1], out=difference[1:])),
        layer_cosine=cosines(hidden[1:], hidden[:-1], length[1:], length[:-1]),
        token_delta=token_delta,
        token_cosine=token_cosine,
    )


def normalised_output_entropy(output: OutputSignals, spec: ModelSpec) -> float:
    """output_entropy / ln V; 0 where V = 1."""
    return output.output_entropy / math.log(spec.vocabulary) if spec.vocabulary > 1 else 0.0


def scalars(signals: Signals, token_surprisal: float, spec: ModelSpec, position: int) -> list[float]:
    """One number for each of SCALARS: metrics of attention are means over layers and heads, those of hidden
    states over layers.

    NaN stands for what this step does not have (no taps, or no previous position).
    """
    return [_scalar(BY_NAME[name], signals, token_surprisal, spec, position) for name in SCALARS]


def _scalar(
    metric: Metric, signals: Signals, token_surprisal: float, spec: ModelSpec, position: int
) -> float:
    group = signals.of(metric.source)
    if group is None:
        return math.nan
    match metric.name:
        case "surprisal":
            return token_surprisal
        case "output_entropy_normalised":
            return normalised_output_entropy(signals.output, spec)
    value = getattr(group, metric.series or metric.name)
    if metric.name == "attention_entropy_normalised":  # from the layer's mean: each has as many heads
        value = normalised_attention_entropy(value, spec.visible_keys(position))
    if value is None:
        return math.nan
    return mean(value) if metric.is_list or metric.level == Level.ANSWER else float(value)


def mean(array: Array) -> float:
    """Mean of all numbers in an array."""
    return float(np.add.reduce(array, axis=None)) / array.size
