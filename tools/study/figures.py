"""The figures of a study as SVG, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from edge.analysis.classes import DELTA
from edge.analysis.intervals import Interval
from tools.study.results import ALL, CUT, FINISHED, KINDS, LOOPING, StudyResults

# Okabe and Ito's colours, told apart by colour-blind readers; one marker for each as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
OF_KIND = {FINISHED: COLOURS[0], CUT: COLOURS[4], LOOPING: COLOURS[1], ALL: COLOURS[6]}
MARKERS = "osD^vPX"
STYLE = {
    "svg.hashsalt": "edgetrace",  # the same runs give the same bytes
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # the one that matplotlib brings, so that every machine measures alike
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
SIZE = (7.4, 3.2)  # inches


def draw(results: StudyResults, folder: Path) -> list[Path]:
    """Writes every figure that the study has data for into `folder`; the files."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figures = {name: figure(results) for name, figure in FIGURES.items()}
        paths = []
        for name, figure in figures.items():
            if figure is not None:
                path = folder / f"{name}.svg"
                figure.savefig(path, metadata={"Date": None}, bbox_inches="tight", facecolor="white")
                paths.append(path)
    return paths


def trajectories(results: StudyResults) -> Figure | None:
    """Output entropy, attention entropy and sink mass of the reference along its answers, by kind."""
    shown = [
        (metric, unit)
        for metric, unit in (
            ("output_entropy", "nats"),
            ("attention_entropy", "nats"),
            ("sink_mass", "share of attention"),
        )
        if metric in results.along
    ]
    figure = Figure(figsize=(SIZE[0] * 1.3, SIZE[1]))
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, (metric, unit) in zip(axes, shown, strict=True):
        for kind in KINDS:
            line = results.along[metric][kind].trajectory
            if line is None or line.questions < 2:
                continue
            colour = OF_KIND[kind]
            axis.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
            axis.plot(line.x, line.mean, color=colour, label=f"{kind} ({line.questions})")
        axis.set_title(metric.replace("_", " "), fontsize=10)
        axis.set_xlabel("part of the answer")
        axis.set_ylabel(unit)
        axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    return figure


def shifts(results: StudyResults) -> Figure | None:
    """Early/late shift of output entropy by precision, over all answers and over finished ones."""
    figure = Figure(figsize=(SIZE[0], 0.5 + 0.45 * len(results.singles)))
    axis = figure.subplots()
    for kind, offset in ((ALL, 0.13), (FINISHED, -0.13)):
        groups = [single.groups[kind].model_class.shift for single in results.singles]
        rows = np.arange(len(groups))[::-1] + offset
        whiskers(axis, groups, rows, OF_KIND[kind], f"{kind} answers", "o" if kind == ALL else "s")
    axis.axvspan(-DELTA, DELTA, color="#999999", alpha=0.25, linewidth=0)
    axis.set_yticks(np.arange(len(results.singles))[::-1], [single.name for single in results.singles])
    axis.set_xlabel("late - early output entropy in nats (grey: counts as balanced)")
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def whiskers(
    axis: Axes, values: list[Interval], rows: np.ndarray, colour: str, label: str, marker: str
) -> None:
    """Points with their intervals, one a row; a point without an interval has none."""
    middle = np.array([value.value for value in values])
    low = middle - np.array([value.low for value in values])
    high = np.array([value.high for value in values]) - middle
    reach = np.nan_to_num(np.stack([low, high]))
    axis.errorbar(middle, rows, xerr=reach, fmt=marker, color=colour, label=label, capsize=2, markersize=5)


def layers(results: StudyResults) -> Figure | None:
    """Relative error of the residual stream by layer, and change of attention entropy by layer."""
    tapped = [(each.name, each.layers) for each in results.damages if each.layers]
    if not tapped:
        return None
    figure = Figure(figsize=(SIZE[0] * 1.3, SIZE[1] * 1.1))
    left, right = figure.subplots(1, 2)
    for i, (name, found) in enumerate(tapped):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 3}
        # An embedding that is the same as the reference's has no place on this scale.
        error = np.where(found.error > 0, found.error, np.nan)
        left.plot(np.arange(len(error)), error, label=name, **style)
        right.plot(np.arange(1, len(error)), found.change, **style)
    left.set_yscale("log")
    left.set_title("relative error of the residual stream", fontsize=10)
    right.axhline(0.0, color="#999999", linewidth=0.8)
    right.set_title("change of attention entropy in nats", fontsize=10)
    left.set_xlabel("after layer (0 is the embedding)")
    right.set_xlabel("layer")
    figure.tight_layout()
    lines, names = left.get_legend_handles_labels()
    figure.legend(lines, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), fontsize=8)
    return figure


def damage(results: StudyResults) -> Figure | None:
    """KL by precision and kind of answer."""
    if not results.damages:
        return None
    figure = Figure(figsize=(SIZE[0], 0.7 + 0.55 * len(results.damages)))
    axis = figure.subplots()
    for kind, offset, marker in ((FINISHED, 0.2, "s"), (CUT, 0.0, "^"), (LOOPING, -0.2, "o")):
        values = [damage.kl[kind] for damage in results.damages]
        rows = np.arange(len(values))[::-1] + offset
        whiskers(axis, values, rows, OF_KIND[kind], f"{kind} answers", marker)
    axis.set_xscale("log")
    axis.set_yticks(np.arange(len(results.damages))[::-1], [damage.name for damage in results.damages])
    axis.set_xlabel("KL(full || quantised) in nats a token, mean over questions")
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


SHOWN = 8  # scores


def warnings(results: StudyResults) -> Figure | None:
    """AUROC of the strongest scores of the reference, over finished answers and over all."""
    truths = {kind: truth for kind, truth in results.full.truth.items() if truth.predictions}
    if not truths:
        return None
    figure = Figure(figsize=(SIZE[0] * 1.3, 0.9 + 0.3 * SHOWN))
    axes = figure.subplots(1, len(truths), squeeze=False)[0]
    for axis, (kind, truth) in zip(axes, truths.items(), strict=True):
        best = truth.predictions[:SHOWN]
        rows = np.arange(len(best))[::-1]
        whiskers(axis, [each.auroc for each in best], rows, OF_KIND[kind], "", "o")
        axis.set_yticks(rows, [f"{each.metric} {each.summary}".strip() for each in best], fontsize=8)
        axis.axvline(0.5, color="#999999", linewidth=0.8)
        axis.set_xlim(0, 1)
        axis.set_title(f"{kind} answers ({truth.questions})", fontsize=10)
        axis.set_xlabel("AUROC (0.5 is chance)")
    figure.tight_layout()
    return figure


FIGURES: dict[str, Callable[[StudyResults], Figure | None]] = {
    "trajectories": trajectories,
    "shifts": shifts,
    "damage": damage,
    "layers": layers,
    "warnings": warnings,
}
