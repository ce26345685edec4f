"""What each precision does to the embedded models: `python -m benchmarks.damage_table --work DIR --questions truthfulqa_790.csv`.

Builds every artifact, traces the full-precision one as the reference, every other one alone and on the reference's tokens with
the full model beside it, and prints the Markdown tables of docs/compare.md. Each run is a process of its own, so that its memory
is its own; finished runs are kept, so that the same command goes on. onnx-int4-mixed is searched for on the embedded questions,
none of which may be among those judged by.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from edge.questions import EMBEDDED, read_questions
from export.precision import MIXED

MODELS = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")
FULL = "onnx-fp32"
PRECISIONS = ("onnx-int8", "gguf-q8_0", MIXED, "onnx-int4", "gguf-q4_k_m", "gguf-q4_0")
DAY = "2026-01-01"
COMMANDS = {"edge": "from edge.cli import main; main()", "edge-export": "from export.cli import main; main()"}


def call(program: str, *words: str | Path) -> None:
    """One command as a process of its own, shown; it must succeed."""
    print(program, *words, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-c", COMMANDS[program], *map(str, words)], check=True, stdout=sys.stderr)


def trace(model: str, work: Path, questions: Path, limit: Sequence[str]) -> None:
    """Everything below work/MODEL: artifacts/PRECISION, full, PRECISION (alone), PRECISION-forced."""
    artifacts, runs = work / model / "artifacts", work / model
    plain = [word for precision in (FULL, *PRECISIONS) if precision != MIXED for word in ("--to", precision)]
    call("edge-export", "build", model, *plain, "--out", artifacts)
    if not (artifacts / MIXED).exists():
        call("edge-export", "mix", model, "--out", artifacts, "--questions", EMBEDDED, "--threads", "1")
    alone = ["--questions", questions, "--date", DAY, "--threads", "1", "--quiet", *limit]
    call("edge", "run", artifacts / FULL, "--out", runs / "full", "--reference", *alone)
    for name in PRECISIONS:
        call("edge", "run", artifacts / name, "--out", runs / name, *alone)
        call("edge", "force", artifacts / name, "--like", runs / "full", "--exact", artifacts / FULL,
             "--out", runs / f"{name}-forced", "--threads", "1", "--quiet")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for artifacts and runs (0.5 GB)")
    parser.add_argument("--questions", type=Path, required=True, help="CSV of questions to judge by")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    asked = [{question.question for question in read_questions(path)} for path in (EMBEDDED, options.questions)]
    if shared := asked[0] & asked[1]:
        raise SystemExit(f"{len(shared)} questions were used for the search of {MIXED}: give others")
    for model in options.models:
        trace(model, options.work, options.questions, ["--limit", str(options.limit)] if options.limit else [])


if __name__ == "__main__":
    main()
