"""What a step computes beside the model stays on its own thread: --threads alone decides on processors."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge.machine.processors import usable_cores

COUNTS = """
import os, time
import numpy as np
from edge.signals.comparison import TopK, kl_exact, kl_to_reference
from edge.signals.definitions import Scratch, output_signals
one, other = np.random.default_rng(0).normal(size=(2, 262144)).astype(np.float32)
order = np.argsort(-one).astype(np.int32)
kept = TopK(order, np.full(one.size, -np.log(one.size), np.float32), 0.0)
scratch, wide = Scratch(), one.astype(np.float64)
work = {
    "kl_exact": lambda: kl_exact(one, 9.0, other, 9.0),
    "kl_to_reference": lambda: kl_to_reference(kept, other, 9.0),
    "output_signals": lambda: output_signals(one, scratch),
    "a control": lambda: np.dot(wide, wide),
}
for name, call in work.items():
    for _ in range(50):  # threads of a library start with its first call
        call()
        time.sleep(0.002)
    own, all_threads = time.thread_time(), time.process_time()
    for _ in range(100):
        call()
        time.sleep(0.002)  # the pass of the model: a thread that waits for more work spins in it
    print(name, (time.process_time() - all_threads) / (time.thread_time() - own), sep="=")
"""


@pytest.mark.slow
@pytest.mark.skipif(usable_cores() < 2, reason="with one processor nothing starts more threads")
def test_the_numbers_of_a_step_take_one_processor():
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, check=True)
    ratios = {
        name: float(ratio) for name, ratio in (line.split("=") for line in done.stdout.split("\n")[:4])
    }
    if ratios.pop("a control") < 1.3:
        pytest.skip("this numpy multiplies on one thread")
    assert max(ratios.values()) < 1.1, ratios
