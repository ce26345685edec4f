"""The program `edge`: its commands in the order of its help."""

from __future__ import annotations

from edge.cli.guard import run_app
from edge.cli.program import Command, Debug, Version, app_of


def top(version: Version = False, debug: Debug = False) -> None:
    """See what a small language model does inside while it answers, and what quantisation does to that."""


COMMANDS = (
    Command(
        "run",
        "edge.cli.run",
        "Trace a model's answers to questions into a run directory; continues by itself where it was "
        "stopped.",
        "edge run models/nano-llama/onnx-int4 --out runs/int4 --limit 20",
    ),
    Command(
        "force",
        "edge.cli.force",
        "Trace a model on another run's tokens (teacher forcing), so that both can be compared position "
        "by position.",
        "edge force models/nano-llama/onnx-int4 --like runs/fp32 --out runs/int4-forced",
    ),
    Command(
        "compare",
        "edge.cli.compare",
        "Say what quantisation changed: agreement of tokens and distributions, entropies and dispersion "
        "by layer, class; of several runs a table by artifact with size, memory and speed.",
        "edge compare runs/fp32 runs/int4-forced --json compare.json",
    ),
    Command(
        "report",
        "edge.cli.report",
        "Write one HTML file with tables and figures of one or more runs; it opens offline.",
        "edge report runs/fp32 runs/int4 runs/int4-forced --out report.html",
    ),
    Command(
        "ask",
        "edge.cli.ask",
        "Answer one question live: tokens coloured by entropy, statistics as they change.",
        'edge ask models/nano-llama/onnx-int4 "Do bats see?"',
    ),
    Command(
        "bench",
        "edge.cli.bench",
        "Tokens a second with every column traced, time to first token, peak memory, and the share of the"
        " memory's speed.",
        "edge bench models/nano-llama/onnx-fp32 models/nano-llama/onnx-int4 --context 64",
    ),
    Command(
        "demo",
        "edge.cli.demo",
        "Build, trace, force, compare and report a real and very small model in three precisions; shows "
        "each command before it runs. Without a package index it shows the embedded models.",
        "edge demo --nano",
    ),
    Command(
        "label",
        "edge.cli.label",
        "Judge a run's answers: best, correct, best_incorrect or incorrect; by hand where no other way is"
        " asked for.",
        "edge label runs/fp32 --auto",
    ),
    Command(
        "merge",
        "edge.cli.merge",
        "Make one run of the finished shards of it (--shard I/N), wherever each was traced; they stay as "
        "they are.",
        "edge merge runs/pi4 runs/pi5 --out runs/int4",
    ),
    Command(
        "paper",
        "edge.cli.paper",
        "Tables 1 to 7 of arXiv 2604.03589 for runs, beside the paper's numbers; with outcomes, whether a"
        " metric predicts them.",
        "edge paper runs/fp32 runs/int4 --question 0 --csv tables",
    ),
    Command(
        "questions",
        "edge.cli.questions",
        "Fetch TruthfulQA's questions, which `edge run` then asks by default.",
        "edge questions fetch",
    ),
    Command(
        "score",
        "edge.cli.score",
        "Say which listed answers a model finds likeliest: mc1, mc2 and binary; continues by itself where"
        " it was stopped.",
        "edge score models/nano-llama/onnx-int4 --out scores/int4",
    ),
    Command(
        "watch",
        "edge.cli.watch",
        "Follow a run that another terminal makes: state, questions done, rate, time left, last answers. "
        "Never writes into it.",
        "edge watch runs/int4",
    ),
    Command(
        "models",
        "edge.cli.models",
        "List the known models and the artifacts that are built.",
        "edge models --under models",
    ),
    Command(
        "doctor",
        "edge.cli.doctor",
        "Say what this machine is, what can run on it, and whether llama.cpp's attention and hidden "
        "states can be read.",
        "edge doctor --json doctor.json",
    ),
)
app = app_of(COMMANDS, top)


def main() -> None:
    run_app(app)
