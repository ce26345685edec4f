"""Statistics of llama.cpp's `llama-perplexity --kl-divergence` over the answers' tokens.

The list, its order and its names are the same (tools/perplexity/perplexity.cpp). Q is the quantised model,
base the full one, and p the probability of the token that was read, at the same position. Its errors treat
tokens as independent. Ours treat answers as independent, since tokens of one answer are not. The error of a
function of means is that of its linear term (the delta method).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge.analysis.intervals import Float64, cluster_error
from edge.signals.streaming import pearson

KL_QUANTILES = (
    ("99.9%", 99.9),
    ("99.0%", 99.0),
    ("95.0%", 95.0),
    ("90.0%", 90.0),
    ("Median", 50.0),
    ("10.0%", 10.0),
    ("5.0%", 5.0),
    ("1.0%", 1.0),
    ("0.1%", 0.1),
)
DP_QUANTILES = (*KL_QUANTILES[:4], ("75.0%", 75.0), KL_QUANTILES[4], ("25.0%", 25.0), *KL_QUANTILES[5:])
PERPLEXITY, KLD, PROBABILITY = "Perplexity", "KL divergence", "Token probability"


class Statistic(NamedTuple):
    """One statistic; `section` and `name` are those of llama-perplexity.

    `error` is the standard error over questions. `token_error` is over tokens taken as independent, as in
    llama-perplexity. Errors are NaN where there are none. KL is in nats, probabilities are from 0 to 1.
    """

    section: str
    name: str
    value: float
    error: float = math.nan
    token_error: float = math.nan


def token_error(values: Float64) -> float:
    """Standard error of the mean of independent values, NaN for fewer than two."""
    return float(values.std() / math.sqrt(values.size - 1)) if values.size > 1 else math.nan


def statistics(
    base_surprisal: npt.ArrayLike,
    surprisal: npt.ArrayLike,
    kl: npt.ArrayLike | None,
    same_top: npt.ArrayLike,
    questions: npt.ArrayLike,
) -> tuple[Statistic, ...]:
    """All statistics from one value for each token, [N].

    Surprisals are in nats, under base and Q. `kl` is KL(base || Q), None if it is unknown. `same_top` says
    whether the most likely token is the same. `questions` has each token's question. Raises ValueError if
    empty.
    """
    base, own, same = (np.asarray(values, np.float64) for values in (base_surprisal, surprisal, same_top))
    groups = np.asarray(questions)
    if own.size == 0:
        raise ValueError("statistics of no tokens")

    def line(section: str, name: str, value: float, linear: Float64, scale: float = 1.0) -> Statistic:
        """A statistic with the errors of `scale` times the mean of `linear`."""
        errors = scale * cluster_error(linear, groups), scale * token_error(linear)
        return Statistic(section, name, value, *errors)

    ppl, ppl_base = float(np.exp(own.mean())), float(np.exp(base.mean()))
    ratio = float(np.mean(own - base))
    lines = [
        line(PERPLEXITY, "Mean PPL(Q)", ppl, own, ppl),
        line(PERPLEXITY, "Mean PPL(base)", ppl_base, base, ppl_base),
        Statistic(PERPLEXITY, "Cor(ln(PPL(Q)), ln(PPL(base)))", pearson(own, base)),
        line(PERPLEXITY, "Mean ln(PPL(Q)/PPL(base))", ratio, own - base),
        line(PERPLEXITY, "Mean PPL(Q)/PPL(base)", math.exp(ratio), own - base, math.exp(ratio)),
        line(PERPLEXITY, "Mean PPL(Q)-PPL(base)", ppl - ppl_base, ppl * own - ppl_base * base),
    ]
    if kl is not None:
        divergence = np.asarray(kl, np.float64)
        lines.append(line(KLD, "Mean KLD", float(divergence.mean()), divergence))
        lines += quantiles(KLD, "KLD", divergence, KL_QUANTILES)
    change = np.exp(-own) - np.exp(-base)
    rms = float(np.sqrt(np.mean(change**2)))
    lines.append(line(PROBABILITY, "Mean Δp", float(change.mean()), change))
    lines += quantiles(PROBABILITY, "Δp", change, DP_QUANTILES)
    lines.append(line(PROBABILITY, "RMS Δp", rms, change**2, 0.5 / rms if rms else math.nan))
    lines.append(line(PROBABILITY, "Same top p", float(same.mean()), same))
    return tuple(lines)


def quantiles(
    section: str, what: str, values: Float64, wanted: tuple[tuple[str, float], ...]
) -> list[Statistic]:
    """Maximum, the wanted percentiles (name, percent) and minimum of values."""
    percents = [("Maximum", 100.0), *wanted, ("Minimum", 0.0)]
    percentiles = np.percentile(values, [percent for _, percent in percents])
    return [
        Statistic(section, f"{name} {what}", float(value))
        for (name, _), value in zip(percents, percentiles, strict=True)
    ]
