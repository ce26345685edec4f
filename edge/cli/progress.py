"""Progress of a job: a view drawn in place in a terminal, a few log lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console, Group
from rich.text import Text

from edge.cli.terminal import Frame, LogSchedule, bar, can_draw, duration, escaped, one_line
from edge.errors import OnNote
from edge.jobs.live import Gauge
from edge.jobs.session import Progress
from edge.machine.telemetry import Sensors
from edge.runs.manifest import RunManifest

OnProgress = Callable[[Progress], None]
Job = Callable[[OnProgress, OnNote], RunManifest]
Result = TypeVar("Result")

BAR_WIDTH = 24
DRAW_EVERY = 0.5  # seconds, so that drawing takes little of a board's time


class JobCounts:
    """Counts of a job: questions, this session's tokens and their rate, time left.

    The time left follows from the mean time of the questions that this session finished.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started = clock, clock()
        self.done = self.total = 0
        self.last: str | None = None  # the last finished answer
        self.answering = 0  # tokens of the unfinished answer
        self._before: int | None = None  # questions done when this session began
        self._tokens = 0  # tokens of finished answers

    def take(self, progress: Progress) -> None:
        self.done, self.total = progress.done, progress.total
        if self._before is None:
            self._before, self._started = progress.done, self._clock()
        if progress.record is None:
            return
        tokens = len(progress.record.steps)
        if progress.finished:
            self._tokens, self.answering, self.last = self._tokens + tokens, 0, progress.record.answer
        else:
            self.answering = tokens

    @property
    def begun(self) -> bool:
        return self._before is not None

    @property
    def tokens(self) -> int:
        return self._tokens + self.answering

    @property
    def elapsed(self) -> float:
        return self._clock() - self._started

    @property
    def left(self) -> float | None:
        """Seconds left; None before the first question of this session is done."""
        finished = self.done - (self._before or 0)
        return self.elapsed / finished * (self.total - self.done) if finished else None

    @property
    def parts(self) -> list[str]:
        """The counts as texts, most important first."""
        texts = [f"{self.done}/{self.total} questions"]
        if self.tokens and self.elapsed > 0:
            texts.append(f"{self.tokens / self.elapsed:.1f} tokens/s")
        if self.left is not None:
            ended = self.done >= self.total
            texts.append(f"took {duration(self.elapsed)}" if ended else f"left {duration(self.left)}")
        return texts


def temperature_texts(temperature: float | None) -> list[str]:
    """The temperature in °C as a list of one text, an empty list for None."""
    return [] if temperature is None else [f"{temperature:.1f} °C"]


def view(title: str, counts: JobCounts, temperature: float | None) -> Group:
    """Four lines: title; bar and counts; tokens of the next answer and temperature; the last answer."""
    share = counts.done / counts.total if counts.total else 0.0
    status = temperature_texts(temperature)
    if counts.done < counts.total:
        status.insert(0, f"question {counts.done + 1}: {counts.answering} tokens")
    lines = [
        Text(escaped(title), style="bold"),
        bar(share, BAR_WIDTH).append(" ").append(" · ".join(counts.parts)),
        Text(" · ".join(status), style="dim"),
        Text("") if counts.last is None else one_line(counts.last, "last answer: "),
    ]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def with_progress(
    job: Callable[[OnProgress, OnNote], Result],
    title: str,
    console: Console,
    on_note: OnNote,
    *,
    quiet: bool,
) -> Result:
    """Runs job(on_progress, on_note) and shows its progress on the console, unless `quiet`.

    One line of progress stays at the end.
    """
    counts, gauge, schedule = JobCounts(), Gauge(Sensors()), LogSchedule()
    frame = Frame(console, DRAW_EVERY) if can_draw(console) and not quiet else None

    def on_progress(progress: Progress) -> None:
        counts.take(progress)
        if frame and frame.due:
            gauge.look()
            frame.draw(view(title, counts, gauge.temperature_c))
        elif not frame and not quiet and schedule.due():
            print_line()

    def note(text: str) -> None:
        if frame:
            frame.clear()
        on_note(text)

    def print_line() -> None:
        gauge.look()
        texts = " · ".join([*counts.parts, *temperature_texts(gauge.temperature_c)])
        console.print(Text(escaped(f"{title}: {texts}")), soft_wrap=True)

    try:
        return job(on_progress, note)
    finally:
        if frame:
            frame.clear()
        if counts.begun and not quiet:
            print_line()
