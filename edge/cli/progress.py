"""How far a job is: drawn in place in a terminal, in a few lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rich.console import Console, Group
from rich.text import Text

from edge.cli.terminal import Frame, bar, can_draw, duration, escaped, one_line
from edge.errors import OnNote
from edge.jobs.live import Gauge
from edge.jobs.session import Progress
from edge.machine.telemetry import Sensors
from edge.runs.manifest import RunManifest

OnProgress = Callable[[Progress], None]
Job = Callable[[OnProgress, OnNote], RunManifest]
Made = TypeVar("Made")

FIRST_LINE, GROWTH = 10.0, 1.5  # seconds; lines come ever more rarely, so that a log of a day has some 25
BAR_WIDTH = 24
DRAW_EVERY = 0.5  # seconds: a board has better things to do


class Rarely:
    """Says when the next line of a log is due: after FIRST_LINE seconds, then each time GROWTH times as much
    has passed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started, self._next = clock, clock(), FIRST_LINE

    def due(self) -> bool:
        passed = self._clock() - self._started
        if passed < self._next:
            return False
        self._next = passed * GROWTH
        return True


class JobCounts:
    """Counts of a job: tokens of this session, their rate, the time left by the mean of the questions it
    finished."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started = clock, clock()
        self.done = self.total = 0
        self.last: str | None = None  # the answer that was finished last
        self.answering = 0  # tokens of the answer that is not finished
        self._before: int | None = None  # questions done when this session began
        self._tokens = 0  # of finished answers

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
        """Seconds, None before the first question of this session is done."""
        finished = self.done - (self._before or 0)
        return self.elapsed / finished * (self.total - self.done) if finished else None

    @property
    def parts(self) -> list[str]:
        """What is said of it, most important first."""
        said = [f"{self.done}/{self.total} questions"]
        if self.tokens and self.elapsed > 0:
            said.append(f"{self.tokens / self.elapsed:.1f} tokens/s")
        if self.left is not None:
            said.append(
                f"left {duration(self.left)}" if self.done < self.total else f"took {duration(self.elapsed)}"
            )
        return said


def heat(temperature: float | None) -> list[str]:
    return [] if temperature is None else [f"{temperature:.1f} °C"]


def view(title: str, counts: JobCounts, temperature: float | None) -> Group:
    """Title; bar and numbers; how far the next answer is, temperature; the last answer. A line each."""
    share = counts.done / counts.total if counts.total else 0.0
    answering = (
        [f"question {counts.done + 1}: {counts.answering} tokens"] if counts.done < counts.total else []
    )
    lines = [
        Text(escaped(title), style="bold"),
        bar(share, BAR_WIDTH).append(" ").append(" · ".join(counts.parts)),
        Text(" · ".join([*answering, *heat(temperature)]), style="dim"),
        Text("") if counts.last is None else one_line(counts.last, "last answer: "),
    ]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def with_progress(
    job: Callable[[OnProgress, OnNote], Made], title: str, console: Console, on_note: OnNote, *, quiet: bool
) -> Made:
    """Runs job(on_progress, on_note) and shows how far it is on the console, unless `quiet`; a line of it
    stays at the end."""
    counts, gauge, rarely = JobCounts(), Gauge(Sensors()), Rarely()
    frame = Frame(console, DRAW_EVERY) if can_draw(console) and not quiet else None

    def on_progress(progress: Progress) -> None:
        counts.take(progress)
        if frame and frame.due:
            gauge.look()
            frame.draw(view(title, counts, gauge.temperature_c))
        elif not frame and not quiet and rarely.due():
            say()

    def note(text: str) -> None:
        if frame:
            frame.clear()
        on_note(text)

    def say() -> None:
        gauge.look()
        console.print(
            Text(escaped(f"{title}: {' · '.join([*counts.parts, *heat(gauge.temperature_c)])}")),
            soft_wrap=True,
        )

    try:
        return job(on_progress, note)
    finally:
        if frame:
            frame.clear()
        if counts.begun and not quiet:
            say()
