"""Terminal tables of several artifacts against one run."""

from __future__ import annotations

import math

from rich.console import Group
from rich.text import Text

from edge.analysis.artifacts import ArtifactComparison, Cost, Damage
from edge.analysis.intervals import Interval
from edge.cli.tables import number, table
from edge.cli.terminal import escaped, unmarked


def artifact_table(found: ArtifactComparison) -> Group:
    """Costs and damage of each artifact. ≥ stands before a KL that is a lower bound."""
    head = Text(
        escaped(f"{len(found.lines)} artifacts against {found.full.label}, {found.questions} questions"),
        style="bold",
    )
    if found.notice:
        head.append(f"\n{escaped(found.notice)}", style="dim")
    if any(not run.same_checkpoint for run in found.runs):
        head.append(
            "\nNot all are known to come from one checkpoint: a change may not be quantisation's alone.",
            style="yellow",
        )
    first = table(
        "Cost and damage (top 1: share of tokens with the same most likely one)",
        "artifact",
        "MB",
        "RSS MB",
        "tokens/s",
        "mean KL",
        "± s.e.",
        "top 1",
    )
    second = table(
        "Change, mean over questions (* where the 95% interval leaves out 0; intervals are in the JSON)",
        "artifact",
        "ln PPL ratio",
        "output entropy",
        "attention entropy",
        "hidden error",
        "class",
    )
    every = (found.full, *found.lines)
    one_model = len({line.label.removesuffix(line.precision) for line in every}) == 1
    names = [unmarked(line.precision if one_model else line.label) for line in every]
    for name, line in zip(names, every, strict=True):
        first.add_row(name, *costs(line.cost), *damages(line.damage))
    for name, line in zip(names[1:], found.lines, strict=True):
        harm = line.damage
        changes = (harm and harm.log_ppl_ratio, line.entropy_change, line.attention_change)
        hidden = number(harm.hidden_error.value) if harm else "-"
        second.add_row(name, *map(change, changes), hidden, "same" if line.same_class else line.model_class)
    return Group(head, first, second)


def costs(cost: Cost) -> tuple[str, str, str]:
    def megabytes(size: int | None) -> str:
        return "-" if size is None else f"{size / 1e6:.1f}"

    speed = "-" if cost.tokens_per_second is None else f"{cost.tokens_per_second:.4g}"
    return megabytes(cost.bytes), megabytes(cost.rss_bytes), speed


def damages(damage: Damage | None) -> tuple[str, str, str]:
    if damage is None:
        return "-", "-", "-"
    bound = "" if damage.exact or math.isnan(damage.kl) else "≥ "
    return (
        f"{bound}{number(damage.kl)}",
        number(damage.kl_error, digits=2),
        f"{100 * damage.same_top1.value:.2f}%",
    )


def change(value: Interval | None) -> str:
    if value is None:
        return "-"
    return number(value.value, signed=True, digits=2) + ("*" if value.low > 0 or value.high < 0 else " ")
