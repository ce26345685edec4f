"""The report's tables about a model's runs, their cells as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from edge.analysis.classes import class_name
from edge.analysis.divergence import Divergence
from edge.analysis.forced import ForcedPart
from edge.analysis.layers import LayerChange
from edge.report.distribution_figures import PERCENTILES
from edge.report.formatting import (
    ABSENT,
    change_of,
    integer,
    interval,
    kl_text,
    metric_name,
    number,
    percent,
)
from edge.report.model import LAYER_METRICS, Comparison, ModelGroup, RunData
from edge.runs.sessions import Indices
from edge.signals.groups import BY_NAME, shown_in
from edge.signals.metric import Shown


class Table(NamedTuple):
    """A table of text. The first column holds row headers; `columns` names it too."""

    caption: str
    columns: list[str]
    rows: list[list[str]]


def glance(group: ModelGroup) -> Table | None:
    """What quantisation changes, a column for each run beside the reference."""
    if not group.comparisons:
        return None
    measures: list[tuple[str, Callable[[Divergence], str]]] = [
        ("KL(full ‖ quantised), mean ± standard error (nat)", kl_text),
        ("Same most likely token", lambda d: percent(d.forced.same_top1) if d.forced else ABSENT),
        ("Identical answers", lambda d: percent(d.free.identical) if d.free else ABSENT),
        (
            "Share of the answer before the first difference",
            lambda d: percent(d.free.common_prefix) if d.free else ABSENT,
        ),
        *(
            (f"Change of {metric_name(m).lower()} ({BY_NAME[m].unit})", change_of(m))
            for m in shown_in(Shown.GLANCE)
        ),
        ("Class", lambda d: class_name(d.quantised_class.label, d.quantised_class.left_out)),
    ]
    return Table(
        f"What changes against {group.reference.name}, with 95% intervals over questions "
        f"({ABSENT}: not measured by that kind of run)",
        ["Measure", *(c.quantised.name for c in group.comparisons)],
        [[title, *(cell(c.divergence) for c in group.comparisons)] for title, cell in measures],
    )


def metric_table(data: RunData) -> Table:
    """The means of a run's metrics, over questions and over tokens."""
    rows = [
        [
            metric_name(line.metric),
            interval(line.over_questions),
            interval(line.over_tokens),
            number(line.token_sd),
        ]
        for line in data.dynamics.lines
        if math.isfinite(line.over_questions.value)
    ]
    slope = interval(data.dynamics.slope, signed=True)
    rows.append(["Slope of output entropy over the answer", slope, ABSENT, ABSENT])
    return Table(
        f"{data.name}: means with 95% intervals over questions",
        [
            "Metric",
            "Mean over questions (each answer weighs the same)",
            "Mean over tokens (the paper’s way)",
            "SD over tokens",
        ],
        rows,
    )


def change_table(comparison: Comparison) -> Table:
    """The change of each metric, over questions."""
    rows = [
        [
            metric_name(row.metric),
            interval(row.full),
            interval(row.quantised),
            interval(row.change, signed=True),
        ]
        for row in comparison.divergence.changes
        if math.isfinite(row.change.value)
    ]
    return Table(
        f"{comparison.quantised.name}: change of each metric, means over questions with 95% intervals",
        ["Metric", "Full", "Quantised", "Change"],
        rows,
    )


def token_table(comparison: Comparison, forced: ForcedPart) -> Table:
    """The change of each metric, token by token."""
    rows = [
        [
            metric_name(row.metric),
            number(row.mean, signed=True),
            number(row.rms),
            number(row.pearson),
            number(row.spearman),
        ]
        for row in forced.changes
    ]
    return Table(
        f"{comparison.quantised.name}: change token by token on the same {integer(forced.tokens)} tokens",
        ["Metric", "Mean change", "RMS change", "Pearson", "Spearman"],
        rows,
    )


def distribution_table(comparison: Comparison, forced: ForcedPart) -> Table:
    """KL and the change of the token's probability: means and percentiles over tokens."""

    def cells(statistic: str) -> list[str]:
        kl = number(getattr(forced.kl, statistic)) if forced.kl else ABSENT
        change = getattr(forced.probability_change, statistic)
        return [kl, number(change, signed=statistic not in ("error", "rms"))]

    rows = [
        ["mean", *cells("mean")],
        ["standard error", *cells("error")],
        ["root mean square", *cells("rms")],
        *(
            [label if label in ("min", "max") else f"{label} %", *cells(statistic)]
            for statistic, label in PERCENTILES
        ),
    ]
    return Table(
        f"{comparison.quantised.name}: distributions over tokens "
        f"(KL from the {forced.reference_k} most likely tokens and the rest)",
        ["Statistic", "KL(full ‖ quantised), nat", "Change of the token’s probability"],
        rows,
    )


def layer_table(comparison: Comparison) -> Table | None:
    """The change of by-layer metrics, a row for each layer; None where none were recorded in both runs."""
    changes = [change for change in comparison.divergence.layers if change.metric in LAYER_METRICS]
    if not changes:
        return None
    depth = max(len(change.mean) for change in changes)

    def cell(change: LayerChange, layer: int) -> str:
        i = layer - (depth - len(change.mean))  # by-layer metrics of attention have no row for the embedding
        if i < 0:
            return ABSENT
        return interval(change.interval(i), signed=True)

    return Table(
        f"{comparison.quantised.name}: change by layer, means over questions with 95% intervals",
        ["Layer", *(metric_name(change.metric) for change in changes)],
        [
            ["0 (embedding)" if layer == 0 else str(layer), *(cell(change, layer) for change in changes)]
            for layer in range(depth)
        ],
    )


def stop_table(group: ModelGroup) -> Table:
    """How many answers of each run ended for each reason."""
    counts = [data.dynamics.stop_reasons for data in group.runs]
    reasons = sorted({reason for by_reason in counts for reason in by_reason})
    return Table(
        "Why answers ended (number of answers)",
        ["Reason", *(data.name for data in group.runs)],
        [
            [reason.replace("_", " "), *(str(by_reason.get(reason, 0)) for by_reason in counts)]
            for reason in reasons
        ],
    )


def provenance_table(runs: Sequence[RunData]) -> Table:
    """When, where and how each run was traced."""
    rows = []
    for data in runs:
        manifest, settings = data.run.manifest, data.run.manifest.settings
        device = [manifest.device.name, manifest.device.system, cores(manifest.device.cores)]
        values = {
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
                ", ".join(f"{name} {value}" for name, value in values.items() if value is not None),
                moment(manifest.created),
                ", ".join(part for part in device if part) or ABSENT,
                ", ".join(f"{name} {version}" for name, version in manifest.versions.items()) or ABSENT,
            ]
        )
    return Table(
        "How the runs were traced",
        ["Run", "Questions", "Tokens", "Settings", "Begun", "Device", "Versions"],
        rows,
    )


def session_table(runs: Sequence[RunData]) -> Table | None:
    """Which machine and versions answered which questions, for runs that had several; None without any."""
    rows = [
        [
            data.name,
            moment(session.started),
            integer(session.count),
            ", ".join(indices_text(indices) for indices in session.questions),
            ", ".join(part for part in (session.device.name, session.device.machine) if part) or ABSENT,
            ", ".join(f"{name} {version}" for name, version in session.versions.items()) or ABSENT,
        ]
        for data in runs
        if len(sessions := data.run.sessions()) > 1
        for session in sessions
    ]
    if not rows:
        return None
    columns = ["Run", "Begun", "Questions", "question_index", "Device", "Versions"]
    return Table("Runs that several machines or versions worked on", columns, rows)


def indices_text(indices: Indices) -> str:
    """Question indices in words."""
    first, last, step = indices
    if first == last:
        return str(first)
    return f"{first} to {last}" + (f" in steps of {step}" if step > 1 else "")


def moment(created: str) -> str:
    """An ISO time of UTC to the minute; other times as they are."""
    return f"{created[:16].replace('T', ' ')} UTC" if created.endswith("+00:00") else created or ABSENT


def cores(count: int) -> str:
    """The number of cores; "" where it is not known."""
    return f"{count} cores" if count else ""
