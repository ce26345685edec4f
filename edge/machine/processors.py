"""Processors: how many this process may use, and how many of them other processes keep busy.

Both libraries' threads wait for each other after every operation. One that has lost its processor to another
process holds all of them up, so that one thread more than there are free processors makes a token several
times slower. The bits of a result do not depend on the number of threads.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

from edge.machine.system import SYSTEM, ControlGroup, control_groups, read_text

WINDOW = 0.25  # seconds between two readings: the kernel counts in hundredths
LOOK = 1.0  # seconds of one look for a person
NEIGHBOUR = 0.35  # of a processor; one busy process takes at least half of one from our threads
# Readings in a row that must show a neighbour before a thread is given up: a burst of work is none.
SHORT = 4
# Readings in a row that must leave room before more threads are used. Their number doubles each time, since
# neighbours that come and go would cost more by the changes than by the wait. It halves after a calm time.
CALM, MOST_CALM = 8, 256
# Columns of a line of /proc/stat: user, nice, system, interrupts, soft interrupts, and the time that the
# host of a virtual machine took. Idle time and waiting for a disk are left out.
BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)


def affinity() -> tuple[int, ...]:
    """Numbers of the processors that the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def quota(root: Path = SYSTEM) -> float | None:
    """Processors' worth of time that the control groups around this process grant it; None for no limit."""
    limits = (group_quota(group) for group in control_groups("cpu", root))
    return min((limit for limit in limits if limit is not None), default=None)


def group_quota(group: ControlGroup) -> float | None:
    """Quota of one control group in processors, None for no limit."""
    if group.old:
        words = [read_text(group.folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    else:
        words = (read_text(group.folder / "cpu.max") or "").split()
    try:
        granted, period = (int(word) for word in words)
    except ValueError:  # "max", or no such file
        return None
    return granted / period if granted > 0 and period > 0 else None


def usable_cores(root: Path = SYSTEM) -> int:
    """Processors this process may use at the same time, by affinity and quota, at least one.

    A quota is rounded down. Threads above it would be stopped together for the rest of each period.
    """
    limit = quota(root)
    allowed = len(affinity())
    return allowed if limit is None else max(1, min(allowed, math.floor(limit)))


class Neighbours:
    """Reads how much of this process's processors other processes use.

    `busy` is in processors, over the time between the last two readings; None before the second one, and
    where /proc/stat cannot be read.
    """

    def __init__(self, root: Path = SYSTEM) -> None:
        self._path = root / "proc/stat"
        self._names = {f"cpu{number}" for number in affinity()}
        self._tick = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
        self.busy: float | None = None
        self._read = time.monotonic()
        self._ours, self._all = time.process_time(), self._used()

    @property
    def age(self) -> float:
        """Seconds since the last reading."""
        return time.monotonic() - self._read

    def look(self) -> bool:
        """Reads if a reading is due; returns whether it did."""
        now = time.monotonic()
        passed = now - self._read
        if passed < WINDOW:
            return False
        ours, used = time.process_time(), self._used()
        if used is not None and self._all is not None:
            self.busy = max(0.0, (used - self._all - (ours - self._ours)) / passed)
        self._read, self._ours, self._all = now, ours, used
        return True

    def _used(self) -> float | None:
        """Seconds that our processors were busy since the machine started."""
        total, seen = 0, False
        for line in (read_text(self._path) or "").splitlines():
            name, *columns = line.split()
            if name in self._names and len(columns) > BUSY_COLUMNS[-1]:
                total += sum(int(columns[i]) for i in BUSY_COLUMNS)
                seen = True
        return total * self._tick if seen else None


def free_of(processors: int, busy: float) -> int:
    """Processors that `busy` leaves free, at least one. Each NEIGHBOUR or more takes a whole one."""
    return max(1, processors - max(0, math.ceil(busy - NEIGHBOUR)))


@dataclass(frozen=True)
class Processors:
    """The processors of this process: `allowed` by affinity, `quota` of its control groups in processors.

    `busy` is the number that other processes keep busy. `threads` is the number of threads chosen by these.
    None is a quota that is not set, and a number that cannot be read.
    """

    allowed: int
    quota: float | None
    busy: float | None
    threads: int


def examine(neighbours: Neighbours) -> Processors:
    """The processors of this process now; waits for a reading of the neighbours."""
    time.sleep(max(0.0, LOOK - neighbours.age))
    neighbours.look()
    most, busy = usable_cores(), neighbours.busy
    threads = most if busy is None else min(most, free_of(len(affinity()), busy))
    return Processors(len(affinity()), quota(), busy, threads)


class ThreadCount:
    """The number of threads that a model's passes should use: one for each free processor.

    A number that the user gave (`fixed`) is kept. Fewer threads are taken after SHORT readings in a row that
    ask for it, more after CALM, then after twice as many each time.
    """

    def __init__(self, fixed: int | None, neighbours: Neighbours | None = None) -> None:
        self.most = fixed or usable_cores()
        self._neighbours = None if fixed or self.most == 1 else neighbours or Neighbours()
        self._processors = len(affinity())
        self._patience, self._least = CALM, SHORT
        self._busy, self._calm = 0, 0
        self._now = self.most

    def now(self) -> int:
        """The number of threads for the next pass; reads the neighbours where that is due.

        Takes well below a microsecond between readings, 0.1 ms for a reading.
        """
        neighbours = self._neighbours
        if neighbours is None or not neighbours.look() or neighbours.busy is None:
            return self._now
        free = min(self.most, free_of(self._processors, neighbours.busy))
        self._busy = self._busy + 1 if free < self._now else 0
        self._calm = self._calm + 1 if free > self._now or free == self.most else 0
        if self._busy >= self._least:
            self._now, self._busy = free, 0
        elif self._now < self.most and self._calm >= max(self._patience, 2 * self._least):
            self._now, self._calm = free, 0
            self._patience = min(2 * self._patience, MOST_CALM)
        elif self._now == self.most and self._calm >= 2 * self._patience:
            self._patience, self._calm = max(CALM, self._patience // 2), 0
        return self._now

    def changed(self, seconds: float) -> None:
        """Tells how long it took to change the number: the next change waits at least so long."""
        self._least = max(SHORT, math.ceil(seconds / WINDOW))
