"""A small case of every command of both programs, for what must hold for all of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.conftest import Artifacts, Checkpoints, write_questions
from tests.shims import edge, edge_export, environment

FEW = ("--max-new-tokens", "3", "--quiet", "--no-prepack")
NAMES = (
    *("run", "force", "compare", "report", "ask", "bench", "demo", "label", "merge", "paper", "questions"),
    *("score", "watch", "models", "doctor", "build", "mix", "synth", "reference", "verify"),
)
# Refused, since a shape's weights are gigabytes. All others end with 0.
REFUSED = {"synth"}


def prepare(folder: Path, artifacts: Artifacts, checkpoints: Checkpoints) -> None:
    """Puts into `folder` what the commands read: a checkpoint, artifacts, questions, runs and shards."""
    write_questions(folder / "q.csv", ["Why?", "How?"])
    (folder / "checkpoint").symlink_to(checkpoints("odd"))
    (folder / "artifact").symlink_to(artifacts("odd", "onnx-int4"))
    shutil.copytree(artifacts("odd", "onnx-int8"), folder / "verified")
    for out, *more in (("a",), ("b",), ("s1", "--shard", "1/2"), ("s2", "--shard", "2/2")):
        command = edge("run", "artifact", "--questions", "q.csv", "--out", out, *FEW, *more)
        home = environment(folder / "home")
        subprocess.run(command, env=home, cwd=folder, check=True, capture_output=True)


def every_command(folder: Path, out: Path) -> dict[str, list[str]]:
    """Name of a command -> its case, which reads what `prepare` made and writes into `out` alone.

    `label` writes into the run of a copy in `out`, `verify` into the artifact of one.
    """
    shutil.copytree(folder / "a", out / "judged")
    shutil.copytree(folder / "verified", out / "verified")
    q, artifact, checkpoint = folder / "q.csv", folder / "artifact", folder / "checkpoint"
    a, b = folder / "a", folder / "b"
    limits = ("--questions", q, "--limit", "1", "--max-new-tokens", "3")
    return {
        "run": edge("run", artifact, "--questions", q, "--out", out / "run", *FEW),
        "force": edge("force", artifact, "--like", a, "--out", out / "forced", "--quiet", "--no-prepack"),
        "compare": edge("compare", a, b),
        "report": edge("report", a, b, "--out", out / "report.html"),
        "ask": edge("ask", artifact, "Why?", "--max-new-tokens", "3"),
        "bench": edge("bench", artifact, "--context", "16", "--tokens", "2", "--rounds", "1"),
        "demo": edge(
            "demo", "--model", "nano-llama", "--models", out / "m", "--out", out / "d", "--limit", "1"
        ),
        "label": edge("label", out / "judged", "--auto", "--questions", q),
        "merge": edge("merge", folder / "s1", folder / "s2", "--out", out / "merged"),
        "paper": edge("paper", a, b, "--jobs", "2"),
        "questions": edge("questions", "--help"),
        "score": edge("score", artifact, "--questions", q, "--out", out / "score", "--quiet"),
        "watch": edge("watch", a, "--once"),
        "models": edge("models"),
        "doctor": edge("doctor"),
        "build": edge_export("build", checkpoint, "--to", "onnx-int4", "--out", out / "built"),
        "mix": edge_export("mix", checkpoint, "--out", out / "mix", *limits),
        "synth": edge_export("synth", "no-such", "--out", out / "synth"),
        "reference": edge_export("reference", "nano-llama", "--out", out / "reference"),
        "verify": edge_export("verify", out / "verified", "--source", checkpoint),
    }
