"""The tables of a study as Markdown, one function each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from edge.analysis.classes import class_name
from edge.analysis.published import SHORT_NAMES, published
from edge.analysis.truth import Truth
from edge.errors import UserError
from edge.report.formatting import ABSENT, interval, layer_name, number
from tools.study.results import ALL, ALONG, FINISHED, KINDS, TASKS, Damage, Layers, Single, StudyResults

# (table of the paper, measure): those that a reader asks for first.
BESIDE = (
    (1, "generated_tokens"),
    (1, "output_entropy_mean"),
    (1, "top1_probability_mean"),
    (1, "attention_entropy_mean"),
    (1, "head_dispersion_mean"),
    (4, "lowest_layer_1based"),
    (4, "highest_layer_1based"),
    (5, "output_shift"),
    (5, "attention_shift"),
)
BEST = 6  # scores
CHANCE = 0.5


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def answers(results: StudyResults) -> str:
    """How the answers of each precision ended."""

    def row(single: Single) -> list[str]:
        groups = single.groups
        counts = [
            f"{groups[kind].answers} ({number(groups[kind].tokens, digits=3)})" for kind in (ALL, *KINDS)
        ]
        return [single.name, number(single.bytes / 1e6, digits=3), *counts]

    heads = [f"{kind} (mean tokens)" for kind in (ALL, *KINDS)]
    return table(["artifact", "MB", *heads], map(row, results.singles))


def classes(results: StudyResults) -> str:
    """Shift of output entropy and class, over all answers and by kind."""

    def cell(single: Single, kind: str) -> str:
        found = single.groups[kind].model_class
        if not found.answers:
            return ABSENT
        name = class_name(found.label, found.left_out)
        return f"{interval(found.shift, signed=True)}: {name}"

    return table(
        ["artifact", *(f"{kind} answers" for kind in (ALL, *KINDS))],
        ([single.name, *(cell(single, kind) for kind in (ALL, *KINDS))] for single in results.singles),
    )


def damage(results: StudyResults) -> str:
    """What each precision costs on the reference's tokens."""

    def row(each: Damage) -> list[str]:
        part = each.forced.forced
        if part is None:
            raise UserError(f"the run of {each.name} is not forced: run the study again")
        top1 = 1.0 - part.same_top1.value
        differ = f"1 in {number(1.0 / top1, digits=2)}" if top1 > 0 else "none"
        changes = {change.metric: change.change for change in each.forced.changes}
        return [
            each.name,
            *(interval(each.kl[kind]) for kind in (ALL, *KINDS)),
            number(part.noise_floor.kl, digits=2) if part.noise_floor else ABSENT,
            differ,
            interval(changes["output_entropy"], signed=True),
            interval(changes["attention_entropy"], signed=True)
            if "attention_entropy" in changes
            else ABSENT,
        ]

    head = ["artifact", *(f"mean KL over questions, {kind} answers" for kind in (ALL, *KINDS))]
    head += [
        "noise floor",
        "likeliest token differs",
        "change of output entropy",
        "change of attention entropy",
    ]
    return table(head, map(row, results.damages))


def alone(results: StudyResults) -> str:
    """What each precision's own answers have in common with the reference's."""

    def row(each: Damage) -> list[str]:
        part = each.free.free
        if part is None:
            raise UserError(f"the run of {each.name} is forced: run the study again")
        full, other = (
            next(s for s in results.singles if s.name == name).groups
            for name in (results.full.name, each.name)
        )
        return [
            each.name,
            interval(part.identical),
            interval(part.common_prefix),
            number(part.median_step, digits=3),
            *(
                f"{full[kind].model_class.label} → {other[kind].model_class.label}"
                for kind in (ALL, FINISHED)
            ),
        ]

    head = ["artifact", "identical answers", "share before the first difference", "median first difference"]
    return table([*head, "class, all answers", "class, finished answers"], map(row, results.damages))


def layers(results: StudyResults) -> str:
    """Where each precision leaves the reference."""
    tapped = [(each.name, each.layers) for each in results.damages if each.layers]
    if not tapped:
        return ""
    last = len(tapped[0][1].error) - 1
    chosen = sorted({1, last // 3, 2 * last // 3, last - 1, last})

    def row(name: str, found: Layers) -> list[str]:
        most, clearest = (int(np.nanargmax(np.abs(x))) for x in (found.change, np.nan_to_num(found.effect)))
        return [
            name,
            *(number(found.error[layer], digits=2) for layer in chosen),
            layer_name(found.largest_jump),
            f"{layer_name(most + 1)} ({number(found.change[most], signed=True, digits=2)} nats)",
            f"{layer_name(clearest + 1)} ({number(found.effect[clearest], signed=True, digits=2)} SD)",
        ]

    head = ["artifact", *(f"error after layer {layer}" for layer in chosen), "grows most in"]
    head += ["attention entropy changes most in", "most clearly in"]
    return table(head, (row(*each) for each in tapped))


def sinks(results: StudyResults) -> str:
    """Attention on the first position by layer, lowest and highest five."""
    mass = results.sinks
    order = np.argsort(mass)

    def listed(layers: Sequence[int]) -> str:
        return ", ".join(f"{layer + 1} ({number(float(mass[layer]), digits=2)})" for layer in layers)

    half = min(5, len(order) // 2)
    lowest, highest = listed(order[:half]), listed(order[::-1][:half])
    return f"Attention on the first position, by layer: lowest in {lowest}; highest in {highest}."


def along(results: StudyResults) -> str:
    """Early part, late part and shift of the reference's metrics."""
    rows = []
    for metric in (name for name in ALONG if name in results.along):
        for kind in (ALL, *KINDS):
            found = results.along[metric][kind]
            cells = [interval(found.early), interval(found.late), interval(found.shift, signed=True)]
            rows.append([f"`{metric}`, {kind}", *cells])
    return table(["metric, answers", "first 20%", "last 20%", "shift"], rows)


def scores(results: StudyResults) -> str:
    """mc1, mc2, binary, and the share of untrue answers by the labels."""

    def row(single: Single) -> list[str]:
        tasks = [interval(single.scores[task]) if task in single.scores else ABSENT for task in TASKS]
        untrue = [
            interval(single.truth[kind].untrue) if kind in single.truth else ABSENT
            for kind in (ALL, FINISHED)
        ]
        return [single.name, *tasks, *untrue]

    head = ["artifact", *TASKS, "untrue by word overlap, all", "untrue, finished"]
    return table(head, map(row, results.singles))


def warnings(results: StudyResults) -> str:
    """How many scores warn of untrue answers after correction, and the strongest."""

    def row(single: Single, kind: str, truth: Truth) -> list[str]:
        if truth.problem or not truth.predictions:
            return [single.name, kind, str(truth.questions), "too few of a kind", "", "", ""]
        best = truth.predictions[0]
        return [
            single.name,
            kind,
            str(truth.questions),
            f"{sum(each.auroc.value > CHANCE for each in truth.found)} of {truth.tests}",
            f"`{best.metric}` {best.summary}".strip(),
            interval(best.auroc),
            number(best.holm, digits=2),
        ]

    rows = [row(single, kind, truth) for single in results.singles for kind, truth in single.truth.items()]
    head = ["artifact", "answers", "number", "scores that warn", "strongest score", "its AUROC", "p (Holm)"]
    return table(head, rows)


def strongest(results: StudyResults) -> str:
    """The strongest scores of the reference, over all answers and over finished ones."""
    rows = []
    for kind, truth in results.full.truth.items():
        for best in truth.predictions[:BEST]:
            name = f"`{best.metric}` {best.summary}".strip()
            rows.append([f"{name}, {kind}", interval(best.auroc), number(best.p, digits=2)])
            rows[-1] += [number(best.holm, digits=2), number(best.q, digits=2)]
    if not rows:
        return ""
    return table(["score, answers", "AUROC", "p", "p (Holm)", "q (Benjamini, Hochberg)"], rows)


def paper(results: StudyResults) -> str:
    """The reference beside the paper's models."""
    known = published()
    shifts = results.full.groups[FINISHED].model_class
    rows = []
    for number_of, measure in BESIDE:
        own = results.full.paper.row(number_of, measure)
        value = interval(own.tokens) if math.isfinite(own.tokens.value) else interval(own.questions)
        theirs = known.values.get((number_of, measure), ())
        rows.append([f"{number_of}: `{measure}`", value, *(number(each) for each in theirs)])
    rows.append(
        [
            "class",
            f"{results.full.groups[ALL].model_class.label} (finished answers: {shifts.label})",
            *(known.classes[model].abstract for model in known.models),
        ]
    )
    return table(["table: measure", results.model_id, *SHORT_NAMES], rows)
