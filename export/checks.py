"""The numbers of a verification: errors of one model's values against another's, each with its tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from export.checkpoint import Array
from export.values import Values
from export.verdict import Check, Distance, Probe, Tolerances, layer_name


def compare(
    probes: Sequence[Probe], ours: list[Values], theirs: list[Values], against: str, allowed: Tolerances
) -> list[Check]:
    """The checks of logits, attention entropy by layer and hidden states by layer."""
    places = [probe.at(index) for probe in probes for index in range(probe.compared)]
    mine, wanted = stacked(ours, "logits"), stacked(theirs, "logits")
    error = mine - wanted
    by_place = reduce(error, 1, allowed.mean_square) / max(
        1.0, float(reduce(wanted, None, mean_square=True))
    )
    value, place = float(reduce(by_place, None, allowed.mean_square)), places[int(by_place.argmax())]
    checks = [
        Check("logits", against, value, allowed.logits, place, "", absolute=float(np.abs(error).max()))
    ]
    mine, wanted = stacked(ours, "entropy"), stacked(theirs, "entropy")
    if mine.size:
        error = mine - wanted
        keys = np.array([probe.prefill + index for probe in probes for index in range(probe.compared)])
        scaled = error / np.maximum(np.log(keys), 1.0)[:, None, None]
        layers = reduce(scaled, (0, 2), allowed.mean_square)
        absolute = float(np.abs(error).max())
        checks.append(
            by_layer(
                "attention entropy", against, layers, allowed.attention_entropy, start=1, absolute=absolute
            )
        )
        mine, wanted = stacked(ours, "hidden"), stacked(theirs, "hidden")
        relative = np.linalg.norm(mine - wanted, axis=2) / np.maximum(
            np.linalg.norm(wanted, axis=2), np.finfo(np.float32).tiny
        )
        layers = reduce(relative, 0, allowed.mean_square)
        checks.append(by_layer("hidden states", against, layers, allowed.hidden, start=0, absolute=None))
    return checks


def stacked(side: list[Values], name: str) -> Array:
    """The values of one kind of all probes, [positions, ...]; empty where the artifact has no taps."""
    parts = [getattr(values, name) for values in side]
    return np.empty(0, np.float32) if parts[0] is None else np.concatenate(parts)


def reduce(
    error: npt.NDArray[Any], axis: int | tuple[int, ...] | None, mean_square: bool
) -> npt.NDArray[np.float64]:
    """Root mean square, or the largest absolute value, over the axes (None: all)."""
    wide = np.asarray(error, np.float64)
    return np.asarray(
        np.sqrt(np.mean(np.square(wide), axis=axis)) if mean_square else np.abs(wide).max(axis=axis)
    )


def by_layer(
    number: str,
    against: str,
    error: npt.NDArray[np.float64],
    tolerance: float,
    *,
    start: int,
    absolute: float | None,
) -> Check:
    """A check of one number for each layer, named from `start` (residual stream 0 is the embedding)."""
    worst = int(error.argmax())  # the first NaN, if there is one
    beyond = np.flatnonzero(~(error <= tolerance))
    first = layer_name(int(beyond[0]) + start) if beyond.size else ""
    values = tuple(float(value) for value in error)
    return Check(
        number, against, float(error[worst]), tolerance, layer_name(worst + start), first, absolute, values
    )


def divergence(probes: Sequence[Probe], full: list[Values], ours: list[Values]) -> Distance:
    """KL(full || ours) of every compared position."""
    by_probe = [kl(a.logits, b.logits) for a, b in zip(full, ours, strict=True)]
    every = np.concatenate(by_probe)
    text = np.concatenate(
        [values for probe, values in zip(probes, by_probe, strict=True) if probe.name == "text"]
    )
    return Distance(float(every.mean()), float(every.max()), float(text.mean()), every.size)


def kl(full: Array, other: Array) -> npt.NDArray[np.float64]:
    """KL(full || other) in nats of logits [N, V] -> [N], 0 or above."""
    log_p, log_q = log_softmax(full), log_softmax(other)
    divergences: npt.NDArray[np.float64] = np.maximum(
        np.einsum("nv,nv->n", np.exp(log_p), log_p - log_q), 0.0
    )
    return divergences


def log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    shifted = np.asarray(logits, np.float64) - logits.max(axis=1, keepdims=True)
    normalised: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised
