"""Memory of a traced model at true size, measured and as edge.backends.memory predicts it.

The checkpoints have real shapes and random weights.

Each artifact is built, opened in a process of its own, given a prompt and a few tokens, and removed.
`resident`, `anonymous` are the highest VmHWM and RssAnon from the moment that the model is open, `opening`
the highest RssAnon before: pages of a mapped weight file can be dropped by the kernel, anonymous ones
cannot.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.checkpoints import checkpoint
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.memory import needed_by
from edge.backends.runtime import cache_bytes_each, open_backend
from edge.errors import ignore
from edge.machine.device import meminfo
from edge.machine.system import read_text
from edge.precision import LLAMA_CPP, backend_of
from edge.questions.prompt import Prompter
from export.build import build

MODELS = ("llama-3.2-1b-instruct", "gemma-3-1b-it", "deepseek-r1-distill-qwen-1.5b", "qwen3-1.7b")
PRECISIONS = ("onnx-fp32", "onnx-int8", "onnx-int4", "gguf-q8_0", "gguf-q4_k_m", "gguf-q4_0")
STEPS = 8


class Peak:
    """The highest VmHWM and RssAnon of this process since `reset`, in bytes."""

    def __init__(self) -> None:
        self.anonymous = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._look, daemon=True).start()

    def reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        with self._lock:
            self.anonymous = 0

    def resident(self) -> int:
        return self._read("VmHWM")

    def _read(self, name: str) -> int:
        return meminfo(read_text(Path("/proc/self/status")) or "", name) or 0

    def _look(self) -> None:
        while True:
            with self._lock:
                self.anonymous = max(self.anonymous, self._read("RssAnon"))
            time.sleep(0.005)


def measure(path: Path, runtime: Runtime, positions: int) -> dict[str, int]:
    """Memory of this process in bytes, measured and predicted; the process must do nothing else."""
    peak = Peak()
    artifact = Artifact.open(path, verify=False)
    Prompter(artifact, "raw").prompt("Do bats see?")
    peak.reset()
    backend = open_backend(artifact, runtime, positions, ignore)
    opening = peak.anonymous
    peak.reset()
    vocabulary = artifact.manifest.model.vocabulary
    backend.prefill([i * 7919 % vocabulary for i in range(positions - STEPS)])
    for _ in range(STEPS):
        backend.step(5)
    predicted = needed_by(artifact, cache_bytes_each(artifact, runtime), positions).total
    return {
        "opening": opening,
        "resident": peak.resident(),
        "anonymous": peak.anonymous,
        "predicted": predicted,
    }


def child(path: Path, options: list[str], positions: int) -> dict[str, int]:
    """Runs `measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", str(path)]
    command += ["--positions", str(positions), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    measured: dict[str, int] = json.loads(done.stdout)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS)
    parser.add_argument("--positions", type=int, default=520)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", type=Path)
    parser.add_argument("--low-memory", action="store_true")
    parser.add_argument("--no-prepack", action="store_true")
    options = parser.parse_args()
    if options.child:
        runtime = Runtime(low_memory=options.low_memory, prepack=not options.no_prepack, anyway=True)
        print(json.dumps(measure(options.child, runtime, options.positions)))
        return
    rows = []
    for model in options.models:
        source = checkpoint(options.work, model)
        for precision in options.precisions:
            path = build(str(source), [precision], options.work / "built")[0].artifact.path
            onnx, gguf = (["--no-prepack"], [], []), ([], ["--low-memory"])
            for more in gguf if backend_of(precision) == LLAMA_CPP else onnx:
                measured = child(path, more, options.positions)
                names = {"model": model, "precision": precision, "options": more}
                rows.append({**names, **measured})
                megabytes = {key: value >> 20 for key, value in measured.items()}
                print({**names, **megabytes}, flush=True)
            shutil.rmtree(path)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
