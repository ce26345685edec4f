"""The statistics of llama.cpp's `llama-perplexity --kl-divergence`: the same list, order and names, over the
answers' tokens.

Its definitions (tools/perplexity/perplexity.cpp): Q is the quantised model, base the full one, p the
probability of the token that was read, both at the same position. Its errors take tokens as independent;
ours take answers, since tokens of one answer are not. The error of a function of means is that of its linear
term (the delta method).
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
    """One line: `section` and `name` as llama-perplexity has them, the value, its standard error over
    questions, and over tokens taken as independent (llama-perplexity's own). Errors are NaN where there are
    none. KL in nats, probabilities from 0 to 1.
    """

    section: str
    name: str
    value: float
    error: float = math.nan
    token_error: float = math.nan


def token_error(values: Float64) -> float:
    """Standard error of the mean of independent values, NaN of fewer than two."""
    return float(values.std() / math.sqrt(values.size - 1)) if values.size > 1 else math.nan


def statistics(
    base_surprisal: npt.ArrayLike,
    surprisal: npt.ArrayLike,
    kl: npt.ArrayLike | None,
    same_top: npt.ArrayLike,
    questions: npt.ArrayLike,
) -> tuple[Statistic, ...]:
    """From one value for each token, [N]: surprisals in nats under base and Q, KL(base || Q) if it is known,
    whether the most likely token is the same; `questions` says which question each belongs to. Raises
    ValueError if empty."""
    base, own, same = (np.asarray(values, np.float64) for values in (base_surprisal, surprisal, same_top))
    groups = np.asarray(questions)
    if own.size == 0:
        raise ValueError("statistics of no tokens")

    def line(section: str, name: str, value: float, linear: Float64, scale: float = 1.0) -> Statistic:
        """With the errors of `scale` times the mean of `linear`."""
        return Statistic(
            section, name, value, scale * cluster_error(linear, groups), scale * token_error(linear)
        )

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
    named = [
        (f"Maximum {what}", 100.0),
        *((f"{name} {what}", percent) for name, percent in wanted),
        (f"Minimum {what}", 0.0),
    ]
    found = np.percentile(values, [percent for _, percent in named])
    return [Statistic(section, name, float(value)) for (name, _), value in zip(named, found, strict=True)]
