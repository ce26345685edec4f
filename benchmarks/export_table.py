"""Time, memory and size of true-size builds: every known hub model's shape in every precision, on random
weights.

Each build is a process of its own. Its memory is read from /proc while it runs: anonymous pages (what it
really holds) apart from mapped file pages (the source, which the kernel can drop at any time), and the
highest VmHWM, which is both at once. With `--through` the source is a GGUF file of the shape. `needed`
is what the block format itself takes: bits and a float32 scale for each 32 weights, float32 for norms and
biases; GGUF's mixtures have no such number.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from edge.artifact import Artifact
from edge.precision import GGUF_NAME, ONNX, PRECISIONS
from edge.registry import read_registry
from export.build import build
from export.checkpoint import Checkpoint
from export.graph.architectures import read_config
from export.precision import Target
from export.space import weight_bytes
from export.synth import synth

BUILD = "from export.cli import main; main()"
EDGE = "from edge.cli.app import main; main()"
QUESTIONS = 3


def status(pid: int) -> dict[str, int]:
    """RssAnon, RssFile and VmHWM of a process in bytes; empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":") for line in lines if line.startswith(("Rss", "VmHWM")))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def processor_seconds() -> float:
    """Seconds of processors that the processes started here, and now ended, have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(command: list[str]) -> dict[str, float]:
    """Runs a command; its seconds, those of processors, and peak bytes. Raises SystemExit where it fails."""
    started, used = time.perf_counter(), processor_seconds()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks = {"RssAnon": 0, "RssFile": 0, "VmHWM": 0}
    while process.poll() is None:
        now = status(process.pid)
        peaks = {name: max(value, now.get(name, 0)) for name, value in peaks.items()}
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": processor_seconds() - used,
        "anonymous": peaks["RssAnon"],
        "mapped": peaks["RssFile"],
        "resident": peaks["VmHWM"],
    }


def gguf_folder(source: Path, precision: str) -> Path:
    """Beside the checkpoint."""
    return source.with_name(f"{source.name}-{precision}")


def gguf_file(source: Path, precision: str) -> Path:
    """The checkpoint as a GGUF file beside it; built if it is missing."""
    folder = gguf_folder(source, precision)
    if not (folder / precision).exists():
        build(str(source), [precision], folder)
    return folder / precision / GGUF_NAME


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
        "--through", nargs="+", default=[None], help="GGUF precisions to build from, not the checkpoint"
    )
    parser.add_argument(
        "--answer", action="store_true", help=f"let each int4 artifact answer {QUESTIONS} questions"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for model_id in options.models:
        source, out = options.work / model_id, options.work / f"{model_id}-artifacts"
        had = source.exists()
        folders = {gguf_folder(source, through) for through in options.through if through}
        ours = {folder for folder in folders if not folder.exists()}  # what is built here goes at the end
        if not had:
            synth(model_id, source)
        for through, precision in itertools.product(options.through, options.precisions):
            given = source if through is None else gguf_file(source, through)
            shutil.rmtree(out, ignore_errors=True)
            arguments = ["build", str(given), "--to", precision, "--out", str(out)]
            command = [sys.executable, "-c", BUILD, *arguments]
            row = {"model": model_id, "through": through, "precision": precision, **measure(command)}
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
                f"{model_id:30} {through or 'checkpoint':11} {precision:10} {row['seconds']:6.1f} s "
                f"({row['processor_seconds']:.1f} s of processors)   "
                f"{row['anonymous'] / 1e6:6.0f} MB anonymous {row['mapped'] / 1e6:6.0f} MB mapped   "
                f"{row['resident'] / 1e6:6.0f} MB resident   "
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
        for folder in ours:
            shutil.rmtree(folder)
        if not had:
            shutil.rmtree(source)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
