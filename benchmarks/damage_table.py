"""What each precision does to the embedded models: `python -m benchmarks.damage_table --work DIR --questions
truthfulqa_790.csv`.

Builds every artifact, traces the full-precision one as the reference, every other one alone and on the
reference's tokens with the full model beside it, and prints the Markdown tables of docs/compare.md. Each run
is a process of its own, so that its memory is its own; finished runs are kept, so that the same command goes
on. onnx-int4-mixed is searched for on the embedded questions, none of which may be among those judged by.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge.analysis.artifacts import compare_artifacts
from edge.analysis.dynamics import numbers
from edge.analysis.intervals import Interval
from edge.analysis.pairs import weighted
from edge.precision import FULL, MIXED
from edge.questions.question import EMBEDDED, read_questions
from edge.runs.run_directory import Run

MODELS = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")
PRECISIONS = ("onnx-int8", "gguf-q8_0", MIXED, "onnx-int4", "gguf-q4_k_m", "gguf-q4_0")
PAIRS = ((MIXED, "onnx-int4"), ("gguf-q4_k_m", "onnx-int4"), ("onnx-int8", "gguf-q8_0"))
DAY = "2026-01-01"
COMMANDS = {
    "edge": "from edge.cli.app import main; main()",
    "edge-export": "from export.cli import main; main()",
}


def call(program: str, *words: str | Path) -> None:
    """Prints a command and runs it as a process of its own; raises CalledProcessError where it fails."""
    print(program, *words, file=sys.stderr, flush=True)
    arguments = [sys.executable, "-c", COMMANDS[program], *map(str, words)]
    subprocess.run(arguments, check=True, stdout=sys.stderr)


def trace(model: str, work: Path, questions: Path, limit: Sequence[str]) -> None:
    """Fills work/MODEL: artifacts/PRECISION, and the runs full, PRECISION (alone) and PRECISION-forced."""
    artifacts, runs = work / model / "artifacts", work / model
    plain = [word for precision in (FULL, *PRECISIONS) if precision != MIXED for word in ("--to", precision)]
    call("edge-export", "build", model, *plain, "--out", artifacts)
    if not (artifacts / MIXED).exists():
        call("edge-export", "mix", model, "--out", artifacts, "--questions", EMBEDDED, "--threads", "1")
    alone = ["--questions", questions, "--date", DAY, "--threads", "1", "--quiet", *limit]
    call("edge", "run", artifacts / FULL, "--out", runs / "full", "--reference", *alone)
    for name in PRECISIONS:
        call("edge", "run", artifacts / name, "--out", runs / name, *alone)
        beside = ["--like", runs / "full", "--exact", artifacts / FULL]
        out = runs / f"{name}-forced"
        call("edge", "force", artifacts / name, *beside, "--out", out, "--threads", "1", "--quiet")


HEAD = (
    "model",
    "precision",
    "MB",
    "mean KL ± s.e.",
    "same top 1",
    "ln PPL ratio",
    "output entropy",
    "attention entropy",
    "hidden error, last layer",
    "identical answers",
    "class",
)


def text(value: Interval, *, signed: bool = True) -> str:
    """Two digits, with a star where the 95% interval leaves out 0."""
    star = "*" if signed and (value.low > 0 or value.high < 0) else ""
    return f"{value.value:{'+' if signed else ''}.2g}{star}"


def rows(model: str, work: Path) -> Iterator[list[str]]:
    """One row for each precision, from `edge compare` of all its runs."""
    names = [f"{name}{kind}" for name in PRECISIONS for kind in ("", "-forced")]
    runs = [Run.open(work / model / name) for name in names]
    for line in compare_artifacts(Run.open(work / model / "full"), runs).lines:
        damage = line.damage
        if damage is None or line.identical is None:
            raise SystemExit(f"{line.label} was not traced both ways")
        yield [
            model,
            line.precision,
            f"{(line.cost.bytes or 0) / 1e6:.2f}",
            f"{damage.kl:.3g} ± {damage.kl_error:.1g}",
            f"{100 * damage.same_top1.value:.2f}%",
            text(damage.log_ppl_ratio),
            text(line.entropy_change),
            text(line.attention_change),
            text(damage.hidden_error, signed=False),
            f"{100 * line.identical.value:.0f}%",
            line.model_class if line.same_class else f"{line.model_class} (changed)",
        ]


def less(one: Run, other: Run) -> tuple[Interval, float]:
    """Mean over tokens of KL(other) - KL(one) in nats, with an interval over questions, and as a share of
    KL(other)."""
    a, b = (run.steps(["question_index", "step", "token_id", "kl"]) for run in (one, other))
    if not a.select([0, 1, 2]).equals(b.select([0, 1, 2])):
        raise SystemExit(f"{one.folder} and {other.folder} were forced on different tokens")
    before, after = numbers(b, "kl"), numbers(a, "kl")
    gain = weighted(before - after, a.column("question_index").to_numpy())
    return gain, float(1 - after.mean() / before.mean())


def show(models: Sequence[str], work: Path) -> None:
    """Prints both tables in Markdown."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for model in models:
        for row in rows(model, work):
            print(f"| {' | '.join(row)} |", flush=True)
    print("\n| model | against | has less KL by [95%] | share |\n|---|---|---|---|")
    for model in models:
        for one, other in PAIRS:
            gain, share = less(*(Run.open(work / model / f"{name}-forced") for name in (one, other)))
            interval = f"{gain.value:.3g} [{gain.low:.3g}, {gain.high:.3g}]"
            print(f"| {model} | {one} against {other} | {interval} | {100 * share:.0f}% |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for artifacts and runs (0.5 GB)")
    parser.add_argument("--questions", type=Path, required=True, help="CSV of questions to judge by")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    searched, judged = (
        {question.question for question in read_questions(path)} for path in (EMBEDDED, options.questions)
    )
    if shared := searched & judged:
        raise SystemExit(f"{len(shared)} questions were used for the search of {MIXED}: give others")
    limit = ["--limit", str(options.limit)] if options.limit else []
    for model in options.models:
        trace(model, options.work, options.questions, limit)
    show(options.models, options.work)


if __name__ == "__main__":
    main()
