"""Tables and sentences about a run's outcomes: counts, and metrics as predictions of untrue answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge.analysis.auroc_change import AurocChange
from edge.analysis.intervals import Interval
from edge.analysis.truth import ALPHA, Prediction, Truth
from edge.report.formatting import ABSENT, interval, metric_name, number, percent
from edge.report.tables import Table

ROWS = 15  # scores in a table; the export has all of them
OUTCOME_NAMES = {
    "best": "Best",
    "correct": "Correct",
    "best_incorrect": "Best incorrect",
    "incorrect": "Incorrect",
}
SUMMARY_NAMES = {
    "mean": "mean",
    "sd": "SD",
    "extreme": "extreme",
    "slope": "slope",
    "early": "first 20%",
    "late": "last 20%",
    "shift": "late − early",
    "first": "first token",
    "last": "last token",
    "sum": "sum",
    "": "",
}


def score_name(metric: str, summary: str) -> str:
    """The title of a score: a metric and its summary over an answer."""
    name = "Length in tokens" if metric == "tokens" else metric_name(metric)
    return f"{name}, {SUMMARY_NAMES[summary]}" if summary else name


def p_text(p: float) -> str:
    """A p or q value; an en dash for NaN."""
    return ABSENT if math.isnan(p) else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def verdict(truth: Truth) -> str:
    """The result in a sentence, also where no metric predicts."""
    if truth.problem:
        return truth.problem
    judged = (
        f"{truth.questions} answers, {truth.source} labels, {truth.tests} tests, "
        f"Holm's correction at {ALPHA:g}"
    )
    if not truth.found:
        return f"No metric predicts untrue answers better than chance after correction ({judged})"
    best = truth.found[0]
    side = "" if best.auroc.value >= 0.5 else ", against the direction that was assumed"
    auroc = f"AUROC {best.auroc.value:.3f} [{best.auroc.low:.3f}, {best.auroc.high:.3f}]{side}"
    return (
        f"{len(truth.found)} of {truth.tests} scores predict untrue answers beyond chance after correction "
        f"({judged}); first of them: {score_name(best.metric, best.summary)}, {auroc}"
    )


def outcome_table(truth: Truth) -> Table:
    """The number and share of answers with each outcome (the paper's figure 1)."""
    total = sum(truth.counts.values())
    rows = [
        [OUTCOME_NAMES[name], str(count), f"{100 * count / total:.1f} %"]
        for name, count in truth.counts.items()
    ]
    untrue = truth.counts["best_incorrect"] + truth.counts["incorrect"]
    rows.append(["Untrue (best incorrect or incorrect)", str(untrue), percent(truth.untrue)])
    rows.append(["Not judged: raters disagree, no label", str(truth.disagreed + truth.unlabelled), ABSENT])
    return Table(
        f"Outcomes ({truth.source} labels): {truth.label}", ["Outcome", "Answers", "Share [95%]"], rows
    )


HEADINGS = ("Score", "AUROC [95%]", "PRR", "AURC", "ECE", "Balanced accuracy", "p (Holm)")


def prediction_table(truth: Truth, *, brief: bool = False) -> Table | None:
    """The scores with the smallest p, below ALPHA or not; None where nothing was tested.

    `brief` gives an interval for AUROC alone, for a terminal of 80 columns.
    """
    judged = [p for p in truth.predictions if not math.isnan(p.p)]
    if not judged:
        return None
    score, auroc, prr, aurc, ece, balanced, corrected = HEADINGS
    columns = [score, auroc, prr, aurc, ece, "Bal. acc." if brief else balanced]
    return Table(
        f"Does it predict untrue answers? {truth.label}: "
        f"the first {min(ROWS, len(judged))} of {truth.tests} scores by p; "
        f"{len(truth.found)} below {ALPHA:g} after Holm’s correction",
        [*columns, *([] if brief else ["Answers", "p"]), corrected, *([] if brief else ["q (BH)"])],
        [prediction_row(p, brief) for p in judged[:ROWS]],
    )


def prediction_row(p: Prediction, brief: bool) -> list[str]:
    """The row of one score."""
    measures = (p.prr, p.aurc, p.ece, p.balanced_accuracy)
    cells = [number(m.value, digits=3) if brief else interval(m) for m in measures]
    return [
        score_name(p.metric, p.summary),
        interval(p.auroc),
        *cells,
        *([] if brief else [str(p.questions), p_text(p.p)]),
        p_text(p.holm),
        *([] if brief else [p_text(p.q)]),
    ]


def change_table(first: str, second: str, changes: Sequence[AurocChange]) -> Table | None:
    """The change of AUROC from one run to another, paired by question; None without changes."""
    if not changes:
        return None
    beyond_chance = sum(change.holm < ALPHA for change in changes)
    rows = [
        [
            score_name(c.metric, c.summary),
            str(c.questions),
            number(c.first, digits=3),
            number(c.second, digits=3),
            interval(c.difference, signed=True),
            p_text(c.holm),
        ]
        for c in changes[:ROWS]
    ]
    return Table(
        f"AUROC of {second} against {first}, paired by question; {beyond_chance} of {len(changes)} differ "
        "beyond chance after Holm’s correction",
        ["Score", "Answers", "First", "Second", "Difference [95%]", "p (Holm)"],
        rows,
    )


def trajectory_text(truth: Truth) -> str:
    """A sentence on the difference of output entropy between untrue and true answers, along the answer."""
    difference = truth.trajectory_difference
    if difference is None:
        return "Output entropy by outcome: answers of one kind only."
    apart = int(((difference.low > 0) | (difference.high < 0)).sum())
    average = Interval(float(difference.mean.mean()), math.nan, math.nan)
    return (
        f"Output entropy of untrue less that of true answers is {interval(average, signed=True)} nat "
        "on the average over the answer; "
        f"its interval leaves out 0 in {apart} of {len(difference.mean)} places, each taken by itself."
    )
