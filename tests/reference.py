"""Slow, obvious twins of the metrics: plain loops over float64, written from METRICS.md and from nothing
else.

Arguments are nested sequences of floats: logits [V], attention [H][K], hidden [L+1][D].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

Vector = Sequence[float]


# From the logits


def log_normaliser(logits: Vector) -> float:
    largest = max(logits)
    return largest + math.log(math.fsum(math.exp(z - largest) for z in logits))


def log_probabilities(logits: Vector) -> list[float]:
    largest = max(logits)  # apart from the sum's logarithm, which a huge logit would swallow
    log_sum = math.log(math.fsum(math.exp(z - largest) for z in logits))
    return [z - largest - log_sum for z in logits]


def entropy(probabilities: Vector) -> float:
    """-sum p ln p with 0 ln 0 = 0."""
    return -math.fsum(p * math.log(p) for p in probabilities if p > 0.0)


def output_entropy(logits: Vector) -> float:
    return -math.fsum(math.exp(lp) * lp for lp in log_probabilities(logits) if lp > -math.inf)


def varentropy(logits: Vector) -> float:
    h = output_entropy(logits)
    return math.fsum(math.exp(lp) * (lp + h) ** 2 for lp in log_probabilities(logits) if lp > -math.inf)


def top1_probability(logits: Vector) -> float:
    return max(math.exp(lp) for lp in log_probabilities(logits))


def top1_top2_gap(logits: Vector) -> float:
    ordered = sorted((math.exp(lp) for lp in log_probabilities(logits)), reverse=True)
    return ordered[0] - (ordered[1] if len(ordered) > 1 else 0.0)


def surprisal(logits: Vector, token: int) -> float:
    return -log_probabilities(logits)[token]


def kl(p_logits: Vector, q_logits: Vector) -> float:
    """KL(p || q) over the whole vocabulary."""
    pairs = zip(log_probabilities(p_logits), log_probabilities(q_logits), strict=True)
    return math.fsum(math.exp(lp) * (lp - lq) for lp, lq in pairs if lp > -math.inf)


# From the attention of one query in one layer


def mean(values: Vector) -> float:
    return math.fsum(values) / len(values)


def population_sd(values: Vector) -> float:
    centre = mean(values)
    return math.sqrt(math.fsum((v - centre) ** 2 for v in values) / len(values))


def attention_entropy(rows: Sequence[Vector]) -> list[float]:
    return [entropy(row) for row in rows]


def sink_mass(rows: Sequence[Vector]) -> list[float]:
    return [row[0] for row in rows]


def attention_renyi2(rows: Sequence[Vector]) -> list[float]:
    return [-math.log(math.fsum(a * a for a in row)) for row in rows]


def attention_entropy_layer(rows: Sequence[Vector]) -> float:
    return mean(attention_entropy(rows))


def head_dispersion(rows: Sequence[Vector]) -> float:
    return population_sd(attention_entropy(rows))


def head_divergence(rows: Sequence[Vector]) -> float:
    mixture = [math.fsum(row[k] for row in rows) / len(rows) for k in range(len(rows[0]))]
    return entropy(mixture) - mean(attention_entropy(rows))


# From the hidden states


def norm(v: Vector) -> float:
    return math.sqrt(math.fsum(x * x for x in v))


def difference(a: Vector, b: Vector) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def cosine(a: Vector, b: Vector) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (norm(a) * norm(b))


def hidden_norm(hidden: Sequence[Vector]) -> list[float]:
    return [norm(h) for h in hidden]


def layer_delta(hidden: Sequence[Vector]) -> list[float]:
    return [norm(difference(hidden[i], hidden[i - 1])) for i in range(1, len(hidden))]


def layer_cosine(hidden: Sequence[Vector]) -> list[float]:
    return [cosine(hidden[i], hidden[i - 1]) for i in range(1, len(hidden))]


def token_delta(hidden: Sequence[Vector], before: Sequence[Vector]) -> list[float]:
    return [norm(difference(h, b)) for h, b in zip(hidden, before, strict=True)]


def token_cosine(hidden: Sequence[Vector], before: Sequence[Vector]) -> list[float]:
    return [cosine(h, b) for h, b in zip(hidden, before, strict=True)]


# Over one answer


class Summary(NamedTuple):
    mean: float
    sd: float
    min: float
    max: float
    slope: float
    slope_per_token: float
    p10: float
    p50: float
    p90: float
    early: float
    late: float
    shift: float
    spearman: float


def least_squares_slope(x: Vector, y: Vector) -> float:
    if len(x) < 2:
        return math.nan
    mx, my = mean(x), mean(y)
    return math.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / math.fsum(
        (a - mx) ** 2 for a in x
    )


def percentile(values: Vector, q: float) -> float:
    """Linear interpolation between the closest ranks."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * q / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def window(n: int) -> int:
    """20% of n rows, rounded up, at least one."""
    return max(1, math.ceil(n / 5))


def rank(values: Vector) -> list[float]:
    """1..n, equals share the mean of their ranks."""
    return [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]


def pearson(x: Vector, y: Vector) -> float:
    if len(x) < 2 or len(set(x)) == 1 or len(set(y)) == 1:
        return math.nan
    mx, my = mean(x), mean(y)
    products = math.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return products / math.sqrt(math.fsum((a - mx) ** 2 for a in x) * math.fsum((b - my) ** 2 for b in y))


def summary(series: Vector, first: int = 0, rows: int | None = None) -> Summary:
    """Of the values at rows first, first + 1, ... of an answer of `rows` rows (all of them unless told)."""
    n = len(series)
    total = n if rows is None else rows
    if n == 0:
        return Summary(*[math.nan] * len(Summary._fields))
    t = [float(first + i) for i in range(n)]
    early, late = math.nan, math.nan
    if total >= 10:
        early, late = mean(series[: window(n)]), mean(series[n - window(n) :])
    return Summary(
        mean=mean(series),
        sd=population_sd(series),
        min=min(series),
        max=max(series),
        slope=least_squares_slope([u / total for u in t], series),
        slope_per_token=least_squares_slope(t, series),
        p10=percentile(series, 10),
        p50=percentile(series, 50),
        p90=percentile(series, 90),
        early=early,
        late=late,
        shift=late - early,
        spearman=pearson(rank(t), rank(series)),
    )


# Over questions


def studentised(values: Vector, weights: Vector, draws: list[list[int]]) -> tuple[float, float]:
    """95% bounds of the weighted mean from resamples, given as the number of times each value was drawn.

    The standard error is that of a ratio of sums. A resample's variance counts as 5% of the sample's at
    least.
    """

    def estimate(xs: Vector, ws: Vector) -> tuple[float, float]:
        total = math.fsum(ws)
        centre = math.fsum(w * x for w, x in zip(ws, xs, strict=True)) / total
        variance = math.fsum((w * (x - centre)) ** 2 for w, x in zip(ws, xs, strict=True)) / total**2
        return centre, variance

    centre, variance = estimate(values, weights)
    ratios = []
    for counts in draws:
        places = [i for i, count in enumerate(counts) for _ in range(count)]
        drawn, own = estimate([values[i] for i in places], [weights[i] for i in places])
        ratios.append((drawn - centre) / math.sqrt(max(own, 0.05 * variance)))
    error = math.sqrt(variance * len(values) / (len(values) - 1))  # unbiased
    return centre - percentile(ratios, 97.5) * error, centre - percentile(ratios, 2.5) * error


# Loops


def repeated_share(tokens: Sequence[int]) -> float:
    """Share of the 8-grams ending in the last fifth that occur earlier in the answer."""
    last = range(len(tokens) - math.ceil(len(tokens) / 5), len(tokens))
    grams = {end: list(tokens[end - 7 : end + 1]) for end in range(7, len(tokens))}
    ends = [end for end in last if end in grams]
    if not ends:
        return math.nan
    found = [any(grams[end] == grams[before] for before in range(7, end)) for end in ends]
    return sum(found) / len(ends)
