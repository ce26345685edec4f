"""The first screen: four questions about each model, answered in sentences with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edge.analysis.divergence import Divergence
from edge.analysis.free import FreePart
from edge.report.formatting import (
    change_of,
    interval,
    kl_text,
    layer_name,
    metric_name,
    number,
    percent,
)
from edge.report.model import Comparison, ModelGroup
from edge.report.sentences import class_reason


class Overview(NamedTuple):
    """Questions about a group and their answers, each a list of sentences."""

    group: ModelGroup
    answers: list[tuple[str, list[str]]]


class PrecisionRuns(NamedTuple):
    """One precision's two runs: forced on the reference's tokens, and free on its own."""

    name: str
    forced: Comparison | None
    free: Comparison | None

    @property
    def comparison(self) -> Comparison | None:
        """The forced run's comparison, which goes token by token; without one, the free run's."""
        return self.forced or self.free


def overview(groups: Sequence[ModelGroup]) -> list[Overview]:
    """The questions about each group with their answers."""
    return [Overview(group, answers(group)) for group in groups]


def answers(group: ModelGroup) -> list[tuple[str, list[str]]]:
    """The questions about one group with their answers."""
    model_class = group.reference.dynamics.model_class
    reason = sentence(class_reason(model_class))  # which begins with TOO_FEW where there is no class
    class_answer = f"{model_class.label.capitalize()}. {reason}" if model_class.defined else reason
    entries = [("Which class?", [class_answer])]
    if precisions := runs_by_precision(group):
        entries.append(("How much does quantisation change?", [changes(runs) for runs in precisions]))
        entries.append(("Where does it start?", starts(precisions[-1])))
    entries.append(("Does entropy warn of untrue answers?", [warning(group)]))
    return entries


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def runs_by_precision(group: ModelGroup) -> list[PrecisionRuns]:
    """The runs of each precision, the fewest bits last."""
    by_name: dict[str, PrecisionRuns] = {}
    for comparison in group.comparisons:
        name = comparison.quantised.run.manifest.precision
        runs = by_name.get(name, PrecisionRuns(name, None, None))
        forced = comparison.quantised.forced
        by_name[name] = runs._replace(forced=comparison) if forced else runs._replace(free=comparison)
    return list(by_name.values())


def changes(runs: PrecisionRuns) -> str:
    """A sentence that says how much one precision changes."""
    parts = [kl_part(runs.forced.divergence) if runs.forced else "KL not known (edge force measures it)"]
    if runs.comparison:
        parts.append(f"output entropy {change_of('output_entropy')(runs.comparison.divergence)} nat")
    if runs.free and runs.free.divergence.free:
        parts.append(f"{percent(runs.free.divergence.free.identical)} of its own answers are the same")
    forced = runs.forced.divergence.forced if runs.forced else None
    floor = forced.noise_floor if forced else None
    noise = f" {floor.text}." if floor and floor.near else ""
    return f"{runs.name}: {', '.join(parts)}.{noise}"


def kl_part(divergence: Divergence) -> str:
    """The mean KL of a forced run in words."""
    if divergence.forced is None or divergence.forced.kl is None:
        return "KL not known (its reference kept no distributions)"
    return f"KL {kl_text(divergence)} nat a token"


def starts(runs: PrecisionRuns) -> list[str]:
    """Sentences about the first layer that changes beyond chance and the token where answers part."""
    sentences = []
    if runs.comparison is not None:
        sentences.append(f"{runs.name}: {first_layer(runs.comparison)}.")
    if runs.free and runs.free.divergence.free:
        sentences.append(first_token(runs.free.divergence.free))
    return sentences


def first_layer(comparison: Comparison) -> str:
    """The first layer that changes beyond chance, by the metric in which it is earliest."""
    if not comparison.starts:
        return "layers are not known, attention and hidden states were not recorded in both runs"
    layers = [(start.first, start.metric) for start in comparison.starts if start.first is not None]
    if layers:
        layer, metric = min(layers, key=lambda entry: entry[0])
        text = f"{layer_name(layer)} is the first to change beyond chance ({metric_name(metric).lower()})"
    else:
        text = "no layer changes beyond chance"
    return text if comparison.quantised.forced else f"{text}, on its own answers, so the tokens differ too"


def first_token(free: FreePart) -> str:
    """A sentence that says at which token free answers part."""
    if not free.first:
        return "No answer differs."
    return (
        f"Answers that differ ({len(free.first)}) part at token {number(free.median_step + 1)} (median); "
        f"on the average over all answers {percent(free.common_prefix)} of the tokens come before that."
    )


def warning(group: ModelGroup) -> str:
    """A sentence on whether the reference's mean output entropy predicts its untrue answers (AUROC)."""
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
