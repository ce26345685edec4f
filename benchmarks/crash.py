"""Kills runs of the embedded models with SIGKILL at random moments, finishes them, and compares them with
runs left alone.

Some models greedy, some sampled. The tests do the same with fewer kills and also at each step of writing.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
from pathlib import Path

from edge.registry import MODELS, read_registry
from export.build import build
from tests.test_crash_run import DRIVER, assert_same_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=75, help="for each model")
    options = parser.parse_args()
    embedded = [
        (entry.model_id, MODELS / entry.folder) for entry in read_registry().values() if entry.folder
    ]
    total = 0
    for number, (model, source) in enumerate(embedded):
        path = build(str(source), ["onnx-int4"], options.work / model)[0].artifact.path
        killed, whole = options.work / f"{model}-killed", options.work / f"{model}-whole"
        temperature = 0.8 * (number % 2)
        settings = {
            "--questions": str(options.questions),
            "--max-new-tokens": "60",
            "--temperature": str(temperature),
            "--date": "2026-01-01",
            "--threads": "1",
        }
        command = ["run", str(path), *itertools.chain(*settings.items()), "--quiet"]
        started = time.monotonic()
        drive = [sys.executable, str(DRIVER), "random", str(number), str(options.kills), str(killed), "--"]
        driven = [*drive, *command, "--out", str(killed)]
        kills = int(subprocess.run(driven, capture_output=True, text=True, check=True).stdout)
        for out in (killed, whole):
            finish = [sys.executable, "-m", "edge", *command, "--out", str(out)]
            subprocess.run(finish, check=True, stdout=subprocess.DEVNULL)
        assert_same_rows(killed, whole)
        total += kills
        took = f"{time.monotonic() - started:.0f} s"
        print(f"{model}, temperature {temperature}: {kills} kills, the same rows ({took})", flush=True)
    print(f"{total} kills")


if __name__ == "__main__":
    main()
