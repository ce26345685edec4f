"""How far a column may be from the other machine's, by precision."""

from __future__ import annotations

from collections.abc import Iterable

from edge.signals.streaming import SeriesSummary
from tests.arm.compare import Difference
from tests.noise import ACTIVATION_NOISE

FULL = "onnx-fp32"
FULL_LARGEST = 1e-3
# A mean over an answer is no noisier than its rows; a slope, a shift or a rank correlation may be, and is
# only measured.
MEASURED_ONLY = {"sd", "slope", "slope_per_token", "shift", "spearman"}
# Ranks among rounding errors: the KL of full precision to itself is 1e-7 or so everywhere.
NOT_RANKED = "kl_spearman"
# Of forced columns: nats of KL(x86 || ARM), and the root of the share of rows whose most likely token may
# differ.
FORCED = {"kl": 0.1, "same_top1": 0.4, "reference_surprisal": 0.0}


def bound(precision: str, column: str) -> tuple[str, float]:
    """What of a difference is bounded (`largest` or `rms`) and by how much, infinite where it is only
    measured.

    Full precision: 1e-3 for every number. Quantised: either machine's rounded activations are within
    ACTIVATION_NOISE (root mean square) of the model of dequantised weights, so they are within twice that of
    each other.
    """
    if precision == FULL:
        if column == NOT_RANKED:
            return "rms", float("inf")
        return "largest", FULL_LARGEST
    metric, part = split(column)
    metric = metric.removesuffix("_normalised")  # a division by ln V or ln K makes nothing larger
    if part in MEASURED_ONLY:
        return "rms", float("inf")
    if metric in FORCED:
        return "rms", FORCED[metric]
    # Whatever else there is (texts, tokens, counts, top tokens' log probabilities) is the same or not.
    return "rms", 2 * ACTIVATION_NOISE.get("surprisal" if metric.startswith("reference_") else metric, 0.0)


def split(column: str) -> tuple[str, str]:
    """Metric and statistic of a column: `surprisal_mean` is (`surprisal`, `mean`), `surprisal` (`surprisal`,
    "")."""
    for part in sorted((*SeriesSummary._fields, "mean_vector", "share"), key=len, reverse=True):
        if column.endswith(f"_{part}"):
            return column.removesuffix(f"_{part}"), part
    return column, ""


def beyond(precision: str, found: Iterable[Difference]) -> list[Difference]:
    """Those that are beyond their bound, or not alike at all."""
    failed = []
    for difference in found:
        kind, limit = bound(precision, difference.column)
        if getattr(difference, kind) > limit or difference.largest == float("inf"):
            failed.append(difference)
    return failed
