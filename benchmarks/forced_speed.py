"""Speed of `edge force` beside `edge run`: `python -m benchmarks.forced_speed --work DIR`.

Whole jobs in one process, as `edge run` and `edge force` do them, on the same tokens: *run* and *run2* (the
noise) answer, *run K* keeps distributions too; *force* reads the tokens of a run without kept distributions,
*force K* those of one with them. Rounds are interleaved in rotating order; medians of tokens a second over
the whole job, and of the processor time against *run* of the same round and of the least over all rounds,
which others on the machine disturb less. One thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.jobs.bench import rotated
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.questions.question import EMBEDDED, read_questions
from edge.runs.run_directory import Run
from export.build import build

DAY = "2026-01-01"
REFERENCE_K = 256


def jobs(artifact: Artifact, work: Path, limit: int, tokens: int) -> dict[str, Callable[[Path], object]]:
    """Jobs by name, each a function of the folder for its run; writes the reference runs."""
    questions, runtime = list(itertools.islice(read_questions(EMBEDDED), limit)), Runtime(1)

    def answer(out: Path, kept: int = 0) -> object:
        return run(
            artifact, questions, out, DecodeSettings(tokens, reference_k=kept), date=DAY, runtime=runtime
        )

    answer(work / "plain")
    answer(work / "kept", REFERENCE_K)
    return {
        "run": answer,
        "run2": answer,
        "run K": lambda out: answer(out, REFERENCE_K),
        "force": lambda out: force(artifact, work / "plain", out, runtime=runtime),
        "force K": lambda out: force(artifact, work / "kept", out, runtime=runtime),
    }


class Spent(NamedTuple):
    """Seconds of wall-clock and of processor time."""

    wall: float
    processor: float


def spend(job: Callable[[Path], object], out: Path) -> Spent:
    """Runs a job into an empty folder; the time it took."""
    shutil.rmtree(out, ignore_errors=True)
    started = Spent(time.perf_counter(), time.process_time())
    job(out)
    return Spent(time.perf_counter() - started.wall, time.process_time() - started.processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for artifacts and runs")
    parser.add_argument("--source", default="nano-llama", help="known model or checkpoint folder")
    parser.add_argument(
        "--precisions", nargs="+", default=["onnx-fp32", "onnx-int4", "gguf-f32", "gguf-q4_k_m"]
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = {}
    for built in build(options.source, options.precisions, options.work / "artifacts"):
        name = built.artifact.manifest.precision
        work = options.work / name
        shutil.rmtree(work, ignore_errors=True)
        by_name = jobs(built.artifact, work, options.limit, options.tokens)
        tokens = Run.open(work / "plain").steps(["question_index", "step"]).num_rows
        spent: dict[str, list[Spent]] = {job: [] for job in by_name}
        for number in range(options.rounds + 1):
            for job in rotated(by_name, number):
                took = spend(by_name[job], work / "out")
                if number:  # the first round warms up
                    spent[job].append(took)
        result[name] = {}
        for job, values in spent.items():
            speed = tokens / median(value.wall for value in values)
            ratios = [
                value.processor / base.processor for value, base in zip(values, spent["run"], strict=True)
            ]
            low, middle, high = np.percentile(ratios, (25, 50, 75))
            best = min(value.processor for value in values) / min(base.processor for base in spent["run"])
            result[name][job] = {
                "tokens_per_second": speed,
                "ratio": middle,
                "quartiles": [low, high],
                "of_least": best,
            }
            spread = f"{middle:.3f} (quartiles {low:.3f} to {high:.3f}), of the least {best:.3f}"
            print(f"{name:12} {job:8} {speed:8.0f} tokens/s   processor time over run {spread}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
