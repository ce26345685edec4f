"""The first screen: a line for each model that answers what was asked, each figure with its interval."""

from __future__ import annotations

from collections.abc import Sequence

from edge.report.model import Comparison, ModelGroup
from edge.report.tables import ABSENT, Table, change_of, kl_text, layer_name, metric_name, number

COLUMNS = ("Model", "Class", "Runs", "Fewest bits", "KL from full (nat)", "Change of output entropy (nat)", "Starts in",
           "Does entropy warn of untrue answers?")  # fmt: skip


def overview(groups: Sequence[ModelGroup]) -> Table:
    """Which models, which class, how much quantisation changes and where that starts, whether entropy can be trusted."""
    return Table("In short", list(COLUMNS), [line(group) for group in groups])


def line(group: ModelGroup) -> list[str]:
    forced = last([c for c in group.comparisons if c.quantised.forced])
    shown = forced or last(group.comparisons)
    found = shown.divergence if shown else None
    return [
        group.model_id,
        group.reference.dynamics.model_class.label,
        str(len(group.runs)),
        shown.quantised.name if shown else ABSENT,
        kl_text(found) if found else ABSENT,
        change_of("output_entropy")(found) if found else ABSENT,
        starts(shown) if shown else ABSENT,
        warning(group),
    ]


def last(comparisons: Sequence[Comparison]) -> Comparison | None:
    """Of the run with the fewest bits."""
    return comparisons[-1] if comparisons else None


def starts(comparison: Comparison) -> str:
    """The first layer that changes beyond chance, by the metric in which that is earliest."""
    found = [(start.first, start.metric) for start in comparison.starts if start.first is not None]
    if not found:
        return "no layer changes beyond chance" if comparison.starts else ABSENT
    layer, metric = min(found, key=lambda each: each[0])
    return f"{layer_name(metric, layer)} ({metric_name(metric).lower()})"


def warning(group: ModelGroup) -> str:
    """From the reference's outcomes: AUROC of the mean output entropy, and whether it withstands correction."""
    study = group.reference.study
    if study is None or study.truth is None:
        return "not known: no outcomes (edge label)"
    truth = study.truth
    mean = next((p for p in truth.predictions if (p.metric, p.summary) == ("output_entropy", "mean")), None)
    if truth.problem or mean is None:
        return f"not known: {truth.problem or 'it was not judged'}"
    auroc = (
        f"AUROC {number(mean.auroc.value, digits=2)} [{number(mean.auroc.low, digits=2)}, {number(mean.auroc.high, digits=2)}]"
    )
    sure = any(p is mean for p in truth.found)
    if not sure:
        return f"no better than chance: {auroc}"
    return f"{'yes' if mean.auroc.value > 0.5 else 'yes, the other way round'}: {auroc}"
