"""`python -m tests.fuzz --kind gguf --count 2000 --seed 0 --jobs 2 --out FOLDER`: a series of cases.

Failing cases stay in FOLDER/KIND-SEED with their input and the commands' output. Exit code 1 where one
fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from pathlib import Path

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # a fork copies no threads
    os.environ[_name] = "1"
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "GGML_NO_BACKTRACE": "1", "RUST_BACKTRACE": "0"}

from tests.fuzz.forked import Command, entries, fault, run, warm  # noqa: E402  (the environment comes first)
from tests.fuzz.kinds import KINDS, commands  # noqa: E402
from tests.fuzz.material import Material  # noqa: E402


def one(kind: str, seed: int, material: Material, folder: Path) -> str:
    """Runs a case in its own new folder, which stays where it fails; what is wrong, "" for nothing."""
    folder.mkdir(parents=True)
    said = []
    problem = ""
    for command, needs in commands(kind, seed, material, folder):
        ended = run(command, folder)
        said.append(
            f"$ {command.program} {' '.join(command.arguments)}\n"
            f"{ended.code} {ended.seconds:.2f} s\n{ended.err}"
        )
        if problem := fault(ended):
            problem += f" [{command.program} {command.arguments[0]}]"
            break
        if ended.code and needs:
            break
    if problem:
        (folder / "said.txt").write_text("\n".join([problem, *said]), encoding="utf-8", errors="replace")
    else:
        shutil.rmtree(folder)
    return problem


def work(kind: str, seeds: list[int], material: Material, out: Path, results: Path) -> None:
    """Runs cases one after another; a line of JSON for each."""
    with results.open("w") as stream:
        for seed in seeds:
            problem = one(kind, seed, material, out / f"{kind}-{seed}")
            stream.write(json.dumps([seed, problem]) + "\n")
            stream.flush()


def series(kind: str, seeds: list[int], jobs: int, material: Material, out: Path) -> dict[int, str]:
    """The problems of all cases by seed."""
    children = {}
    for job in range(jobs):
        results = out / f".{kind}-{job}.jsonl"
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(kind, seeds[job::jobs], material, out, results)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children[child] = results
    problems: dict[int, str] = {}
    for child, results in children.items():
        _, status = os.waitpid(child, 0)
        if status:
            raise RuntimeError("the fuzzer itself failed")
        problems |= dict(map(json.loads, results.read_text().splitlines()))
        results.unlink()
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="may be given again (all)")
    parser.add_argument("--count", type=int, default=100, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for failing cases and the files they are made from")
    options = parser.parse_args()
    out: Path = (options.out or Path(tempfile.mkdtemp(prefix="fuzz-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        os.environ[name] = str(out / "home")
    entries()
    material = Material(out / "material")
    with tempfile.TemporaryDirectory() as folder:
        warm([Command(*known) for known in material.warming(Path(folder))], Path(folder))
    failed = 0
    for kind in options.kind or KINDS:
        seeds = list(range(options.seed, options.seed + options.count))
        for seed in seeds:
            shutil.rmtree(out / f"{kind}-{seed}", ignore_errors=True)
        started = time.monotonic()
        problems = series(kind, seeds, options.jobs, material, out)
        seconds = time.monotonic() - started
        by_problem = defaultdict(list)
        for seed, problem in sorted(problems.items()):
            by_problem[problem].append(seed)
        passed = len(by_problem.pop("", []))
        print(
            f"{kind}: {passed} of {len(seeds)} passed, {len(seeds) / seconds:.1f} cases a second", flush=True
        )
        for problem, ids in sorted(by_problem.items(), key=lambda pair: -len(pair[1])):
            failed += len(ids)
            print(f"  {len(ids):5} {problem}: seeds {', '.join(map(str, ids[:6]))}", flush=True)
    if failed:
        print(f"{failed} failing cases are in {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
