"""Terminal tables of comparisons."""

from __future__ import annotations

import math

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge.analysis.divergence import Divergence
from edge.analysis.forced import ForcedPart
from edge.analysis.free import FreePart
from edge.analysis.intervals import Interval
from edge.analysis.perplexity import PROBABILITY
from edge.analysis.warning import TruthChange
from edge.cli.terminal import escaped, unmarked
from edge.signals.metric import Shown
from edge.signals.metrics import BY_NAME, METRICS, shown_in

PARTINGS = 5  # of the answers that part, in the terminal
WARNINGS = [(metric.name, summary) for metric in METRICS for summary in metric.warnings]
SHOWN_LAYERS = shown_in(Shown.LAYERS)


def number(value: float, signed: bool = False, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}g}"


def interval(value: Interval, signed: bool = False) -> str:
    """Value and bounds; a change is given to two digits, so that a row fits 80 columns."""
    shown = number(value.value, signed, 2 if signed else 3)
    if math.isnan(value.low):
        return shown
    low, high = (number(bound, signed, 2 if signed else 3) for bound in (value.low, value.high))
    return f"{shown} [{low}, {high}]"


def table(title: str, *columns: str) -> Table:
    made = Table(
        title=unmarked(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for i, column in enumerate(columns):
        made.add_column(
            column,
            justify="left" if i == 0 else "right",
            overflow="fold",
            no_wrap=i == 0 and len(columns) == 4,
        )
    return made


def comparison(d: Divergence) -> Group:
    """What `edge compare` prints: agreement, metrics, layers, classes."""
    head = Text(escaped(f"{d.quantised} against {d.full}, {d.questions} questions"), style="bold")
    if d.notice:
        head.append(f"\n{escaped(d.notice)}", style="dim")
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
            metrics.add_row(
                change.metric,
                number(change.full.value),
                number(change.quantised.value),
                interval(change.change, signed=True),
            )
    metrics.add_section()
    for change in d.trajectory:
        metrics.add_row(
            change.metric,
            number(change.full.value),
            number(change.quantised.value),
            interval(change.change, signed=True),
        )
    parts: list[RenderableType] = [head, forced(d.forced) if d.forced else free(d.free), metrics]
    if d.layers:
        parts.append(layers(d))
    one, other = d.full_class, d.quantised_class
    parts.append(
        Text(
            f"class: {one.label} (early/late shift {interval(one.shift, True)}) -> "
            f"{other.label} ({interval(other.shift, True)}), delta {one.delta:g} nats: "
            f"{'the same' if d.same_class else 'changed'}"
        )
    )
    if d.truth:
        parts.append(truth(d.truth))
    return Group(*parts)


def truth(found: TruthChange) -> Group:
    """Whether answers turned untrue, and whether output and attention entropy still warn of those that
    are."""
    made = table(
        f"Truth of the answers ({unmarked(found.source)} labels) [95% interval]",
        "measure",
        "full",
        "quantised",
        "change",
    )
    if found.outcomes:
        o = found.outcomes
        made.add_row(
            "share untrue", number(o.full.value), number(o.quantised.value), interval(o.change, signed=True)
        )
        made.add_row("answers that turned untrue / true", "", "", f"{o.became_untrue} / {o.became_true}")
    shown = [each for name in WARNINGS if (each := found.of(*name))]
    for each in shown:
        name = f"AUROC of {each.metric} {each.summary}"
        made.add_row(name, number(each.first), number(each.second), interval(each.difference, signed=True))
    few = Text("AUROC is not judged: at least ten answers of each kind are needed.", style="dim")
    return Group(made) if shown else Group(made, few)


def forced(part: ForcedPart) -> Group:
    """llama-perplexity's list under its names, the error over questions beside its own over tokens; hidden
    states by layer."""
    known = (
        "whole vocabulary"
        if part.exact
        else f"{part.reference_k} most likely tokens and the rest: a lower bound"
    )
    note = (
        f"KL(full || quantised), {known}" if part.kl else "KL: not kept, trace the full run with --reference"
    )
    made = table(
        f"On the same {part.tokens} tokens. {note}", "statistic", "value", "± by question", "± by token"
    )
    section = part.statistics[0].section
    for found in part.statistics:
        if found.section != section:
            made.add_section()
            section = found.section
        scale, unit = (
            (100.0, "%") if found.section == PROBABILITY or found.name.startswith("Cor") else (1.0, "")
        )
        errors = (
            "" if math.isnan(error) else f"{scale * error:.2g}{unit}"
            for error in (found.error, found.token_error)
        )
        made.add_row(found.name, f"{scale * found.value:.6g}{unit}", *errors)
    parts: list[RenderableType] = [made]
    if part.hidden_error and part.hidden_similarity:
        hidden = table(
            "Residual stream against the full model's, mean over questions",
            "layer",
            "relative error",
            "cosine",
        )
        for layer, (error, cosine) in enumerate(
            zip(part.hidden_error.mean, part.hidden_similarity.mean, strict=True)
        ):
            hidden.add_row(str(layer), number(float(error)), f"{cosine:.6f}")
        parts.append(hidden)
    return Group(*parts)


def free(part: FreePart | None) -> Group:
    made = table("Each decoding alone", "statistic", "value")
    if part is not None:
        made.add_row("identical answers", interval(part.identical))
        made.add_row("share of the answer before the first difference", interval(part.common_prefix))
        made.add_row("median first differing step, where they differ", number(part.median_step))
    return Group(made, *([partings(part)] if part and part.first else []))


def partings(part: FreePart) -> Table:
    """The first token that differs, and what each model said there with how much probability."""
    shown = part.first[:PARTINGS]
    more = f"; all {len(part.first)} are in the JSON" if len(part.first) > len(shown) else ""
    made = table(
        f"Where answers part, the first {len(shown)}{more}",
        "question",
        "step",
        "full said",
        "quantised said",
    )
    made.columns[0].no_wrap = False

    def said(text: str, probability: float) -> str:
        return "(ended)" if math.isnan(probability) else unmarked(f"{text!r} {100 * probability:.0f}%")

    for each in shown:
        made.add_row(
            unmarked(each.question),
            str(each.step),
            said(each.full_token, each.full_probability),
            said(each.quantised_token, each.quantised_probability),
        )
    return made


def layers(d: Divergence) -> Table:
    """Change by layer; layer 0 of a hidden metric is the embedding output. Intervals are in the JSON."""
    changes = {change.metric: change for change in d.layers if change.metric in SHOWN_LAYERS}
    made = table(
        "Change by layer, mean over questions (* where the 95% interval leaves out 0)",
        "layer",
        *SHOWN_LAYERS,
    )
    depth = max(len(change.mean) for change in changes.values())
    for layer in range(depth):
        cells = []
        for name in SHOWN_LAYERS:
            change = changes[name]
            i = layer - (depth - len(change.mean))  # by-layer metrics have no row for the embedding
            sure = "*" if i >= 0 and (change.low[i] > 0 or change.high[i] < 0) else " "
            cells.append(f"{number(float(change.mean[i]), signed=True)}{sure}" if i >= 0 else "")
        made.add_row(str(layer), *cells)
    return made
