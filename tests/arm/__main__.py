"""`make test-arm`: traces the embedded models on this machine and on emulated ARM processors, and compares
every column."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from edge.errors import UserError
from edge.machine.processors import usable_cores
from edge.runs.run_directory import Run
from tests.arm.bounds import FULL, beyond, bound
from tests.arm.compare import Difference, differences
from tests.arm.emulator import ROOT, Emulator

MODELS = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")
PRECISIONS = ("onnx-fp32", "onnx-int8", "onnx-int4")
CPUS = (
    "cortex-a72",
    "cortex-a76",
    "max",
)  # Raspberry Pi 4, Raspberry Pi 5, all that the emulator has (i8mm among it)
ANSWERS = ["--limit", "2", "--max-new-tokens", "16", "--date", "2026-01-01", "--reference"]
COMMON = ["--threads", "1", "--quiet"]


class Found(NamedTuple):
    """Differences of one pair of runs: `way` is free (each decodes alone) or forced (the same tokens)."""

    cpu: str
    model: str
    precision: str
    way: str
    differences: list[Difference]


def commands(artifacts: Path, host: Path, out: Path, model: str, *, free: Iterable[str]) -> list[list[str]]:
    """`edge` command lines: free runs of some precisions, and every precision on the tokens of its run on
    this machine."""
    lines = [
        ["run", str(artifacts / model / p), "--out", str(out / model / p), *ANSWERS, *COMMON]
        for p in PRECISIONS
        if p in free
    ]
    return lines + [
        [
            "force",
            str(artifacts / model / p),
            "--like",
            str(host / model / p),
            "--out",
            str(out / model / f"{p}-forced"),
            *COMMON,
        ]
        for p in PRECISIONS
    ]


def edge(lines: list[list[str]]) -> None:
    subprocess.run(
        [sys.executable, "-m", "tests.arm.inside", json.dumps(lines)],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )


def build(model: str, artifacts: Path) -> None:
    to = [part for precision in PRECISIONS for part in ("--to", precision)]
    export = [
        sys.executable,
        "-c",
        "from export.cli import main; main()",
        "build",
        model,
        *to,
        "--out",
        str(artifacts / model),
    ]
    subprocess.run([*export, "--force"], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def compared(cpu: str, host: Path, out: Path, model: str) -> list[Found]:
    pairs = [(FULL, "free", FULL)] + [(p, "forced", f"{p}-forced") for p in PRECISIONS]
    return [
        Found(
            cpu,
            model,
            precision,
            way,
            differences(Run.open(host / model / name), Run.open(out / model / name)),
        )
        for precision, way, name in pairs
    ]


def table(found: list[Found], tables: Iterable[str] = ("steps", "answers")) -> str:
    """Markdown: by column and precision the largest and RMS difference over models, each processor beside
    the others."""
    cpus = list(dict.fromkeys(each.cpu for each in found))
    cells: dict[tuple[str, str, str, str], dict[str, list[Difference]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for each in found:
        for difference in each.differences:
            key = (each.precision, each.way, difference.table, difference.column)
            cells[key][each.cpu].append(difference)
    lines = [
        f"| precision | table | column | {' | '.join(f'{cpu} largest / RMS' for cpu in cpus)} | bound |",
        f"|---|---|---|{'---|' * len(cpus)}---|",
    ]
    for (precision, way, name, column), by_cpu in cells.items():
        if name not in tables or not any(d.largest for each in by_cpu.values() for d in each):
            continue
        kind, limit = bound(precision, column)
        numbers = [
            f"{max(d.largest for d in by_cpu[c]):.1e} / {max(d.rms for d in by_cpu[c]):.1e}" for c in cpus
        ]
        told = "measured" if limit == float("inf") else f"{kind} {limit:g}"
        lines.append(f"| {precision} {way} | {name} | {column} | {' | '.join(numbers)} | {told} |")
    return "\n".join(lines)


def failures(found: list[Found]) -> list[str]:
    """A line for each column beyond its bound."""
    return [
        f"{each.cpu} {each.model} {each.precision} {each.way}: {d.table}.{d.column} differs by "
        f"{d.largest:.3g} "
        f"(RMS {d.rms:.3g}), more than {bound(each.precision, d.column)[1]:g}"
        for each in found
        for d in beyond(each.precision, each.differences)
    ]


def trace_and_compare(emulator: Emulator, work: Path, cpus: list[str], models: list[str]) -> list[Found]:
    shutil.rmtree(work, ignore_errors=True)
    artifacts, host = work / "artifacts", work / platform.machine()
    for model in models:
        build(model, artifacts)
        edge(commands(artifacts, host, host, model, free=PRECISIONS))
    script = str(ROOT / "tests/arm/inside.py")

    def one(pair: tuple[str, str]) -> list[Found]:
        cpu, model = pair
        started = time.perf_counter()
        emulator.run([script, json.dumps(commands(artifacts, host, work / cpu, model, free=[FULL]))], cpu)
        print(f"{cpu}: {model} traced in {time.perf_counter() - started:.0f} s", flush=True)
        return compared(cpu, host, work / cpu, model)

    with ThreadPoolExecutor(usable_cores()) as pool:
        return [each for found in pool.map(one, itertools.product(cpus, models)) for each in found]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.arm", description=__doc__)
    parser.add_argument("--cache", type=Path, default=ROOT / ".arm", help="what is fetched once (0.8 GB)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "arm", help="artifacts and runs, made anew"
    )
    parser.add_argument(
        "--cpu", nargs="+", default=list(CPUS), help="processors, as the emulator names them"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    options = parser.parse_args()
    emulator = Emulator(options.cache)
    started = time.perf_counter()
    try:
        fetched = emulator.prepare()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(
        f"aarch64 packages {'fetched' if fetched else 'there'} ({time.perf_counter() - started:.0f} s)",
        flush=True,
    )
    os.environ["PYTHONPATH"] = str(ROOT)
    for cpu in options.cpu:
        emulator.compile_signals(cpu)
    print(f"compiled code agrees with numpy on {', '.join(options.cpu)}", flush=True)
    found = trace_and_compare(emulator, options.work.resolve(), options.cpu, options.models)
    print(f"all traced after {time.perf_counter() - started:.0f} s")
    (options.work / "table.md").write_text(table(found) + "\n")
    print(table(found, ("steps",)))
    print(f"every column, those of answers too: {options.work / 'table.md'}")
    failed = failures(found)
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    columns = sum(len(each.differences) for each in found)
    print(f"{columns} columns of {len(found)} pairs of runs compared, {len(failed)} beyond their bound")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
