"""Terminal tables of comparisons of two runs."""

from __future__ import annotations

import math

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.analysis.classes import TOO_FEW, DynamicsClass, answers_text
from edge.analysis.divergence import Divergence, MetricChange
from edge.analysis.forced import ForcedPart
from edge.analysis.free import FreePart
from edge.analysis.intervals import Interval
from edge.analysis.perplexity import PROBABILITY
from edge.analysis.truth_change import TruthChange
from edge.cli.common import unsaid
from edge.cli.terminal import escaped, unmarked
from edge.report.formatting import FEW, FEW_NOTE, UNDEFINED_NOTE
from edge.signals.groups import BY_NAME
from edge.signals.metric import Shown
from edge.signals.metrics import METRICS

PARTINGS = 5  # most answers of `partings`; the JSON has all
WARNINGS = [(metric.name, summary) for metric in METRICS for summary in metric.warnings]


def number(value: float, signed: bool = False, digits: int = 3) -> str:
    """The value to so many significant digits, "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}g}"


def interval(value: Interval, signed: bool = False, digits: int | None = None) -> str:
    """Value and bounds; a signed value has two digits, so that a row fits 80 columns. FEW stands before the
    bounds of few answers."""
    digits = digits or (2 if signed else 3)
    middle = number(value.value, signed, digits)
    if math.isnan(value.low):
        return middle
    low, high = (number(bound, signed, digits) for bound in (value.low, value.high))
    return f"{middle} {FEW if value.marked else ''}[{low}, {high}]"


def star(value: Interval) -> str:
    """A star where the interval leaves out 0, with FEW before it where few answers gave it."""
    return f"{FEW if value.few else ''}*" if value.low > 0 or value.high < 0 else ""


def table(title: str, *columns: str) -> Table:
    """An empty table: the first column to the left, the others to the right."""
    grid = Table(
        title=unmarked(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for i, column in enumerate(columns):
        grid.add_column(
            column,
            justify="left" if i == 0 else "right",
            overflow="fold",
            no_wrap=i == 0 and len(columns) == 4,
        )
    return grid


def comparison(d: Divergence) -> Group:
    """The tables of `edge compare`: agreement, metrics, layers, classes, truth."""
    head = Text(escaped(f"{d.quantised} against {d.full}, {d.questions} questions"), style="bold")
    if notice := unsaid(d.notice):
        head.append(f"\n{escaped(notice)}", style="dim")
    if not d.same_checkpoint:
        head.append(
            "\nThe two are not known to come from one checkpoint: a change may not be quantisation's alone.",
            style="yellow",
        )
    metrics = table(
        "Change by metric, mean over questions [95% interval]", "metric", "full", "quantised", "change"
    )
    for change in d.changes:
        if Shown.COMPARE in BY_NAME[change.metric].shown:
            metrics.add_row(*change_row(change))
    metrics.add_section()
    for change in d.trajectory:
        metrics.add_row(*change_row(change))
    parts: list[RenderableType] = [head, forced(d.forced) if d.forced else free(d.free), metrics]
    if d.layers:
        parts.append(layers(d))
    parts.append(Text(class_text(d)))
    parts += [Text(note, style="dim") for note in notes(d)]
    if d.truth:
        parts.append(truth(d.truth))
    return Group(*parts)


def class_text(d: Divergence) -> str:
    """Both classes and whether they are the same, or that there are too few answers for any; then which
    answers decide them."""
    one, other = d.full_class, d.quantised_class
    decided = [answers_text(one), answers_text(other)]
    by = decided[0] if decided[0] == decided[1] else " -> ".join(decided)
    if not one.defined and not other.defined:
        shifts = f", early/late shift {interval(one.shift, True)} -> {interval(other.shift, True)}"
        return f"class: {TOO_FEW}{shifts if one.answers + other.answers else ''}\n{by}"
    verdict = "" if d.same_class is None else ": the same" if d.same_class else ": changed"
    return f"class: {class_part(one)} -> {class_part(other)}, delta {one.delta:g} nats{verdict}\n{by}"


def class_part(model_class: DynamicsClass) -> str:
    """A class with its shift, if an answer has one."""
    name = model_class.label if model_class.defined else TOO_FEW
    return f"{name} (early/late shift {interval(model_class.shift, True)})" if model_class.answers else name


def notes(d: Divergence) -> list[str]:
    """What the marks of the tables of changes mean, where they have them."""
    changes = [change.change for change in (*d.changes, *d.trajectory)]
    by_layer = [layer.interval(0) for layer in d.layers]
    texts = []
    if any(layer.marked for layer in by_layer):
        texts.append(f"{FEW_NOTE}. The stars by layer rest on that.")
    elif any(change.marked for change in changes):
        texts.append(f"{FEW_NOTE}.")
    if any(math.isnan(change.value) for change in changes):
        texts.append(f"-: {UNDEFINED_NOTE}.")
    return texts


def change_row(change: MetricChange) -> tuple[str, str, str, str]:
    """Cells of one metric: name, both means, and the change with its interval."""
    means = number(change.full.value), number(change.quantised.value)
    return change.metric, *means, interval(change.change, signed=True)


def truth(change: TruthChange) -> Group:
    """Answers that became untrue, and whether output and attention entropy still predict them."""
    title = f"Truth of the answers ({unmarked(change.source)} labels) [95% interval]"
    rows = table(title, "measure", "full", "quantised", "change")
    if change.outcomes:
        o = change.outcomes
        shares = number(o.full.value), number(o.quantised.value)
        rows.add_row("share untrue", *shares, interval(o.change, signed=True))
        rows.add_row("answers that turned untrue / true", "", "", f"{o.became_untrue} / {o.became_true}")
    warnings = [warning for name in WARNINGS if (warning := change.of(*name))]
    for warning in warnings:
        name = f"AUROC of {warning.metric} {warning.summary}"
        areas = number(warning.first), number(warning.second)
        rows.add_row(name, *areas, interval(warning.difference, signed=True))
    few = Text(f"{title}: AUROC is not judged, at least ten answers of each kind are needed.", style="dim")
    if not warnings:
        return Group(rows, few) if rows.row_count else Group(few)
    return Group(rows)


def forced(part: ForcedPart) -> Group:
    """llama-perplexity's statistics under its names, then the hidden states by layer.

    Its own error is over tokens; the error over questions stands beside it.
    """
    known = (
        "whole vocabulary"
        if part.exact
        else f"{part.reference_k} most likely tokens and the rest: a lower bound"
    )
    note = (
        f"KL(full || quantised), {known}" if part.kl else "KL: not kept, trace the full run with --reference"
    )
    rows = table(
        f"On the same {part.tokens} tokens. {note}", "statistic", "value", "± by question", "± by token"
    )
    section = part.statistics[0].section
    for statistic in part.statistics:
        if statistic.section != section:
            rows.add_section()
            section = statistic.section
        percent = statistic.section == PROBABILITY or statistic.name.startswith("Cor")
        scale, unit = (100.0, "%") if percent else (1.0, "")
        errors = (
            "" if math.isnan(error) else f"{scale * error:.2g}{unit}"
            for error in (statistic.error, statistic.token_error)
        )
        value = "-" if math.isnan(statistic.value) else f"{scale * statistic.value:.6g}{unit}"
        rows.add_row(statistic.name, value, *errors)
    parts: list[RenderableType] = [rows]
    if part.noise_floor and part.noise_floor.near:
        parts.append(Text(f"{part.noise_floor.text}.", style="yellow"))
    if part.hidden_error and part.hidden_similarity:
        title = "Residual stream against the full model's, mean over questions"
        hidden = table(title, "layer", "relative error", "cosine")
        by_layer = zip(part.hidden_error.mean, part.hidden_similarity.mean, strict=True)
        for layer, (error, cosine) in enumerate(by_layer):
            hidden.add_row(str(layer), number(float(error)), f"{cosine:.6f}")
        parts.append(hidden)
    return Group(*parts)


def free(part: FreePart | None) -> Group:
    """Agreement of two answers that were decoded each alone."""
    rows = table("Each decoding alone", "statistic", "value")
    if part is not None:
        rows.add_row("identical answers", interval(part.identical))
        rows.add_row("share of the answer before the first difference", interval(part.common_prefix))
        rows.add_row("median first differing step, where they differ", number(part.median_step))
    return Group(rows, *([partings(part)] if part and part.first else []))


def partings(part: FreePart) -> Table:
    """The first token that differs in an answer: each model's token there and its probability."""
    differences = part.first[:PARTINGS]
    more = f"; all {len(part.first)} are in the JSON" if len(part.first) > len(differences) else ""
    title = f"Where answers part, the first {len(differences)}{more}"
    rows = table(title, "question", "step", "full said", "quantised said")
    rows.columns[0].no_wrap = False

    def token(text: str, probability: float) -> str:
        return "(ended)" if math.isnan(probability) else unmarked(f"{text!r} {100 * probability:.0f}%")

    for difference in differences:
        rows.add_row(
            unmarked(difference.question),
            str(difference.step),
            token(difference.full_token, difference.full_probability),
            token(difference.quantised_token, difference.quantised_probability),
        )
    return rows


def layers(d: Divergence) -> Table:
    """Change by layer; layer 0 of a hidden metric is the embedding output. Intervals are in the JSON."""
    changes = [change for change in d.layers if Shown.LAYERS in BY_NAME[change.metric].shown]
    width = max(len(f"{FEW if change.few else ''}*") for change in changes)
    title = "Change by layer, mean over questions (* where the 95% interval leaves out 0)"
    rows = table(title, "layer", *(change.metric for change in changes))
    depth = max(len(change.mean) for change in changes)
    for layer in range(depth):
        cells = []
        for change in changes:
            i = layer - (depth - len(change.mean))  # by-layer metrics have no row for the embedding
            value = change.interval(i) if i >= 0 else None
            cells.append(f"{number(value.value, signed=True)}{star(value):<{width}}" if value else "")
        rows.add_row(str(layer), *cells)
    return rows
