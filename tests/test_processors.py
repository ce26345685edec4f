"""edge.machine.processors: quotas, busy neighbours, and the number of threads that follows from them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.onnx import OnnxBackend
from edge.backends.runtime import Loader
from edge.errors import ignore
from edge.machine import processors
from edge.machine.processors import CALM, SHORT, Neighbours, ThreadCount, free_of, quota, usable_cores
from tests.boards import put


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.max": "max 100000\n"}, None),
        # The host's path, with the files of the container at the top.
        ({"proc/self/cgroup": "0::/host/app\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        # The narrowest of the groups around the process counts.
        (
            {
                "proc/self/cgroup": "0::/slice/app\n",
                "sys/fs/cgroup/slice/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/slice/app/cpu.max": "300000 100000\n",
            },
            1.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/app\n3:memory:/app\n",
                "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/app\n",
                "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "nonsense\n", "sys/fs/cgroup/cpu.max": "1 2 3\n"}, None),
    ],
)
def test_the_quota_of_the_control_groups_counts(files, expected, tmp_path):
    for name, content in files.items():
        put(tmp_path, name, content)
    assert quota(tmp_path) == expected


def test_a_quota_is_rounded_down_to_one_at_least(tmp_path):
    put(tmp_path, "proc/self/cgroup", "0::/\n")
    for granted, cores in (("50000", 1), ("199000", 1), ("9900000", len(os.sched_getaffinity(0)))):
        put(tmp_path, "sys/fs/cgroup/cpu.max", f"{granted} 100000\n")
        assert usable_cores(tmp_path) == cores


def test_affinity_counts():
    """In a process of its own, since the change holds for all its threads."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from edge.machine.processors import usable_cores; print(usable_cores())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"1\n"


@pytest.mark.parametrize(
    ("processors_", "busy", "free"),
    [(2, 0.0, 2), (2, 0.3, 2), (2, 0.5, 1), (2, 1.0, 1), (2, 2.0, 1), (4, 0.5, 3), (4, 1.6, 2), (8, 3.2, 5)],
)
def test_each_busy_process_takes_a_processor(processors_, busy, free):
    assert free_of(processors_, busy) == free


class Scripted:
    """Neighbours whose readings are given."""

    def __init__(self) -> None:
        self.busy: float | None = None
        self.next: list[float | None] = []

    def look(self) -> bool:
        if not self.next:
            return False
        self.busy = self.next.pop(0)
        return True


@pytest.fixture
def four(monkeypatch):
    monkeypatch.setattr(processors, "affinity", lambda: (0, 1, 2, 3))
    monkeypatch.setattr(processors, "usable_cores", lambda: 4)


def answers(count: ThreadCount, neighbours: Scripted, busy: list[float]) -> list[int]:
    """The number of threads after each reading."""
    neighbours.next = list(busy)
    return [count.now() for _ in busy]


def test_threads_follow_neighbours_that_stay(four):
    neighbours = Scripted()
    count = ThreadCount(None, neighbours)
    assert count.now() == 4
    assert answers(count, neighbours, [2.0] * SHORT) == [4] * (SHORT - 1) + [2]
    assert answers(count, neighbours, [2.0] * 5) == [2] * 5
    assert answers(count, neighbours, [0.0] * CALM) == [2] * (CALM - 1) + [4]


def test_a_burst_of_work_takes_no_thread_away(four):
    neighbours = Scripted()
    count = ThreadCount(None, neighbours)
    assert answers(count, neighbours, [3.0, 3.0, 3.0, 0.0] * 20) == [4] * 80


def test_neighbours_that_come_and_go_are_waited_for_longer_each_time_and_forgotten_in_a_calm_time(four):
    neighbours = Scripted()
    count = ThreadCount(None, neighbours)
    for wait in (CALM, 2 * CALM, 4 * CALM):
        assert answers(count, neighbours, [1.0] * SHORT)[-1] == 3
        assert answers(count, neighbours, [0.0] * wait) == [3] * (wait - 1) + [4]
    answers(count, neighbours, [0.0] * 1000)
    assert answers(count, neighbours, [1.0] * SHORT)[-1] == 3
    assert answers(count, neighbours, [0.0] * CALM)[-1] == 4


def test_a_change_that_takes_long_is_made_less_often(four):
    neighbours = Scripted()
    count = ThreadCount(None, neighbours)
    count.changed(10 * processors.WINDOW)
    assert answers(count, neighbours, [2.0] * 10) == [4] * 9 + [2]
    assert answers(count, neighbours, [0.0] * 20) == [2] * 19 + [4]


def test_a_number_that_the_user_gave_is_kept(four):
    neighbours = Scripted()
    neighbours.next = [3.0]
    assert ThreadCount(4, neighbours).now() == 4
    assert neighbours.next == [3.0]


def test_without_readable_counts_all_processors_are_used(tmp_path):
    count = ThreadCount(None, Neighbours(tmp_path))
    time.sleep(processors.WINDOW)
    assert count.now() == usable_cores()


def test_the_time_of_others_on_our_processors_is_counted(tmp_path, monkeypatch):
    """User, nice, system, interrupts and stolen time; not idle time, other processors, or our own work."""
    monkeypatch.setattr(processors, "affinity", lambda: (0, 2))
    clock = {"now": 100.0, "ours": 3.0}
    monkeypatch.setattr(processors.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(processors.time, "process_time", lambda: clock["ours"])
    tick = os.sysconf("SC_CLK_TCK")
    put(
        tmp_path,
        "proc/stat",
        "cpu 9 9 9 9 9 9 9 9 9 9\n" + "".join(f"cpu{i} 0 0 0 0 0 0 0 0 0 0\n" for i in (0, 1, 2)),
    )
    neighbours = Neighbours(tmp_path)
    clock |= {"now": 102.0, "ours": 4.0}
    seconds = [0.5, 0.25, 0.5, 7, 7, 0.125, 0.125, 0.5, 9, 9]  # of processor 0; 2.0 of them count
    columns = " ".join(str(round(second * tick)) for second in seconds)
    busy = " ".join(str(tick * 2) for _ in range(10))
    put(tmp_path, "proc/stat", f"cpu 0 0 0 0\ncpu0 {columns}\ncpu1 {busy}\ncpu2 0 0 0 {tick} 0 0 0 0 0 0\n")
    assert neighbours.look()
    assert neighbours.busy == pytest.approx((2.0 - 1.0) / 2.0, abs=0.02)
    clock["now"] += processors.WINDOW / 2
    assert not neighbours.look()


@pytest.mark.slow
def test_a_busy_process_is_seen_by_doctor(tmp_path, capsys):
    """On a machine of its own it takes one of the processors away."""
    with subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) as busy:
        try:
            neighbours = Neighbours()
            found = processors.examine(neighbours)
        finally:
            busy.kill()
    assert found.busy is not None and found.busy > 0.3
    assert found.threads <= max(1, found.allowed - 1)


def test_an_answer_does_not_depend_on_when_the_number_of_threads_changes(artifacts):
    """A session with another number of threads goes on with the cache of the one before."""
    artifact = Artifact.open(artifacts("untied"))
    ids = [i % artifact.manifest.model.vocabulary for i in range(3, 40)]

    def trace(changes: dict[int, int]) -> list[np.ndarray]:
        neighbours = Scripted()
        backend = OnnxBackend(artifact, neighbours=neighbours)
        backend._thread_count._neighbours = neighbours  # also on a machine with one processor
        backend._thread_count.most = 4
        taken, rows = [], []
        try:
            for step in range(12):
                if step in changes:
                    backend._thread_count._now = changes[step]
                taps = backend.prefill(ids) if step == 0 else backend.step(step)
                rows += [taps.logits.copy(), taps.attention.copy(), taps.hidden.copy()]
                taken.append(backend._threads)
        finally:
            backend.close()
        assert changes.keys() <= {0} or len(set(taken)) > 1
        return rows

    for one, other in zip(trace({0: 1}), trace({0: 2, 3: 1, 6: 3, 7: 1}), strict=True):
        assert np.array_equal(one, other)


def test_llama_cpp_changes_its_threads_between_passes_and_keeps_its_bits(artifacts, tmp_path):
    artifact = Artifact.open(artifacts("untied", "gguf-f16"))
    fixed = Loader(artifact, Runtime(threads=1)).load(64, ignore)
    following = Loader(artifact, Runtime()).load(64, ignore)
    try:
        for step in range(10):
            following._thread_count._now = 1 + step % 2
            ours, theirs = (
                backend.prefill([3, 4, 5, 6]) if step == 0 else backend.step(step)
                for backend in (following, fixed)
            )
            assert following._lib.llama_n_threads(following._context) == 1 + step % 2
            for a, b in zip(ours[1:], theirs[1:], strict=True):
                assert np.array_equal(a, b)
    finally:
        following.close()
        fixed.close()
