"""The first screen: what was asked of each model, answered in sentences, each figure with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edge.analysis.divergence import Divergence
from edge.analysis.free import FreePart
from edge.report.model import Comparison, ModelGroup
from edge.report.tables import (
    change_of,
    class_reason,
    interval,
    kl_text,
    layer_name,
    metric_name,
    number,
    percent,
)


class Short(NamedTuple):
    """Questions and their answers, about `group`."""

    group: ModelGroup
    answers: list[tuple[str, list[str]]]


class PrecisionPair(NamedTuple):
    """One precision's runs beside the reference: on its tokens, and on its own."""

    name: str
    forced: Comparison | None
    free: Comparison | None

    @property
    def comparison(self) -> Comparison | None:
        """The one that compares token by token, where there is one."""
        return self.forced or self.free


def overview(groups: Sequence[ModelGroup]) -> list[Short]:
    """Which class, how much quantisation changes, where that starts, whether entropy can be trusted as a
    warning."""
    return [Short(group, answers(group)) for group in groups]


def answers(group: ModelGroup) -> list[tuple[str, list[str]]]:
    found = group.reference.dynamics.model_class
    said = [("Which class?", [f"{found.label.capitalize()}. {sentence(class_reason(found))}"])]
    if beside := pairs(group):
        said.append(("How much does quantisation change?", [changes(pair) for pair in beside]))
        said.append(("Where does it start?", starts(beside[-1])))
    said.append(("Does entropy warn of untrue answers?", [warning(group)]))
    return said


def sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def pairs(group: ModelGroup) -> list[PrecisionPair]:
    """By precision, the fewest bits last."""
    found: dict[str, PrecisionPair] = {}
    for c in group.comparisons:
        name = c.quantised.run.manifest.precision
        pair = found.get(name, PrecisionPair(name, None, None))
        found[name] = pair._replace(forced=c) if c.quantised.forced else pair._replace(free=c)
    return list(found.values())


def changes(pair: PrecisionPair) -> str:
    parts = [kl_part(pair.forced.divergence) if pair.forced else "KL not known (edge force measures it)"]
    if pair.comparison:
        parts.append(f"output entropy {change_of('output_entropy')(pair.comparison.divergence)} nat")
    if pair.free and pair.free.divergence.free:
        parts.append(f"{percent(pair.free.divergence.free.identical)} of its own answers are the same")
    return f"{pair.name}: {', '.join(parts)}."


def kl_part(found: Divergence) -> str:
    if found.forced is None or found.forced.kl is None:
        return "KL not known (its reference kept no distributions)"
    return f"KL {kl_text(found)} nat a token"


def starts(pair: PrecisionPair) -> list[str]:
    """The first layer that changes beyond chance, by the metric in which that is earliest, and the token
    where answers part."""
    shown = pair.comparison
    said = []
    if shown is not None and shown.starts:
        found = [(start.first, start.metric) for start in shown.starts if start.first is not None]
        if found:
            layer, metric = min(found, key=lambda each: each[0])
            name = metric_name(metric).lower()
            where = f"{layer_name(layer)} is the first to change beyond chance ({name})"
        else:
            where = "no layer changes beyond chance"
        where += "" if shown.quantised.forced else ", on its own answers, so the tokens differ too"
        said.append(f"{pair.name}: {where}.")
    elif shown is not None:
        said.append(
            f"{pair.name}: layers are not known, attention and hidden states were not recorded in both runs."
        )
    if pair.free and pair.free.divergence.free:
        said.append(first_token(pair.free.divergence.free))
    return said


def first_token(free: FreePart) -> str:
    if not free.first:
        return "No answer differs."
    return (
        f"Answers that differ ({len(free.first)}) part at token {number(free.median_step + 1)} (median); "
        f"on the average over all answers {percent(free.common_prefix)} of the tokens come before that."
    )


def warning(group: ModelGroup) -> str:
    """From the reference's outcomes: AUROC of the mean output entropy, and whether it withstands
    correction."""
    study = group.reference.study
    if study is None or study.truth is None:
        return "Not known: no outcomes are labelled (edge label does that)."
    truth = study.truth
    mean = next((p for p in truth.predictions if (p.metric, p.summary) == ("output_entropy", "mean")), None)
    if truth.problem or mean is None:
        return f"Not known: {truth.problem or 'its mean was not judged'}."
    judged = f"{mean.questions} answers ({truth.source} labels)"
    auroc = f"the mean output entropy of an answer has AUROC {interval(mean.auroc)} over {judged}"
    if all(p is not mean for p in truth.found):
        return f"No sign of it: {auroc}, which after Holm’s correction is no better than chance (0.5)."
    way = "Yes" if mean.auroc.value > 0.5 else "Only the other way round"
    return f"{way}: {auroc}, beyond chance after Holm’s correction."
