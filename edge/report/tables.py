"""The report's tables and sentences, as text: numbers are formatted here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edge.analysis.divergence import Divergence, ForcedPart
from edge.analysis.dynamics import BALANCED, DETERMINISTIC, UNDEFINED_CLASS, Dynamics, DynamicsClass
from edge.analysis.intervals import Interval
from edge.report.figures import PERCENTILES
from edge.report.model import LAYER_METRICS, Comparison, LayerStart, ModelGroup, RunData
from edge.signals.metric import Shown
from edge.signals.metrics import BY_NAME, shown_in

ABSENT = "–"


class Table(NamedTuple):
    """The first column holds row headers; `columns` names it too."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


def metric_name(metric: str) -> str:
    return BY_NAME[metric].title if metric in BY_NAME else metric


def number(value: float, *, signed: bool = False, digits: int = 4) -> str:
    """So many significant digits with a true minus; an en dash where there is no value."""
    if not math.isfinite(value):
        return ABSENT
    text = f"{value:{'+' if signed else ''}.{digits}g}"
    return text.replace("-", "−") if "e" not in text else text.replace("e-0", "e-").replace("-", "−")


def interval(value: Interval, *, signed: bool = False, scale: float = 1.0, unit: str = "") -> str:
    """value [low, high], to two digits of the interval's half-width; the value alone where a single question
    gives none."""
    middle, low, high = (v * scale for v in value)
    if not math.isfinite(low) or not high > low:
        bounds = (
            f" [{number(low, signed=signed)}, {number(high, signed=signed)}]" if math.isfinite(low) else ""
        )
        return f"{number(middle, signed=signed)}{unit if math.isfinite(middle) else ''}{bounds}"
    decimals = min(9, max(0, 1 - math.floor(math.log10((high - low) / 2))))
    shown = [f"{v:{'+' if signed else ''}.{decimals}f}".replace("-", "−") for v in (middle, low, high)]
    return f"{shown[0]}{unit} [{shown[1]}, {shown[2]}]"


def percent(value: Interval) -> str:
    return interval(value, scale=100, unit=" %")


def integer(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


# First screen


def class_reason(found: DynamicsClass) -> str:
    """Why the class is what it is, with its inputs."""
    shift = f"early to late shift of output entropy {interval(found.shift, signed=True)} nat"
    if found.label == UNDEFINED_CLASS:
        return f"{shift}: fewer than two answers have one, so there is no interval to decide by"
    if found.label == BALANCED:
        return (
            f"{shift}: its 95% interval lies neither below −{found.delta:g} nor above +{found.delta:g} nat"
        )
    side = f"below −{found.delta:g}" if found.label == DETERMINISTIC else f"above +{found.delta:g}"
    return f"{shift}: its 95% interval lies {side} nat"


def glance(group: ModelGroup) -> Table | None:
    """What quantisation changes, a column for each run beside the reference."""
    if not group.comparisons:
        return None
    found = [c.divergence for c in group.comparisons]
    rows: list[tuple[str, Callable[[Divergence], str]]] = [
        ("KL(full ‖ quantised), mean ± standard error (nat)", kl_text),
        ("Same most likely token", lambda d: percent(d.forced.same_top1) if d.forced else ABSENT),
        ("Identical answers", lambda d: percent(d.free.identical) if d.free else ABSENT),
        (
            "Share of the answer before the first difference",
            lambda d: percent(d.free.common_prefix) if d.free else ABSENT,
        ),
        *((f"Change of {metric_name(m).lower()} (nat)", change_of(m)) for m in shown_in(Shown.GLANCE)),
        ("Class", lambda d: d.quantised_class.label),
    ]
    return Table(
        f"What changes against {group.reference.name}, with 95% intervals over questions "
        f"({ABSENT}: not measured by that kind of run)",
        ["Measure", *(c.quantised.name for c in group.comparisons)],
        [[name, *(cell(d) for d in found)] for name, cell in rows],
    )


def kl_text(d: Divergence) -> str:
    if d.forced is None:
        return ABSENT
    kl = d.forced.kl
    return (
        "reference kept no distributions"
        if kl is None
        else f"{number(kl.mean, digits=3)} ± {number(kl.error, digits=2)}"
    )


def change_of(metric: str) -> Callable[[Divergence], str]:
    return lambda d: next((interval(c.change, signed=True) for c in d.changes if c.metric == metric), ABSENT)


def start_text(start: LayerStart) -> str:
    """Where one by-layer metric changes, in a sentence."""
    name = metric_name(start.metric)
    if start.largest is None or start.first is None:
        return f"{name}: no layer's 95% interval leaves out 0"
    return (
        f"{name}: the largest relative change is in {layer_name(start.largest)} "
        f"({number(100 * start.relative, signed=True, digits=3)} %); {start.sure} of {start.layers} layers "
        f"change beyond chance, "
        f"the first of them is {layer_name(start.first)}"
    )


def layer_name(layer: int) -> str:
    return "the embedding" if layer == 0 else f"layer {layer}"


# Details


def metric_table(data: RunData) -> Table:
    dynamics: Dynamics = data.dynamics
    rows = [
        [
            metric_name(line.metric),
            interval(line.over_questions),
            interval(line.over_tokens),
            number(line.token_sd),
        ]
        for line in dynamics.lines
        if math.isfinite(line.over_questions.value)
    ]
    rows.append(
        ["Slope of output entropy over the answer", interval(dynamics.slope, signed=True), ABSENT, ABSENT]
    )
    return Table(
        f"{data.name}: means with 95% intervals (bootstrap over questions)",
        [
            "Metric",
            "Mean over questions (each answer weighs the same)",
            "Mean over tokens (the paper’s way)",
            "SD over tokens",
        ],
        rows,
    )


def change_table(c: Comparison) -> Table:
    rows = [
        [
            metric_name(change.metric),
            interval(change.full),
            interval(change.quantised),
            interval(change.change, signed=True),
        ]
        for change in c.divergence.changes
        if math.isfinite(change.change.value)
    ]
    return Table(
        f"{c.quantised.name}: change of each metric, means over questions with 95% intervals",
        ["Metric", "Full", "Quantised", "Change"],
        rows,
    )


def token_table(c: Comparison, forced: ForcedPart) -> Table:
    rows = [
        [
            metric_name(t.metric),
            number(t.mean, signed=True),
            number(t.rms),
            number(t.pearson),
            number(t.spearman),
        ]
        for t in forced.changes
    ]
    return Table(
        f"{c.quantised.name}: change token by token on the same {integer(forced.tokens)} tokens",
        ["Metric", "Mean change", "RMS change", "Pearson", "Spearman"],
        rows,
    )


def distribution_table(c: Comparison, forced: ForcedPart) -> Table:
    def cells(name: str) -> list[str]:
        kl = forced.kl
        change = number(getattr(forced.probability_change, name), signed=name not in ("error", "rms"))
        return [number(getattr(kl, name)) if kl else ABSENT, change]

    rows = [
        ["mean", *cells("mean")],
        ["standard error", *cells("error")],
        ["root mean square", *cells("rms")],
    ]
    rows += [
        [label if label in ("min", "max") else f"{label} %", *cells(name)] for name, label in PERCENTILES
    ]
    return Table(
        f"{c.quantised.name}: distributions over tokens (KL from the {forced.reference_k} most likely "
        f"tokens and the rest)",
        ["Statistic", "KL(full ‖ quantised), nat", "Change of the token’s probability"],
        rows,
    )


def perplexity_text(forced: ForcedPart) -> str:
    p = forced.perplexity
    return (
        f"perplexity {number(p.full)} in full and {number(p.quantised)} quantised, log of their ratio "
        f"{interval(p.log_ratio, signed=True)}, correlation of log-probabilities {number(p.correlation)}"
    )


def layer_table(c: Comparison) -> Table | None:
    changes = [change for change in c.divergence.layers if change.metric in LAYER_METRICS]
    if not changes:
        return None
    depth = max(len(change.mean) for change in changes)

    def cell(values: Any, layer: int) -> str:
        i = layer - (depth - len(values.mean))  # by-layer metrics of attention have no row for the embedding
        return (
            interval(Interval(values.mean[i], values.low[i], values.high[i]), signed=True)
            if i >= 0
            else ABSENT
        )

    return Table(
        f"{c.quantised.name}: change by layer, means over questions with 95% intervals",
        ["Layer", *(metric_name(change.metric) for change in changes)],
        [
            ["0 (embedding)" if layer == 0 else str(layer), *(cell(change, layer) for change in changes)]
            for layer in range(depth)
        ],
    )


def stop_table(group: ModelGroup) -> Table:
    reasons = sorted({reason for data in group.runs for reason in data.dynamics.stop_reasons})
    return Table(
        "Why answers ended (number of answers)",
        ["Reason", *(data.name for data in group.runs)],
        [
            [
                reason.replace("_", " "),
                *(str(data.dynamics.stop_reasons.get(reason, 0)) for data in group.runs),
            ]
            for reason in reasons
        ],
    )


def provenance_table(runs: Sequence[RunData]) -> Table:
    """When, where and how each run was traced."""
    rows = []
    for data in runs:
        m, settings = data.run.manifest, data.run.manifest.settings
        device = [m.device.name, m.device.system, cores(m.device.cores)]
        how = {
            "prompt": settings.prompt,
            "temperature": settings.temperature,
            "max new tokens": settings.max_new_tokens,
            "seed": settings.seed,
        }
        rows.append(
            [
                data.name,
                integer(data.dynamics.questions),
                integer(data.dynamics.tokens),
                ", ".join(f"{name} {value}" for name, value in how.items() if value is not None),
                moment(m.created),
                ", ".join(part for part in device if part) or ABSENT,
                ", ".join(f"{name} {version}" for name, version in m.versions.items()) or ABSENT,
            ]
        )
    return Table(
        "How the runs were traced",
        ["Run", "Questions", "Tokens", "Settings", "Begun", "Device", "Versions"],
        rows,
    )


def moment(created: str) -> str:
    """An ISO time of UTC to the minute."""
    return f"{created[:16].replace('T', ' ')} UTC" if created.endswith("+00:00") else created or ABSENT


def cores(count: int) -> str:
    return f"{count} cores" if count else ""


def notes(group: ModelGroup) -> list[str]:
    """What a reader must know before trusting the numbers: missing signals, questions without an answer."""
    said = []
    untapped = [data.name for data in group.runs if not data.run.manifest.artifact.tapped]
    if untapped:
        said.append(
            f"{', '.join(untapped)}: traced from an artifact without taps, so attention and hidden states "
            f"were not recorded "
            "and their figures and tables leave it out; build the artifact with --taps rows to see them."
        )
    unanswered: dict[int, list[str]] = {}
    for data in group.runs:
        unanswered.setdefault(data.without_rows, []).append(data.name)
    said += [
        f"{', '.join(names)}: {count} of {group.reference.dynamics.questions} questions did not fit the "
        f"context of "
        f"{group.spec.context} positions and have no answer."
        for count, names in unanswered.items()
        if count
    ]
    if group.several_checkpoints:
        said.append(
            "These runs are not known to come from one checkpoint, so a change may not be quantisation's "
            "alone."
        )
    if any(data.run.manifest.settings.temperature for data in group.runs):
        said.append("Some answers were sampled, so two runs may differ by chance as well.")
    return said
