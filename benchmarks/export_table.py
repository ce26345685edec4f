"""Time, memory and size of true-size builds: every known hub model's shape in every precision, on random
weights.

Each build is a process of its own. Its memory is read from /proc while it runs: anonymous pages (what it
really holds) apart from mapped file pages (the checkpoint, which the kernel can drop at any time). `needed`
is what the block format itself takes: bits and a float32 scale for each 32 weights, float32 for norms and
biases; GGUF's mixtures have no such number.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from edge.artifact import Artifact
from edge.precision import ONNX, PRECISIONS
from edge.registry import read_registry
from export.checkpoint import Checkpoint
from export.graph.architectures import read_config
from export.precision import Target
from export.space import weight_bytes
from export.synth import synth

BUILD = "from export.cli import main; main()"
EDGE = "from edge.cli.app import main; main()"
QUESTIONS = 3


def status(pid: int) -> dict[str, int]:
    """RssAnon and RssFile of a process in bytes; empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":") for line in lines if line.startswith("Rss"))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def measure(command: list[str]) -> dict[str, float]:
    """Runs a command; its seconds and peak bytes. Raises SystemExit where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks = {"RssAnon": 0, "RssFile": 0}
    while process.poll() is None:
        now = status(process.pid)
        peaks = {name: max(value, now.get(name, 0)) for name, value in peaks.items()}
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return {
        "seconds": time.perf_counter() - started,
        "anonymous": peaks["RssAnon"],
        "mapped": peaks["RssFile"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for checkpoints and artifacts (up to 12 GB)"
    )
    parser.add_argument(
        "--models", nargs="+", default=[e.model_id for e in read_registry().values() if e.hub]
    )
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument(
        "--answer", action="store_true", help=f"let each int4 artifact answer {QUESTIONS} questions"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for model_id in options.models:
        source, out = options.work / model_id, options.work / f"{model_id}-artifacts"
        had = source.exists()
        if not had:
            synth(model_id, source)
        for precision in options.precisions:
            shutil.rmtree(out, ignore_errors=True)
            arguments = ["build", str(source), "--to", precision, "--out", str(out)]
            command = [sys.executable, "-c", BUILD, *arguments]
            row = {"model": model_id, "precision": precision, **measure(command)}
            artifact = Artifact.open(out / precision, verify=False)
            weights = max(record.size for record in artifact.manifest.files.values())
            row |= {"bytes": weights, "over_needed": None}
            if PRECISIONS[precision].backend == ONNX:
                with Checkpoint(source) as checkpoint:
                    config = read_config(checkpoint.config, 1)
                    row["over_needed"] = weights / weight_bytes(config, Target(PRECISIONS[precision]))
            rows.append(row)
            over_needed = f" = {row['over_needed']:.4f} x needed" if row["over_needed"] else ""
            print(
                f"{model_id:30} {precision:10} {row['seconds']:6.1f} s   "
                f"{row['anonymous'] / 1e6:6.0f} MB anonymous {row['mapped'] / 1e6:6.0f} MB mapped   "
                f"{weights / 1e6:7.1f} MB{over_needed}",
                flush=True,
            )
            if options.answer and precision == "onnx-int4":
                run = options.work / f"{model_id}-run"
                shutil.rmtree(run, ignore_errors=True)
                arguments = ["run", str(out / precision), "--out", str(run), "--quiet"]
                limits = ["--limit", str(QUESTIONS), "--max-new-tokens", "24"]
                subprocess.run([sys.executable, "-c", EDGE, *arguments, *limits], check=True)
        shutil.rmtree(out, ignore_errors=True)
        if not had:
            shutil.rmtree(source)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
