"""Sentences about a model's runs: its class, where a change starts, perplexity, and notes for the reader."""

from __future__ import annotations

from edge.analysis.classes import BALANCED, DETERMINISTIC, TOO_FEW, DynamicsClass, answers_text
from edge.analysis.forced import ForcedPart
from edge.report.formatting import FEW_NOTE, interval, layer_name, metric_name, number
from edge.report.model import LayerStart, ModelGroup
from edge.runs.record import REFUSED
from edge.runs.sessions import cautions
from edge.signals.streaming import SHORTEST


def class_reason(model_class: DynamicsClass) -> str:
    """The reason for a class: the interval of the shift, the threshold in nats, and how many answers have
    one."""
    label, delta = model_class.label, model_class.delta
    decided_by = answers_text(model_class)
    shift = f"early to late shift of output entropy {interval(model_class.shift, signed=True)} nat"
    if not model_class.defined:
        return f"{TOO_FEW}: {decided_by}" + (f"; {shift}" if model_class.answers else "")
    if label == BALANCED:
        side = f"neither below −{delta:g} nor above +{delta:g}"
    else:
        side = f"below −{delta:g}" if label == DETERMINISTIC else f"above +{delta:g}"
    return f"{shift}: its 95% interval lies {side} nat ({decided_by})"


def start_text(start: LayerStart) -> str:
    """A sentence that says in which layers a metric changes most and first."""
    name = metric_name(start.metric)
    if start.largest is None or start.first is None:
        return f"{name}: no layer's 95% interval leaves out 0"
    change = number(100 * start.relative, signed=True, digits=3)
    return (
        f"{name}: the largest relative change is in {layer_name(start.largest)} ({change} %); "
        f"{start.sure} of {start.layers} layers change beyond chance, "
        f"the first of them is {layer_name(start.first)}"
    )


def perplexity_text(forced: ForcedPart) -> str:
    """Perplexity in full and quantised, on the same tokens."""
    perplexity = forced.perplexity
    return (
        f"perplexity {number(perplexity.full)} in full and {number(perplexity.quantised)} quantised, "
        f"log of their ratio {interval(perplexity.log_ratio, signed=True)}, "
        f"correlation of log-probabilities {number(perplexity.correlation)}"
    )


def notes(group: ModelGroup) -> list[str]:
    """What a reader must know before trusting the numbers: missing signals, questions without an answer."""
    sentences = []
    untapped = [data.name for data in group.runs if not data.run.manifest.artifact.tapped]
    if untapped:
        sentences.append(
            f"{', '.join(untapped)}: traced from an artifact without taps, so attention and hidden states "
            "were not recorded and their figures and tables leave it out; "
            "build the artifact with --taps rows to see them."
        )
    questions = group.reference.dynamics.questions
    unanswered: dict[tuple[str, int], list[str]] = {}
    for data in group.runs:
        refused = data.dynamics.stop_reasons.get(REFUSED, 0)
        for why, count in (
            (f"did not fit the context of {group.spec.context} positions", data.without_rows - refused),
            ("could not be asked (the column note of answers says why)", refused),
        ):
            unanswered.setdefault((why, count), []).append(data.name)
    sentences += [
        f"{', '.join(names)}: {count} of {questions} questions {why} and have no answer."
        for (why, count), names in unanswered.items()
        if count
    ]
    short: dict[int, list[str]] = {}
    for data in group.runs:
        short.setdefault(data.dynamics.model_class.left_out, []).append(data.name)
    sentences += [
        f"{', '.join(names)}: {count} of {group.reference.dynamics.questions} questions have an answer "
        f"under {SHORTEST} tokens, or none: they have no shift and no say in the class."
        for count, names in short.items()
        if count
    ]
    if any(line.over_questions.marked for data in group.runs for line in data.dynamics.lines):
        sentences.append(f"{FEW_NOTE}. What is called beyond chance rests on that, too.")
    if group.several_checkpoints:
        sentences.append(
            "These runs are not known to come from one checkpoint, "
            "so a change may not be quantisation's alone."
        )
    floors = [
        (c.quantised.name, forced.noise_floor) for c in group.comparisons if (forced := c.divergence.forced)
    ]
    sentences += [f"{name}: {floor.text}." for name, floor in floors if floor and floor.near]
    told = cautions([(data.name, data.run.sessions()) for data in group.runs])
    sentences += [f"{caution}." for caution in told]
    if any(data.run.manifest.settings.temperature for data in group.runs):
        sentences.append("Some answers were sampled, so two runs may differ by chance as well.")
    return sentences
