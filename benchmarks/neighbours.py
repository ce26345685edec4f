"""Speed of a traced model beside busy processes, over its speed on the idle machine.

    python -m benchmarks.neighbours ARTIFACT ... --json neighbours.json

Every number comes from a process of its own, which opens the artifact among its neighbours, decodes for
SETTLE seconds, and is then timed. `followed` is the default number of threads, `fixed` is one for each
processor as `--threads` gives it. The rounds are interleaved. A timing is repeated while processes that are
none of ours use more than FOREIGN of a processor.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from edge.backends.base import Runtime
from edge.backends.gguf_file import open_artifact
from edge.backends.runtime import open_backend
from edge.errors import ignore
from edge.jobs.bench import random_ids
from edge.machine.processors import Neighbours, usable_cores
from edge.signals.reader import SignalReader

CONTEXT, CAPACITY = 32, 256
SETTLE = 3.0  # seconds, in which the number of threads follows
FOREIGN, ATTEMPTS = 0.2, 5
BUSY = "while True: pass"


def decode_for(pipe: Connection, path: Path, threads: int | None, seconds: float) -> None:
    """Decodes until it is told to, then for `seconds`, and sends tokens a second and its processor time."""
    artifact = open_artifact(path)
    backend = open_backend(artifact, Runtime(threads, anyway=True), CAPACITY, ignore)
    reader, ids = SignalReader(backend.spec), random_ids(backend.spec.vocabulary, CONTEXT, 1)

    def decode(seconds: float) -> float:
        count, began = 0, time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            if backend.length in (0, backend.capacity):
                backend.rewind(0)
                reader.reset()
                backend.prefill(ids[:CONTEXT])
            reader.read(backend.step(ids[-1]))
            count += 1
        return count / passed

    decode(SETTLE)
    pipe.send(None)
    pipe.recv()
    before = time.process_time()
    rate = decode(seconds)
    pipe.send((rate, time.process_time() - before))
    backend.close()


@contextmanager
def neighbours(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes that each keep one processor busy."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """Seconds that a process has run."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure(path: Path, threads: int | None, count: int, seconds: float) -> tuple[float, float]:
    """Tokens a second beside `count` neighbours, and what foreign processes used of a processor."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    with neighbours(count) as busy:
        process = spawn.Process(target=decode_for, args=(theirs, path, threads, seconds), daemon=True)
        process.start()
        theirs.close()
        ours.recv()
        others, before, began = Neighbours(), sum(map(processor_seconds, busy)), time.perf_counter()
        ours.send(None)
        rate, used = ours.recv()
        passed = time.perf_counter() - began
        others.look()
        known = sum(map(processor_seconds, busy)) - before + used
        process.join()
    return rate, max(0.0, (others.busy or 0.0) - known / passed)


def clean(path: Path, threads: int | None, count: int, seconds: float) -> float:
    """Tokens a second with nothing else on the machine, or the last of ATTEMPTS timings."""
    for attempt in range(ATTEMPTS):
        rate, foreign = measure(path, threads, count, seconds)
        if foreign <= FOREIGN:
            return rate
        print(f"repeated: other processes used {foreign:.2f} processors ({attempt + 1})", file=sys.stderr)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    rates: dict[tuple[Path, str, int], list[float]] = {}
    for _ in range(given.rounds):
        for path in given.artifacts:
            for count in given.neighbours:
                for name, threads in (("followed", None), ("fixed", usable_cores())):
                    rate = clean(path, threads, count, given.seconds)
                    rates.setdefault((path, name, count), []).append(rate)
    for path in given.artifacts:
        idle = median(rates[path, "fixed", 0])
        for name in ("followed", "fixed"):
            values = {count: rates[path, name, count] for count in given.neighbours}
            rows.append({"artifact": str(path), "threads": name, "tokens_per_s": values})
            shares = "  ".join(f"{count}: {median(v) / idle:.3f}" for count, v in values.items())
            spread = (max(values[0]) - min(values[0])) / median(values[0])
            print(f"{path.parent.name}/{path.name} {name:9} {shares}  idle spread {spread:.3f}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
