"""The progress of a run that another process writes, from run.json, its parts and device.parquet.

The run is read and never locked. /proc/locks (proc_locks(5)) tells whether a process of this machine still
writes it. Locks of other machines and containers are not listed there. A run therefore counts as stopped
only when its lock was listed before and is gone.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from edge.errors import UserError
from edge.files import LOCK_NAME
from edge.machine.system import SYSTEM, read_text
from edge.runs.job_directory import FINISHED, RUNNING
from edge.runs.manifest import RUN_NAME, read_manifest
from edge.runs.parts import AGAIN, part_stem, read_part
from edge.runs.run_directory import DEVICE_NAME

STOPPED = "stopped"
ANSWERS = (
    "question_index",
    "question",
    "answer",
    "tokens",
    "stop_reason",
    "output_entropy_mean",
    "prefill_ms",
    "decode_ms",
)


class FinishedAnswer(NamedTuple):
    """One finished answer.

    `entropy` is the mean over its tokens in nats, NaN for one without tokens. `seconds` is the model's time.
    """

    question_index: int
    question: str
    answer: str
    tokens: int
    stop_reason: str
    entropy: float
    seconds: float


class Machine(NamedTuple):
    """The last row of device.parquet, with the meanings of `telemetry.Sample`; None for unknown values."""

    unix_time: float
    temperature_c: float | None
    throttled: bool | None
    rss_bytes: int | None


class Seen(NamedTuple):
    """A run at one moment.

    `state` is running (as run.json says), finished or stopped (its process ended). `locked` says whether a
    process of this machine writes it. `done` and `total` count answers. `entropy` is the mean over answers
    in nats, NaN before the first. `tokens_per_second` counts the model's time only. `left` estimates the
    remaining seconds, `quiet` is the time since the last write. `answers` are in the order of their commits.
    `problems` are sentences about files that cannot be read.
    """

    label: str
    kind: str
    notice: str
    state: str
    locked: bool
    done: int
    total: int
    tokens: int
    tokens_per_second: float | None
    entropy: float
    left: float | None
    quiet: float
    machine: Machine | None
    answers: tuple[FinishedAnswer, ...]
    problems: tuple[str, ...]

    @property
    def over(self) -> bool:
        return self.state != RUNNING


class Follower:
    """Reads the state of one run repeatedly; each part is read once.

    `wall` gives seconds since 1970, `root` is the folder of /proc.
    """

    def __init__(self, folder: Path, wall: Callable[[], float] = time.time, root: Path = SYSTEM) -> None:
        self.folder = folder
        self._wall, self._root = wall, root
        self._parts: dict[str, tuple[FinishedAnswer, ...]] = {}  # by file name
        self._was_locked = False

    def look(self) -> Seen:
        """The run now; raises UserError when run.json is missing, damaged or of another schema."""
        # Before run.json: a run is marked as finished before its lock is released.
        held = self._held()
        manifest = read_manifest(self.folder)
        answers, problems, newest = self._answers()
        machine, paused = self._machine(problems)
        if manifest.taps_lost:
            problems.append(f"attention and hidden states are not traced: {manifest.taps_lost}")
        state = STOPPED if manifest.state != FINISHED and self._was_locked and not held else manifest.state
        self._was_locked = self._was_locked or held
        done, tokens = len(answers), sum(answer.tokens for answer in answers)
        spent = math.fsum(answer.seconds for answer in answers)
        total = max(manifest.questions.selected, done)  # parts of other shards may have been copied here
        means = [a.entropy for a in answers if not math.isnan(a.entropy)]
        return Seen(
            label=manifest.label,
            kind=manifest.kind,
            notice=manifest.notice,
            state=state,
            locked=held,
            done=done,
            total=total,
            tokens=tokens,
            tokens_per_second=tokens / spent if spent > 0 else None,
            entropy=math.fsum(means) / len(means) if means else math.nan,
            left=(spent + paused) / done * (total - done) if state == RUNNING and done else None,
            quiet=max(0.0, self._wall() - newest),
            machine=machine,
            answers=tuple(answers),
            problems=tuple(problems),
        )

    def _answers(self) -> tuple[list[FinishedAnswer], list[str], float]:
        """Committed answers, problems, and the time of the last write (seconds since 1970)."""
        paths = {path.name: path for path in (self.folder / "answers").glob("part-*.parquet")}
        steps = {part_stem(path.name) for path in (self.folder / "steps").glob("part-*.parquet")}
        by_date = sorted((modified(path), name) for name, path in paths.items())
        parts: dict[str, tuple[FinishedAnswer, ...]] = {}
        problems = []
        for _, name in by_date:
            try:
                if part_stem(name) not in steps:
                    raise UserError(f"the steps of {paths[name]} are missing: {AGAIN}")
                parts[name] = self._parts[name] if name in self._parts else read_answers(paths[name])
            except UserError as error:
                problems.append(str(error))
        self._parts = parts
        newest = max([modified(self.folder / RUN_NAME), *(stamp for stamp, _ in by_date)])
        return [answer for part in parts.values() for answer in part], problems, newest

    def _machine(self, problems: list[str]) -> tuple[Machine | None, float]:
        """The machine's last state, and the seconds that the run waited for it to cool."""
        path = self.folder / DEVICE_NAME
        if not path.exists():
            return None, 0.0
        try:
            rows = read_part(path, [*Machine._fields, "paused_s"]).to_pylist()
            paused = math.fsum(row["paused_s"] or 0.0 for row in rows)
            return Machine(*(rows[-1][name] for name in Machine._fields)), paused
        except (UserError, LookupError) as error:
            problems.append(f"the machine's state is not known: {error}")
            return None, 0.0

    def _held(self) -> bool:
        """Whether a process of this machine holds the run's lock."""
        try:
            lock = (self.folder / LOCK_NAME).stat()
        except OSError:
            return False
        name = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
        locks = read_text(self._root / "proc/locks") or ""
        return any(name in line.split() for line in locks.splitlines())


def modified(path: Path) -> float:
    """Time a file was written, in seconds since 1970; 0 for one that was removed meanwhile."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_answers(path: Path) -> tuple[FinishedAnswer, ...]:
    """Reads a part's answers; raises UserError when it is damaged or lacks a column."""
    table = read_part(path, list(ANSWERS))
    if missing := [name for name in ANSWERS if name not in table.column_names]:
        raise UserError(
            f"{path} lacks the column {' and '.join(missing)}: trace the run again into another folder"
        )
    return tuple(finished_answer(row) for row in table.to_pylist())


def finished_answer(row: dict[str, Any]) -> FinishedAnswer:
    """Converts one row of `answers`."""
    entropy = row["output_entropy_mean"]
    return FinishedAnswer(
        row["question_index"],
        row["question"],
        row["answer"],
        row["tokens"],
        row["stop_reason"],
        math.nan if entropy is None else entropy,
        ((row["prefill_ms"] or 0.0) + (row["decode_ms"] or 0.0)) / 1e3,
    )
