"""Comparison of a forced run with its reference, position by position on the same tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.dynamics import numbers, recorded
from edge.analysis.intervals import Distribution, Interval, bootstrap, distribution
from edge.analysis.layers import LayerChange, hidden_change
from edge.analysis.noise_floor import NoiseFloor, noise_floor
from edge.analysis.pairs import by_question, paired_steps, weighted
from edge.analysis.perplexity import Statistic, statistics
from edge.errors import UserError
from edge.runs.run_directory import Run
from edge.signals.groups import SERIES, names
from edge.signals.metric import Kind, Source
from edge.signals.streaming import pearson, spearman

# Compared token by token: what the logits of one position give as a number.
STEP_SCALARS = names(lambda m: m.name in SERIES and m.source == Source.LOGITS)
DISTANCES = names(lambda m: m.kind == Kind.EXACT)  # of the residual streams


class TokenChange(NamedTuple):
    """Change of a metric position by position: mean, RMS, and correlation of the two series over all
    tokens."""

    metric: str
    mean: float
    rms: float
    pearson: float
    spearman: float


class Perplexity(NamedTuple):
    """exp of the mean surprisal of the same tokens under each model, and the log of their ratio. The ratio
    has an interval over questions, where each token weighs the same."""

    full: float
    quantised: float
    log_ratio: Interval
    correlation: float


@dataclass(frozen=True)
class ForcedPart:
    """Comparison position by position on the same tokens.

    `kl` is KL(full || quantised) in nats. It is over the whole vocabulary if `exact`. If not, all but the
    reference's K tokens are one bucket, which gives a lower bound. It is None if the reference kept no
    distributions. `noise_floor` is what `kl` must be far above, None where it is not measured or `kl` is
    None. `statistics` is llama-perplexity's list. `hidden_error` and `hidden_similarity` are the
    relative L2 error and the cosine of the residual stream before layer 1 and after each layer. They are
    None unless the run is exact and tapped.
    """

    tokens: int
    exact: bool
    reference_k: int
    statistics: tuple[Statistic, ...]
    kl: Distribution | None
    kl_by_question: Interval | None
    noise_floor: NoiseFloor | None
    same_top1: Interval
    probability_change: Distribution
    perplexity: Perplexity
    changes: tuple[TokenChange, ...]
    hidden_error: LayerChange | None
    hidden_similarity: LayerChange | None


def forced_part(full: Run, quantised: Run, answers: pa.Table) -> ForcedPart:
    """Compare the steps of both runs; `answers` is the forced run's table. Raises UserError for runs without
    a token."""
    columns = (full.columns("steps"), quantised.columns("steps"))
    scalars = recorded(STEP_SCALARS, *columns, column=SERIES.__getitem__)
    a, b = paired_steps(full, quantised, list(scalars), ["kl", "reference_surprisal", "same_top1"])
    if a.num_rows == 0:
        raise UserError(
            f"{full.folder} has no traced tokens: no question was answered (see the notes of its answers)"
        )
    questions = a.column("question_index").to_numpy()
    # The reference's surprisal as the forced run holds it: measured on this machine where both models ran
    # here, else copied from the reference run.
    base, own = numbers(b, "reference_surprisal"), numbers(b, "surprisal")
    kl = numbers(b, "kl")
    has_kl = not np.isnan(kl).any()
    same_top1 = numbers(b, "same_top1")
    exact = quantised.manifest.exact
    error, similarity = (hidden_change(name, answers, quantised) if exact else None for name in DISTANCES)
    return ForcedPart(
        tokens=a.num_rows,
        exact=exact,
        reference_k=quantised.manifest.model.vocabulary if exact else full.manifest.settings.reference_k,
        statistics=statistics(base, own, kl if has_kl else None, same_top1, questions),
        kl=distribution(kl, questions) if has_kl else None,
        kl_by_question=bootstrap(by_question(kl, questions)[0]).within(0.0) if has_kl else None,
        noise_floor=noise_floor(full, quantised, float(kl.mean())) if has_kl else None,
        same_top1=weighted(same_top1, questions).within(0.0, 1.0),
        probability_change=distribution(np.exp(-own) - np.exp(-base), questions),
        perplexity=Perplexity(
            full=float(np.exp(base.mean())),
            quantised=float(np.exp(own.mean())),
            log_ratio=weighted(own - base, questions),
            correlation=pearson(base, own),
        ),
        changes=tuple(token_change(metric, a, b) for metric in scalars),
        hidden_error=error,
        hidden_similarity=similarity,
    )


def token_change(metric: str, a: pa.Table, b: pa.Table) -> TokenChange:
    """Change of a numeric column from the rows of `a` to the same rows of `b`."""
    x, y = numbers(a, metric), numbers(b, metric)
    mean, rms = float((y - x).mean()), float(np.sqrt(np.mean((y - x) ** 2)))
    return TokenChange(metric, mean, rms, pearson(x, y), spearman(x, y))
