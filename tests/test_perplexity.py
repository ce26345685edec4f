"""llama-perplexity's list: the same numbers as its own definitions, written out as it has them, from
sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edge.analysis.intervals import cluster_error
from edge.analysis.perplexity import KLD, PERPLEXITY, PROBABILITY, Statistic, statistics

RNG = np.random.default_rng(11)
TOKENS = 501
BASE = RNG.exponential(1.0, TOKENS)
OWN = np.abs(BASE + RNG.normal(0.05, 0.3, TOKENS))
KL = RNG.exponential(0.1, TOKENS)
SAME = RNG.random(TOKENS) < 0.8
QUESTIONS = np.sort(RNG.integers(0, 40, TOKENS))


def mean_and_uncertainty(values) -> tuple[float, float]:
    total, squares, n = math.fsum(values), math.fsum(v * v for v in values), len(values)
    mean = total / n
    return mean, math.sqrt(max(0.0, squares / n - mean * mean) / (n - 1))


def covariance(a, b) -> float:
    n = len(a)
    both = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return (both / n - math.fsum(a) / n * math.fsum(b) / n) / (n - 1)


def percentile(values, fraction: float) -> float:
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    below = int(place)
    return (1 - (place - below)) * ordered[below] + (place - below) * ordered[
        min(below + 1, len(ordered) - 1)
    ]


def expected() -> list[tuple[str, str, float, float]]:
    """Section, name, value and the tool's own error (NaN where it prints none)."""
    own, base, kl = OWN.tolist(), BASE.tolist(), KL.tolist()
    (q, q_error), (b, b_error), both = (
        mean_and_uncertainty(own),
        mean_and_uncertainty(base),
        covariance(own, base),
    )
    ratio, ratio_error = q - b, math.sqrt(q_error**2 + b_error**2 - 2 * both)
    ppl, ppl_base = math.exp(q), math.exp(b)
    difference_error = math.sqrt(
        (ppl * q_error) ** 2 + (ppl_base * b_error) ** 2 - 2 * ppl * ppl_base * both
    )
    rows = [
        (PERPLEXITY, "Mean PPL(Q)", ppl, ppl * q_error),
        (PERPLEXITY, "Mean PPL(base)", ppl_base, ppl_base * b_error),
        (PERPLEXITY, "Cor(ln(PPL(Q)), ln(PPL(base)))", both / (q_error * b_error), math.nan),
        (PERPLEXITY, "Mean ln(PPL(Q)/PPL(base))", ratio, ratio_error),
        (PERPLEXITY, "Mean PPL(Q)/PPL(base)", math.exp(ratio), math.exp(ratio) * ratio_error),
        (PERPLEXITY, "Mean PPL(Q)-PPL(base)", ppl - ppl_base, difference_error),
        (KLD, "Mean KLD", *mean_and_uncertainty(kl)),
    ]
    points = [
        ("Maximum", 1.0),
        ("99.9%", 0.999),
        ("99.0%", 0.99),
        ("95.0%", 0.95),
        ("90.0%", 0.9),
        ("Median", 0.5),
        ("10.0%", 0.1),
        ("5.0%", 0.05),
        ("1.0%", 0.01),
        ("0.1%", 0.001),
        ("Minimum", 0.0),
    ]
    rows += [(KLD, f"{name} KLD", percentile(kl, fraction), math.nan) for name, fraction in points]
    change = [math.exp(-x) - math.exp(-y) for x, y in zip(own, base, strict=True)]
    rows.append((PROBABILITY, "Mean Δp", *mean_and_uncertainty(change)))
    points[5:6] = [("75.0%", 0.75), ("Median", 0.5), ("25.0%", 0.25)]
    rows += [
        (PROBABILITY, f"{name} Δp", percentile(change, fraction), math.nan) for name, fraction in points
    ]
    square, square_error = mean_and_uncertainty([d * d for d in change])
    rows.append((PROBABILITY, "RMS Δp", math.sqrt(square), 0.5 / math.sqrt(square) * square_error))
    same = sum(SAME.tolist()) / TOKENS
    rows.append((PROBABILITY, "Same top p", same, math.sqrt(same * (1 - same) / (TOKENS - 1))))
    return rows


def test_the_list_is_that_of_llama_perplexity_in_order_names_values_and_errors():
    found = statistics(BASE, OWN, KL, SAME, QUESTIONS)
    wanted = expected()
    assert [(line.section, line.name) for line in found] == [row[:2] for row in wanted]
    for line, (_, name, value, error) in zip(found, wanted, strict=True):
        assert line.value == pytest.approx(value, rel=1e-9, abs=1e-12), name
        assert line.token_error == pytest.approx(error, rel=1e-6, nan_ok=True), name


def test_errors_over_questions_are_those_of_the_linear_term():
    """And cover: over resampled answers the statistics spread as the errors say."""
    found = {line.name: line for line in statistics(BASE, OWN, KL, SAME, QUESTIONS)}
    assert found["Mean KLD"].error == pytest.approx(cluster_error(KL, QUESTIONS))
    rng, groups = np.random.default_rng(5), [np.flatnonzero(q == QUESTIONS) for q in range(40)]
    draws: dict[str, list[float]] = {}
    for _ in range(400):
        rows = np.concatenate([groups[q] for q in rng.integers(0, 40, 40)])
        for line in statistics(BASE[rows], OWN[rows], KL[rows], SAME[rows], np.arange(rows.size)):
            draws.setdefault(line.name, []).append(line.value)
    for name, line in found.items():
        if not math.isnan(line.error):
            assert np.std(draws[name]) == pytest.approx(line.error, rel=0.15), name


def test_tokens_of_one_answer_do_not_count_as_independent():
    """Every token of an answer the same: the error is that of the answers, not llama-perplexity's."""
    by_question = np.random.default_rng(2).exponential(1.0, 20)
    questions = np.repeat(np.arange(20), 50)
    values = by_question[questions]
    line = next(
        s for s in statistics(values, values, values, np.ones(1000), questions) if s.name == "Mean KLD"
    )
    assert line.error == pytest.approx(by_question.std(ddof=1) / math.sqrt(20), rel=1e-9)
    assert line.error > 6 * line.token_error


def test_equal_models_differ_in_nothing():
    found = {
        line.name: line for line in statistics(BASE, BASE, np.zeros(TOKENS), np.ones(TOKENS), QUESTIONS)
    }
    assert found["Mean PPL(Q)-PPL(base)"][2:] == (0.0, 0.0, 0.0)
    assert found["Mean PPL(Q)/PPL(base)"][2:] == (1.0, 0.0, 0.0)
    assert found["RMS Δp"].value == 0.0
    assert found["Same top p"].value == 1.0
    assert found["Maximum KLD"].value == 0.0


def test_without_kept_distributions_there_is_no_divergence_in_the_list():
    found = statistics(BASE, OWN, None, SAME, QUESTIONS)
    assert {line.section for line in found} == {PERPLEXITY, PROBABILITY}
    with pytest.raises(ValueError, match="no tokens"):
        statistics([], [], None, [], [])
    assert isinstance(found[0], Statistic)
