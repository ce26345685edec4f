"""The numbers of a job's progress, and how rarely a log is written to."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from edge.artifact import Artifact
from edge.cli.progress import JobCounts, view, with_progress
from edge.cli.screen import Screen, status
from edge.cli.terminal import LogSchedule
from edge.jobs.decode import DecodeSettings
from edge.jobs.live import answer
from edge.jobs.session import Progress
from edge.machine import telemetry
from tests.boards import make_board
from tests.conftest import ONE_THREAD


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(tokens: int, answer: str = "") -> SimpleNamespace:
    return SimpleNamespace(steps=[None] * tokens, answer=answer)


def test_rate_and_time_left_are_of_this_session():
    clock = Clock()
    counts = JobCounts(clock)
    assert not counts.begun
    clock.now = 150.0  # opening the model is not the run
    counts.take(Progress(40, 100, None))
    assert counts.begun
    assert counts.left is None
    clock.now = 160.0
    counts.take(Progress(40, 100, record(30)))
    assert (counts.tokens, counts.answering) == (30, 30)
    clock.now = 170.0
    counts.take(Progress(41, 100, record(50, "Yes."), finished=True))
    assert (counts.tokens, counts.answering, counts.last) == (50, 0, "Yes.")
    assert counts.left == pytest.approx(20 * 59)
    assert counts.parts == ["41/100 questions", "2.5 tokens/s", "left 19:40"]
    counts.take(Progress(100, 100, record(10, "No."), finished=True))
    assert counts.parts == ["100/100 questions", "3.0 tokens/s", "took 0:20"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_the_view_is_four_lines_whatever_the_width_and_the_answer(width):
    counts = JobCounts(Clock())
    counts.take(Progress(1, 9, record(3, "漢字 \x1b[2J\n" * 40), finished=True))
    console = Console(width=width, file=io.StringIO(), force_terminal=True)
    lines = console.render_lines(view("a model of a very long name indeed", counts, 50.0), pad=False)
    assert len(lines) == 4
    assert "50.0 °C" in "".join(segment.text for segment in lines[2]) or width == 20
    assert "\x1b" not in "".join(segment.text for line in lines for segment in line)


def test_a_log_of_a_day_has_some_twenty_five_lines():
    clock = Clock()
    schedule, lines = LogSchedule(clock), []
    for second in range(86400):
        clock.now = 100.0 + second
        if schedule.due():
            lines.append(second)
    assert lines[:3] == [10, 15, 23]
    assert len(lines) <= 25


def test_a_refusal_stands_alone():
    console, notes = Console(file=io.StringIO()), []

    def job(on_progress, on_note):
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        with_progress(job, "model", console, notes.append, quiet=False)
    assert console.file.getvalue() == ""


def test_temperature_and_memory_are_beside_the_answer(artifacts, tmp_path, monkeypatch):
    root = make_board(tmp_path, "pi5")
    monkeypatch.setattr(telemetry.Sensors.__init__, "__defaults__", (root, str(root / "bin")))
    temperature = telemetry.Sensors(root, str(root / "bin")).temperature()
    screen = Screen("model", "")
    for live in answer(Artifact.open(artifacts("odd")), "Why?", DecodeSettings(5), runtime=ONE_THREAD):
        screen.add(live)
        assert f" · {temperature:.1f} °C · " in status(live).plain
    console = Console(width=80, file=io.StringIO())
    console.print(screen.whole(80))
    assert f"{temperature:.1f} °C" in console.file.getvalue()
