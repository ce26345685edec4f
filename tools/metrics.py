"""Writes the table of docs/metrics.md from the table of metrics: `python -m tools.metrics`."""

from __future__ import annotations

from pathlib import Path

from edge.signals.metric import Kind, Level, Metric
from edge.signals.metrics import METRICS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics: begin -->", "<!-- metrics: end -->"


def row(metric: Metric) -> str:
    """One line of the table."""
    notes = [str(metric.kind)] if metric.kind != Kind.EVERY else []
    if metric.level == Level.ANSWER:
        notes.append("summaries" if metric.is_summarised else "answers")
    if metric.first_row:
        notes.append(f"from row {metric.first_row} on")
    shape = f" [{metric.shape}]" if metric.is_list else ""
    name = f"`{metric.name}`{shape}" + (f" ({', '.join(notes)})" if notes else "")
    definition = metric.definition.replace("|", "\\|")
    return f"| {name} | {metric.source} | {metric.unit} | {definition} |"


def table() -> str:
    """Every metric: its column, what it is computed from, its unit and definition."""
    return "\n".join(["| column | from | unit | definition |", "|---|---|---|---|", *map(row, METRICS)])


def page(text: str) -> str:
    """The page with today's table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
