"""Agreement between raters: Cohen's kappa and Krippendorff's alpha for nominal labels."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple


class RaterPair(NamedTuple):
    """Two raters: the units that both judged, the share on which they agree, and kappa (NaN: undefined)."""

    first: str
    second: str
    units: int
    agreed: float
    kappa: float


def cohen_kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Cohen's kappa, (p_o - p_e) / (1 - p_e) (Cohen 1960).

    p_o is the share of equal labels, p_e the share expected by chance from each rater's own shares. NaN if
    it is undefined: there is no unit, or both raters always give one and the same label. Raises ValueError
    for unequal lengths.
    """
    n = len(first)
    observed = sum(a == b for a, b in zip(first, second, strict=True))
    if not n:
        return math.nan
    one, other = Counter(first), Counter(second)
    chance = sum(count * other[label] for label, count in one.items())  # times n^2, so that 1 is met exactly
    return math.nan if chance == n * n else (observed * n - chance) / (n * n - chance)


def krippendorff_alpha(units: Sequence[Sequence[Hashable]]) -> float:
    """Krippendorff's alpha, 1 - D_o / D_e, for nominal labels of any number of raters (Krippendorff 2011,
    "Computing Krippendorff's alpha-reliability").

    `units` holds the labels of each thing judged, without missing ones. A unit with fewer than two labels
    does not count. NaN if it is undefined: there is no such unit, or only one label.
    """
    judged = [Counter(labels) for labels in units if len(labels) > 1]
    totals = sum(judged, Counter[Hashable]())
    n = totals.total()
    # Pairs of labels that differ: within units, each weighed by 1 / (m - 1), and between any two labels.
    observed = math.fsum((c.total() ** 2 - sum(k * k for k in c.values())) / (c.total() - 1) for c in judged)
    expected = n * n - sum(k * k for k in totals.values())
    return math.nan if expected == 0 else 1 - (n - 1) * observed / expected


def agreement(by_rater: Mapping[str, Mapping[int, str]]) -> tuple[list[RaterPair], float]:
    """Each pair of raters over the units that both judged, and alpha over all raters. `by_rater` has each
    rater's labels by unit."""
    pairs = []
    for first, second in itertools.combinations(sorted(by_rater), 2):
        one, other = by_rater[first], by_rater[second]
        shared = sorted(one.keys() & other.keys())
        a, b = [one[unit] for unit in shared], [other[unit] for unit in shared]
        agreed = sum(x == y for x, y in zip(a, b, strict=True)) / len(shared) if shared else math.nan
        pairs.append(RaterPair(first, second, len(shared), agreed, cohen_kappa(a, b)))
    units = sorted({unit for labels in by_rater.values() for unit in labels})
    by_unit = [[labels[unit] for labels in by_rater.values() if unit in labels] for unit in units]
    return pairs, krippendorff_alpha(by_unit)
