"""How often 95% intervals hold the truth: `python -m benchmarks.coverage`.

Draws samples whose true mean is known, and prints Markdown tables of the share of samples whose interval
holds it, for each number of answers. The percentile bootstrap, which was used before, stands beside. Seeded.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge.analysis.classes import BALANCED, classify
from edge.analysis.intervals import Float64, bootstrap, mean_columns, resampled, share, share_change
from edge.analysis.ranking import draws_of, percentile_interval, rank_draws

COUNTS = (5, 10, 20, 50, 100, 200)
CHUNK = 250  # samples at once: their resamples fill 16 MB
SEED = 20261127
UNTRUE = 0.5  # share of untrue answers where AUROC is judged
NOISE = 0.5  # nats, SD over answers of the shift of a model without any


class Population(NamedTuple):
    """A distribution of answers: samples of a given shape, and their true mean."""

    name: str
    draw: Callable[[np.random.Generator, tuple[int, int]], Float64]
    mean: float


POPULATIONS = (
    Population("normal", lambda rng, shape: rng.normal(size=shape), 0.0),
    Population("exponential", lambda rng, shape: rng.exponential(size=shape), 1.0),
    Population("uniform", lambda rng, shape: rng.uniform(size=shape), 0.5),
    Population("Student's t, 3 degrees of freedom", lambda rng, shape: rng.standard_t(3, size=shape), 0.0),
    Population("lognormal, sigma 1", lambda rng, shape: rng.lognormal(size=shape), math.exp(0.5)),
    Population(
        "exponential, 0 in half of the answers",
        lambda rng, shape: rng.exponential(size=shape) * (rng.uniform(size=shape) < 0.5),
        0.5,
    ),
)


def held(low: Float64, high: Float64, truth: float) -> int:
    """Number of intervals that hold the truth."""
    return int(np.sum((low <= truth) & (truth <= high)))


def mean_coverage(population: Population, count: int, samples: int) -> tuple[float, float]:
    """Shares of samples of `count` answers in which our interval of the mean holds the truth, and in which
    the percentile bootstrap's does."""
    rng = np.random.default_rng([SEED, count])
    ours, percentile, drawn = 0, 0, 0
    while drawn < samples:
        x = population.draw(rng, (count, CHUNK))
        columns = mean_columns(x)
        ours += held(columns.low, columns.high, population.mean)
        low, high = np.percentile(resampled(count) @ x / count, (2.5, 97.5), axis=0)
        percentile += held(low, high, population.mean)
        drawn += CHUNK
    return ours / drawn, percentile / drawn


def weighted_coverage(count: int, samples: int) -> float:
    """The same for a mean over tokens: longer answers (5 to 200 tokens) have higher values."""
    rng = np.random.default_rng([SEED, count, 1])
    lengths = np.arange(5, 201)
    truth = float(np.mean(lengths**2) / np.mean(lengths)) / 100
    hits = 0
    for _ in range(samples):
        tokens = rng.integers(5, 201, count).astype(np.float64)
        _, low, high, _ = bootstrap(rng.normal(tokens / 100, 1.0), tokens)
        hits += low <= truth <= high
    return hits / samples


def share_coverage(p: float, count: int) -> float:
    """The same for a share (exactly: a sum over the binomial distribution)."""
    total = 0.0
    for ones in range(count + 1):
        _, low, high, _ = share([1.0] * ones + [0.0] * (count - ones))
        if low <= p <= high:
            total += math.comb(count, ones) * p**ones * (1 - p) ** (count - ones)
    return total


def share_change_coverage(up: float, down: float, count: int, samples: int) -> float:
    """The same for a paired change of a share: an answer turns to 1 with chance `up`, to 0 with `down`."""
    rng = np.random.default_rng([SEED, count, 2])
    hits = 0
    for _ in range(samples):
        turn = rng.choice(3, count, p=(1 - up - down, up, down))
        _, low, high, _ = share_change((turn == 2).astype(np.float64), (turn == 1).astype(np.float64))
        hits += low <= up - down <= high
    return hits / samples


def auroc_coverage(count: int, samples: int) -> float:
    """The same for AUROC (percentile bootstrap): untrue answers score one SD higher."""
    rng = np.random.default_rng([SEED, count, 3])
    truth = 0.5 * math.erfc(-0.5)  # P(X > Y) of normals one SD apart: Phi(1 / sqrt(2))
    untrue = np.arange(count) < count * UNTRUE
    hits = 0
    for _ in range(samples):
        scores = rng.normal(untrue.astype(np.float64), 1.0)
        interval = percentile_interval(rank_draws(scores, untrue, draws_of(count)).auroc)
        hits += interval.low <= truth <= interval.high
    return hits / samples


def false_classes(count: int, samples: int) -> float:
    """Share of models without any shift that get another class than balanced (or none)."""
    rng = np.random.default_rng([SEED, count, 4])
    classes = [classify(rng.normal(0.0, NOISE, count)) for _ in range(samples)]
    return sum(c.defined and c.label != BALANCED for c in classes) / samples


def table(title: str, rows: dict[str, list[float | None]]) -> None:
    """Print a Markdown table with a column for each number of answers."""
    print(f"\n| {title} | {' | '.join(f'n = {count}' for count in COUNTS)} |")
    print("|---" * (len(COUNTS) + 1) + "|")
    for name, values in rows.items():
        cells = ("–" if value is None else f"{value:.3f}" for value in values)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10000, help="samples of each number of answers")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    samples, some = options.samples, max(1, options.samples // 5)
    means = {p.name: [mean_coverage(p, count, samples) for count in COUNTS] for p in POPULATIONS}
    ours: dict[str, list[float | None]] = {name: [pair[0] for pair in row] for name, row in means.items()}
    ours["weighted by tokens, normal"] = [weighted_coverage(count, some) for count in COUNTS]
    table("interval of the mean", ours)
    before: dict[str, list[float | None]] = {name: [pair[1] for pair in row] for name, row in means.items()}
    table("percentile bootstrap of the mean, which was used before", before)
    others: dict[str, list[float | None]] = {
        f"share of {p:g}, Wilson": [share_coverage(p, count) for count in COUNTS] for p in (0.5, 0.2, 0.05)
    }
    others["paired change of a share, 10% up, 5% down"] = [
        share_change_coverage(0.1, 0.05, count, some) for count in COUNTS
    ]
    others["AUROC of 0.76, half untrue, percentile"] = [
        auroc_coverage(count, some) if count * UNTRUE >= 10 else None for count in COUNTS
    ]
    table("other intervals", others)
    classes: dict[str, list[float | None]] = {
        "deterministic or exploratory": [false_classes(count, some) for count in COUNTS]
    }
    table("models without a shift, SD 0.5 nats", classes)
    if options.json:
        options.json.write_text(
            json.dumps({"ours": ours, "percentile": before, "others": others, "classes": classes}, indent=1)
        )


if __name__ == "__main__":
    main()
