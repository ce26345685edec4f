"""Terminal tables of several artifacts against one run."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group
from rich.text import Text

from edge.analysis.artifacts import ArtifactComparison, Cost, Damage, Line
from edge.analysis.classes import class_name
from edge.analysis.intervals import Interval
from edge.cli.common import unsaid
from edge.cli.tables import number, star, table
from edge.cli.terminal import escaped, unmarked
from edge.report.formatting import FEW_NOTE

COST_COLUMNS = ("artifact", "MB", "RSS MB", "tokens/s", "mean KL", "± s.e.", "top 1")
CHANGE_COLUMNS = ("artifact", "ln PPL ratio", "output entropy", "attention entropy", "hidden error", "class")

BOUND_NOTE = "≥: a lower bound, from full precision's most likely tokens and the rest."


def artifact_table(comparison: ArtifactComparison) -> Group:
    """Cost, damage and change of each artifact; ≥ stands before a KL that is a lower bound."""
    full, count = comparison.full, len(comparison.lines)
    title = f"{count} artifacts against {full.label}, {comparison.questions} questions"
    head = Text(escaped(title), style="bold")
    if notice := unsaid(comparison.notice):
        head.append(f"\n{escaped(notice)}", style="dim")
    if any(not run.same_checkpoint for run in comparison.runs):
        head.append(
            "\nNot all are known to come from one checkpoint: a change may not be quantisation's alone.",
            style="yellow",
        )
    cost_table = table(
        "Cost and damage (top 1: share of tokens with the same most likely one)", *COST_COLUMNS
    )
    change_table = table(
        "Change, mean over questions (* where the 95% interval leaves out 0; intervals are in the JSON)",
        *CHANGE_COLUMNS,
    )
    lines = (full, *comparison.lines)
    one_model = len({line.label.removesuffix(line.precision) for line in lines}) == 1
    names = [line.precision if one_model else line.label for line in lines]
    for name, line in zip(names, lines, strict=True):
        cost_table.add_row(unmarked(name), *cost_cells(line.cost), *damage_cells(line.damage))
    for name, line in zip(names[1:], comparison.lines, strict=True):
        damage = line.damage
        changes = (damage and damage.log_ppl_ratio, line.entropy_change, line.attention_change)
        hidden = number(damage.hidden_error.value) if damage else "-"
        model_class = class_name("same" if line.same_class else line.model_class, line.left_out)
        change_table.add_row(unmarked(name), *map(change_cell, changes), hidden, model_class)
    few = any(line.entropy_change.marked for line in comparison.lines)
    note = [Text(f"{FEW_NOTE}. The stars rest on that.", style="dim")] if few else []
    bound = [Text(BOUND_NOTE, style="dim")] if any(bounded(line.damage) for line in comparison.lines) else []
    noise = noise_notes(comparison.lines, names[1:])
    return Group(head, cost_table, *bound, *noise, change_table, *note)


def noise_notes(lines: Sequence[Line], names: Sequence[str]) -> list[Text]:
    """A sentence for each artifact whose KL is near its noise floor."""
    floors = [line.damage.noise_floor if line.damage else None for line in lines]
    return [
        Text(f"{escaped(name)}: {floor.text}.", style="yellow")
        for name, floor in zip(names, floors, strict=True)
        if floor and floor.near
    ]


def cost_cells(cost: Cost) -> tuple[str, str, str]:
    """Size and resident memory in MB, tokens a second."""

    def megabytes(size: int | None) -> str:
        return "-" if size is None else f"{size / 1e6:.1f}"

    speed = "-" if cost.tokens_per_second is None else f"{cost.tokens_per_second:.4g}"
    return megabytes(cost.bytes), megabytes(cost.rss_bytes), speed


def bounded(damage: Damage | None) -> bool:
    """Whether there is a KL and it is a lower bound."""
    return damage is not None and not damage.exact and not math.isnan(damage.kl)


def damage_cells(damage: Damage | None) -> tuple[str, str, str]:
    """Mean KL in nats, its standard error, share of tokens with the same most likely one."""
    if damage is None:
        return "-", "-", "-"
    return (
        f"{'≥ ' if bounded(damage) else ''}{number(damage.kl)}",
        number(damage.kl_error, digits=2),
        f"{100 * damage.same_top1.value:.2f}%",
    )


def change_cell(value: Interval | None) -> str:
    """The change with a star where its 95% interval leaves out 0."""
    return "-" if value is None else f"{number(value.value, signed=True, digits=2)}{star(value) or ' '}"
