"""Terminal view of one answer: tokens coloured by entropy, trajectories, speed, temperature and memory."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console, Group
from rich.text import Text

from edge.artifact import Artifact
from edge.cli.terminal import SPARK_WIDTH, Frame, can_draw, escaped, legend, megabytes, sparkline, style_of
from edge.jobs.live import LiveStep
from edge.runs.record import AnswerRecord
from edge.signals.definitions import mean

TAB = " " * 4
BESIDE_SPARK = 34  # columns for the label and the numbers beside a sparkline
# Nats that fill a sparkline's height where all values are smaller.
LEAST_ENTROPY, LEAST_DISPERSION = 1.0, 0.5


class Body:
    """The growing text of an answer; only the line that still changes is wrapped again."""

    def __init__(self) -> None:
        self._pieces: list[tuple[str, str]] = []
        self._lines: list[Text] = []  # the lines that do not change any more, at this width
        self._open = Text()
        self._width = 0

    def add(self, text: str, style: str) -> None:
        self._pieces.append((text, style))
        self._open.append(text, style)

    def whole(self) -> Text:
        return Text.assemble(*self._pieces)

    def end(self, console: Console, room: int) -> list[Text]:
        """The last `room` lines at the console's width."""
        if console.width != self._width:
            self._lines, self._open, self._width = [], self.whole(), console.width
        wrapped = list(self._open.wrap(console, self._width))
        tail = [*self._lines[-room:], *wrapped][-room:]
        last = wrapped[-1].plain.rstrip() if wrapped else ""
        if last and len(wrapped) > 1:
            self._lines += wrapped[:-1]
            self._open = self._open[len(self._open.plain.rstrip()) - len(last) :]
        return tail


class Screen:
    """The view of one answer; with `coloured` False bold, underline and reverse stand for entropy."""

    def __init__(self, title: str, notice: str, *, coloured: bool = True) -> None:
        head = Text(escaped(title), style="bold")
        self._above = [
            head,
            *([Text(escaped(notice), style="dim")] if notice else []),
            legend(coloured=coloured),
        ]
        self._coloured = coloured
        self._body = Body()
        self._entropies: list[float] = []
        self._dispersions: list[float] = []
        self._last: LiveStep | None = None

    @property
    def started(self) -> bool:
        return self._last is not None

    def add(self, live: LiveStep) -> None:
        output, attention, _ = live.step.signals
        self._entropies.append(output.output_entropy)
        self._dispersions.append(math.nan if attention is None else mean(attention.head_dispersion))
        # A terminal obeys escape sequences, so a model's text must not contain any.
        self._body.add(
            escaped(live.text).replace("\t", TAB), style_of(output.output_entropy, coloured=self._coloured)
        )
        self._last = live

    def running(self, console: Console) -> Group:
        """The view while the answer grows: as much of its end as fits the console's height."""
        below = self._below(console.width)
        taken = sum(len(part.wrap(console, console.width)) for part in [*self._above, *below])
        return Group(*self._above, *self._body.end(console, max(1, console.height - taken - 1)), *below)

    def whole(self, width: int) -> Group:
        """The view with the whole answer."""
        return Group(*self._above, self._body.whole(), *self._below(width))

    def _below(self, width: int) -> list[Text]:
        if self._last is None:
            return [Text("reading the question", style="dim")]
        lines = [trajectory("entropy", self._entropies, width, LEAST_ENTROPY)]
        if not all(map(math.isnan, self._dispersions)):
            lines.append(trajectory("dispersion", self._dispersions, width, LEAST_DISPERSION))
        return [*lines, status(self._last, means=False)]


def trajectory(label: str, values: list[float], width: int, least: float) -> Text:
    """A sparkline with the last value and the mean."""
    bars = sparkline(values, max(8, min(SPARK_WIDTH, width - BESIDE_SPARK)), least)
    known = [value for value in values if not math.isnan(value)]
    numbers = f"{values[-1]:.3f} mean {math.fsum(known) / len(known):.3f}" if known else ""
    return Text(f"{label:<10} {bars} {numbers}", no_wrap=True, overflow="crop")


def speed(record: AnswerRecord) -> float | None:
    """Tokens a second after the first token, None for an answer of one token."""
    spent = math.fsum(step.step_ms for step in record.steps[1:])
    return 1e3 * (len(record.steps) - 1) / spent if spent > 0 else None


def status(live: LiveStep, *, means: bool = True) -> Text:
    """Length, speed, machine and slope as one line; with `means` also mean entropy and dispersion."""
    statistics, record, gauge = live.record.statistics, live.record, live.gauge
    parts = [f"{len(record.steps)} tokens"]
    if (rate := speed(record)) is not None:
        parts.append(f"{rate:.1f} tokens/s")
    if gauge.temperature_c is not None:
        parts.append(f"{gauge.temperature_c:.1f} °C")
    if gauge.rss_bytes is not None:
        parts.append(megabytes(gauge.rss_bytes))
    entropy, slope = statistics.live("output_entropy")
    if means:
        parts.append(f"entropy {entropy:.3f}")
    if math.isfinite(slope):
        parts.append(f"slope {slope:+.4f} a token")
    metrics = {"attention": "attention_entropy"}
    if means:
        metrics["dispersion"] = "head_dispersion"
    for label, name in metrics.items():
        average, _ = statistics.live(name)
        if math.isfinite(average):
            parts.append(f"{label} {average:.3f}")
    if live.step.stop_reason:
        parts.append(f"stopped: {live.step.stop_reason}")
    return Text(" · ".join(parts), style="dim")


def show(console: Console, artifact: Artifact, steps: Iterator[LiveStep]) -> None:
    """Draws the answer as it grows; into a pipe it prints the text and a line of statistics."""
    screen = Screen(artifact.label, artifact.manifest.notice, coloured=not console.no_color)
    if can_draw(console):
        draw(console, screen, steps)
    else:
        stream(console, artifact.manifest.notice, steps)


def draw(console: Console, screen: Screen, steps: Iterator[LiveStep]) -> None:
    """Draws the screen in place, then prints the whole view."""
    frame = Frame(console)
    try:
        frame.draw(screen.running(console))
        for live in steps:
            screen.add(live)
            if frame.due:
                frame.draw(screen.running(console))
    finally:  # an interrupted answer is printed, too
        frame.clear()
        if screen.started:
            console.print(screen.whole(console.width))


def stream(console: Console, notice: str, steps: Iterator[LiveStep]) -> None:
    """Prints each token as it comes, then a line of statistics and the notice."""
    last = None
    try:
        for live in steps:
            last = live
            style = style_of(live.step.signals.output.output_entropy, coloured=not console.no_color)
            console.print(Text(escaped(live.text), style=style), end="", soft_wrap=True)
    finally:
        if last is not None:
            console.print()
            console.print(status(last), soft_wrap=True)
            if notice:
                console.print(Text(escaped(notice)), soft_wrap=True)
