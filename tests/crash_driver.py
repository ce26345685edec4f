"""Runs `edge` again and again in child processes, killing each: at random moments, or at each step of
writing in turn.

python crash_driver.py random SEED KILLS RUN -- ARGUMENTS     kill -9 after a random time, KILLS times python
crash_driver.py steps  KILLS RUN -- ARGUMENTS          the n-th child kills itself at its n-th step of
writing

python crash_driver.py machines KILLS RUN -- ARGUMENTS       the same, and each child runs on a machine of
its own; RUN.json gets the answers that each child committed

Prints how many children died that way. Children are forked before any session exists, so each costs only its
own work.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

import edge.cli.app
import edge.files
import edge.jobs.score
import edge.jobs.session
import edge.machine.device

edge.jobs.session.FLUSH_SECONDS = 0.0  # a part for each question
edge.jobs.score.FLUSH_ROWS = 1


def child(arguments: list[str]) -> None:
    sys.argv = ["edge", *arguments]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        edge.cli.app.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)


def died(pid: int) -> bool:
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(f"a child failed with {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status)


def fork(arguments: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        child(arguments)
    return pid


def kill_at_random(seed: int, kills: int, run: Path, arguments: list[str]) -> int:
    rng, count = random.Random(seed), 0
    for _ in range(kills):
        parts = len(list(run.glob("*/*")))
        pid = fork(arguments)
        deadline = time.monotonic() + 30
        while len(list(run.glob("*/*"))) == parts and time.monotonic() < deadline:  # until it works
            if os.waitpid(pid, os.WNOHANG)[0]:
                return count
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.06))
        os.kill(pid, signal.SIGKILL)
        count += died(pid)
    return count


def kill_at_steps(kills: int, run: Path, arguments: list[str]) -> int:
    """Steps of writing: before a table, in the midst of its file, before its rename, before the folder's
    fsync."""
    count = 0
    for n in range(kills):
        pid = os.fork()
        if pid == 0:
            install(n)
            child(arguments)
        count += died(pid)
    return count


def kill_on_machines(kills: int, run: Path, arguments: list[str]) -> int:
    """As kill_at_steps; the n-th child's processor is called n, and the last child is left to finish."""
    count, committed = 0, dict[str, list[int]]()
    for n in range(kills + 1):
        before = whole_answers(run)
        pid = os.fork()
        if pid == 0:
            here = dataclasses.replace(edge.machine.device.describe(), processor=f"machine {n}")
            edge.machine.device.describe = functools.partial(copy.copy, here)
            if n < kills:
                install(n)
            child(arguments)
        count += died(pid)
        if new := sorted(whole_answers(run) - before):
            committed[f"machine {n}"] = new
    run.with_suffix(".json").write_text(json.dumps(committed))
    return count


def whole_answers(run: Path) -> set[int]:
    """The questions whose answers are committed: one in each part."""
    return {int(path.name.split("-")[2]) for path in (run / "answers").glob("part-*.parquet")}


def install(last: int) -> None:
    left = [last]

    def step() -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    write_table, rename, sync_folder = pq.write_table, Path.rename, edge.files.sync_folder

    def writing(table, file, **options):
        step()
        if left[0] == 0:  # dies at the next step, with half of the table in the file
            write_table(table.slice(0, len(table) // 2), file, **options)
        else:
            write_table(table, file, **options)
        step()

    def renaming(self, target):
        step()
        return rename(self, target)

    def syncing(folder):
        step()
        sync_folder(folder)

    pq.write_table, Path.rename, edge.files.sync_folder = writing, renaming, syncing


if __name__ == "__main__":
    split = sys.argv.index("--")
    mode, *numbers, run_folder = sys.argv[1:split]
    if mode == "machines":
        print(kill_on_machines(int(numbers[0]), Path(run_folder), sys.argv[split + 1 :]))
    elif mode == "random":
        print(kill_at_random(int(numbers[0]), int(numbers[1]), Path(run_folder), sys.argv[split + 1 :]))
    else:
        print(kill_at_steps(int(numbers[0]), Path(run_folder), sys.argv[split + 1 :]))
