"""Ctrl-C and `kill`: quiet, at once, from the first import on, and in every process of a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import NANO_LLAMA, write_questions
from tests.shims import edge, environment

pytestmark = pytest.mark.slow  # many processes or builds

PATIENCE = 60.0
# Says when Python itself has started: before, Ctrl-C is its own affair.
STARTED = """
import os, signal
from edge.machine.early import leave
from {module}.__main__ import main
signal.signal(signal.SIGINT, leave)
os.write(1, b"!")
main()
"""


@pytest.fixture(scope="module")
def runs(artifacts, tmp_path_factory):
    """Two runs, large enough that their analysis takes a while."""
    folder = tmp_path_factory.mktemp("runs")
    write_questions(folder / "q.csv", [f"Why is it {i}?" for i in range(40)])
    for name, precision in (("a", "onnx-fp32"), ("b", "onnx-int4")):
        words = ("--questions", folder / "q.csv", "--max-new-tokens", "60", "--quiet", "--no-prepack")
        command = edge("run", artifacts("odd", precision), "--out", folder / name, *words)
        subprocess.run(command, env=environment(folder), check=True, capture_output=True)
    return folder


def ended(module: str, words: list[str], after: float, number: int, folder: Path) -> tuple[int, str, float]:
    """Exit code, stderr and seconds until the end of a command whose group gets a signal after so long."""
    command = [sys.executable, "-c", STARTED.format(module=module), *words]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdout.read(1) == b"!"
        time.sleep(after)
        group = process.pid
        os.killpg(group, number)
        began = time.monotonic()
        _, errors = process.communicate(timeout=PATIENCE)
    seconds = time.monotonic() - began
    while alive(group):
        assert time.monotonic() < began + PATIENCE, "a process of the command is left"
        time.sleep(0.02)
    return process.returncode, errors.decode(), seconds


def alive(group: int) -> bool:
    """Whether a process of a group runs, other than those that wait to be collected."""
    listed = subprocess.run(
        ["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True, check=False
    ).stdout
    return any(not line.startswith("Z") for line in listed.split())


def commands(runs: Path, folder: Path) -> dict[str, tuple[str, list[str]]]:
    a, b = str(runs / "a"), str(runs / "b")
    return {
        "models": ("edge", ["models"]),
        "compare": ("edge", ["compare", a, b]),
        "paper": ("edge", ["paper", a, b, "--jobs", "2"]),
        "report": ("edge", ["report", a, b, "--out", str(folder / "report.html")]),
        "build": ("export", ["build", str(NANO_LLAMA), "--to", "onnx-int4", "--out", str(folder / "built")]),
    }


@pytest.mark.parametrize("after", [0.003, 0.03, 0.06, 0.1, 0.15])
def test_ctrl_c_in_the_imports_is_quiet(after, runs, tmp_path):
    code, errors, _ = ended(
        "edge", ["watch", str(runs / "a"), "--every", "30"], after, signal.SIGINT, tmp_path
    )
    assert (code, errors) in ((130, ""), (0, ""))  # a finished run is not watched for long


@pytest.mark.slow
@pytest.mark.parametrize("name", ["models", "compare", "paper", "report", "build"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_is_quiet_and_leaves_no_process(name, number, runs, tmp_path):
    module, words = commands(runs, tmp_path)[name]
    ends = set()
    for after in (0.01, 0.2, 0.5, 0.9, 1.4, 2.0):
        try:
            code, errors, _ = ended(module, words, after, number, tmp_path)
        except ProcessLookupError:
            break  # it had ended
        assert errors.strip() == "", errors
        # Of a process that is about to end, its work done, the signal itself is what a shell sees.
        assert code in (0, 128 + number, -number)
        ends.add(code)
    assert 128 + number in ends
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("*.building"))


HELD = """
import os, signal, sys, threading, time
import numpy
numpy.ones((500, 500)) @ numpy.ones((500, 500))
threading.Thread(target=time.sleep, args=(20,), daemon=True).start()  # takes signals, as a BLAS thread does
from edge.machine.processes import starting
try:
    with starting():
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        for _ in range(10):
            time.sleep(0.02)
        print("held", flush=True)
    time.sleep(5)
except KeyboardInterrupt:
    print("raised")
"""
OTHER_THREAD = """
import signal, threading
from edge.machine.processes import starting
def start():
    with starting():
        print(threading.current_thread().name, len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
threading.Thread(target=start, name="other").start()
"""


@pytest.mark.parametrize(
    ("name", "code", "said"), [("SIGINT", 0, "held\nraised\n"), ("SIGTERM", -15, "held\n")]
)
def test_a_signal_waits_until_processes_have_started_also_with_threads_of_libraries(
    name, code, said, tmp_path
):
    command = [sys.executable, "-c", HELD, name]
    done = subprocess.run(
        command, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, said, "")


def test_a_process_is_started_from_any_thread(tmp_path):
    command = [sys.executable, "-c", OTHER_THREAD]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("other 0\n", "")


def test_a_signal_that_is_ignored_stays_ignored(tmp_path):
    """As for a command in the background of a script, or under nohup."""
    script = (
        "trap '' INT HUP; \"$@\" & child=$!; sleep 0.02; kill -INT $child; kill -HUP $child; wait $child"
    )
    command = ["sh", "-c", script, "-", *edge("models")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "nano-llama" in done.stdout


@pytest.mark.slow
def test_workers_end_with_a_command_that_is_killed(runs, tmp_path):
    process = subprocess.Popen(
        edge("paper", runs / "a", runs / "b", "--jobs", "2"),
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + PATIENCE
    while len(children(process.pid)) < 3:  # two workers and the tracker of multiprocessing
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    while alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children(process: int) -> list[str]:
    command = ["ps", "-o", "pid=", "--ppid", str(process)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
