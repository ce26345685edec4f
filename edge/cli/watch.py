"""`edge watch`: follows a run from another terminal without writing to it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from edge.cli.common import check_json, console, write_json, write_json_line
from edge.cli.completion import complete_runs
from edge.cli.terminal import (
    Frame,
    LogSchedule,
    bar,
    can_draw,
    duration,
    escaped,
    megabytes,
    one_line,
    sparkline,
)
from edge.errors import UserError
from edge.runs.job_directory import FINISHED, RUNNING
from edge.runs.watch import STOPPED, Follower, Seen

LATEST = 4  # answers in the view
QUIET = 60.0  # seconds without news from which on the view says so
BAR_WIDTH = 24
SPARK_WIDTH = 48


def watch(
    run: Annotated[
        Path,
        typer.Argument(help="Run directory of `edge run` or `edge force`.", autocompletion=complete_runs),
    ],
    once: Annotated[bool, typer.Option("--once", help="Say how it stands and leave.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.")] = 1.0,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json",
            help="Write what is seen as JSON to this file, anew at each change (-: a line each on standard "
            "output).",
        ),
    ] = None,
) -> None:
    """The command `edge watch`; its help is in edge/cli/app.py."""
    check_json(json_file)
    if not 0.1 <= every <= 3600:
        raise UserError(f"--every is {every:g}: a number of seconds from 0.1 to 3600 is needed")
    follower = Follower(run)
    seen = follower.look()
    if once:
        write_state(seen, json_file)
        return
    follow(follower, seen, every, json_file)


def follow(follower: Follower, seen: Seen, every: float, json_file: str | None) -> None:
    """Shows the run until it is over, then its last state; an interruption also ends with that state."""
    frame = Frame(console) if can_draw(console) and json_file != "-" else None
    schedule, written = LogSchedule(), None
    try:
        while not seen.over:
            if json_file and seen._replace(quiet=0.0) != written:
                write_record(seen, json_file)
                written = seen._replace(quiet=0.0)
            if frame:
                frame.draw(view(seen, console.width))
            elif json_file != "-" and schedule.due():
                console.print(Text(summary(seen)), soft_wrap=True)
            time.sleep(every)
            seen = follower.look()
    finally:
        if frame:
            frame.clear()
        write_state(seen, json_file)


def write_state(seen: Seen, json_file: str | None) -> None:
    """Writes the state as JSON if there is a place for it, and prints the view."""
    if json_file:
        write_record(seen, json_file)
    if json_file != "-":
        console.print(view(seen, console.width))


def write_record(seen: Seen, json_file: str) -> None:
    """Writes the state as JSON: a line of standard output for "-", else the whole file."""
    if json_file == "-":
        write_json_line(as_json(seen))
    else:
        write_json(json_file, as_json(seen))


def as_json(seen: Seen) -> dict[str, Any]:
    """Plain values, null for unknown ones; only the last answers."""
    values = seen._asdict() | {
        "entropy": None if math.isnan(seen.entropy) else seen.entropy,
        "machine": seen.machine and seen.machine._asdict(),
        "answers": [
            a._asdict() | {"entropy": None if math.isnan(a.entropy) else a.entropy}
            for a in seen.answers[-LATEST:]
        ],
        "problems": list(seen.problems),
    }
    names = {
        "left": "left_s",
        "quiet": "quiet_s",
        "entropy": "output_entropy_mean",
        "answers": "last_answers",
    }
    return {names.get(name, name): value for name, value in values.items()}


def numbers(seen: Seen) -> str:
    """Questions done, rate and time left as one text."""
    parts = [f"{seen.done}/{seen.total} questions"]
    if seen.tokens_per_second is not None:
        parts.append(f"{seen.tokens_per_second:.1f} tokens/s")
    if seen.left is not None:
        parts.append(f"left {duration(seen.left)}")
    return " · ".join(parts)


def machine(seen: Seen) -> str:
    """Temperature and memory as in " · 71.2 °C, slowed down · 250 MB"; "" where nothing is known."""
    text, now = "", seen.machine
    if now and now.temperature_c is not None:
        text += f" · {now.temperature_c:.1f} °C" + (", slowed down" if now.throttled else "")
    if now and now.rss_bytes is not None:
        text += f" · {megabytes(now.rss_bytes)}"
    return text


def state_text(seen: Seen) -> str:
    """The state in one sentence."""
    if seen.state == FINISHED:
        return "finished"
    again = f"run the same 'edge {seen.kind}' command again to finish it"
    if seen.state == STOPPED:
        return f"stopped before it was finished: {again}"
    since = f", nothing written for {duration(seen.quiet)}" if seen.quiet >= QUIET else ""
    if seen.locked:
        return f"running{since}"
    if not since:  # the lock of another machine cannot be seen
        return f"running on another machine, or just interrupted: in that case {again}"
    return f"unfinished{since}: if no process works on it, {again}"


def summary(seen: Seen) -> str:
    """The state as one line of a log."""
    return escaped(f"{seen.label}: {state_text(seen)} · {numbers(seen)}{machine(seen)}", kept="")


def view(seen: Seen, width: int) -> Group:
    """Title, state, bar and numbers, entropy by answer, problems, the last answers."""
    healthy = seen.state == FINISHED or (seen.state == RUNNING and (seen.locked or seen.quiet < QUIET))
    line = bar(seen.done / seen.total if seen.total else 0.0, BAR_WIDTH).append(" ").append(numbers(seen))
    parts = [
        Text(escaped(seen.label), style="bold"),
        Text(f"{state_text(seen)}{machine(seen)}", style="green" if healthy else "yellow"),
        line,
    ]
    if seen.notice:
        parts.insert(1, Text(escaped(seen.notice), style="dim"))
    if not math.isnan(seen.entropy):
        bars = sparkline([a.entropy for a in seen.answers], max(8, min(SPARK_WIDTH, width - 32)))
        parts.append(Text(f"entropy {bars} mean {seen.entropy:.3f} nats", no_wrap=True, overflow="crop"))
    parts += [Text(escaped(problem), style="yellow") for problem in seen.problems]
    for answer in seen.answers[-LATEST:]:
        parts.append(one_line(answer.question, f"{answer.question_index}: ", style="none"))
        parts.append(one_line(answer.answer, f"   {answer.tokens} tokens, {answer.stop_reason}: "))
    return Group(*parts)
