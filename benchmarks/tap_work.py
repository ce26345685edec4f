"""Time that tracing adds to a token, part by part.

A ratio of whole tokens (benchmarks/tap_overhead.py) can be smaller than the machine's noise.

Reductions are timed right after a pass over the weights, as in `edge run`, since it has driven everything
out of the processor's caches; compiled code and numpy take turns token by token. The graph's nodes are
counted and timed by onnxruntime's profile, in sessions of their own, because profiling slows every node a
little. Milliseconds a token, medians over the tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import edge.backends.onnx
from benchmarks.checkpoints import checkpoint
from edge.artifact import Artifact
from edge.backends.onnx import OnnxBackend, session_options
from edge.backends.prepacked import find_or_make
from edge.signals.compiled import Code, compiled_code
from edge.signals.definitions import Scratch, attention_signals, hidden_signals, output_signals
from export.build import build

WARM_UP = 4
# onnxruntime's variable for the attention kernel that can also output the pattern.
FLASH_OFF = "ORT_GQA_DISABLE_FLASH_ATTENTION"


def decode(backend: OnnxBackend, context: int, tokens: int) -> Iterator[Any]:
    """Taps of single steps after a prompt of `context` random ids."""
    generator = np.random.default_rng(context)
    ids = generator.integers(5, backend.spec.vocabulary, context + WARM_UP + tokens).tolist()
    backend.rewind(0)
    backend.prefill(ids[:context])
    for number, token in enumerate(ids[context:]):
        taps = backend.step(token)
        if number >= WARM_UP:
            yield taps


def reductions(backend: OnnxBackend, code: Code, context: int, tokens: int) -> dict[str, float]:
    """Milliseconds of each reduction, compiled and in numpy."""
    scratch, times = Scratch(), dict[str, list[float]]()
    before = np.zeros((backend.spec.layers + 1, backend.spec.hidden), np.float32)

    def timed(name: str, function: Any, *arguments: Any, **more: Any) -> None:
        began = time.perf_counter()
        function(*arguments, **more)
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - began))

    for number, taps in enumerate(decode(backend, context, tokens)):
        if number % 2:
            timed("logits, compiled", code.output, taps.logits)
            timed("attention, compiled", code.attention, taps.attention, scratch)
            timed("hidden states, compiled", code.hidden, taps.hidden, before, has_before=True)
        else:
            timed("logits, numpy", output_signals, taps.logits, scratch)
            timed("attention, numpy", attention_signals, taps.attention, scratch)
            timed("hidden states, numpy", hidden_signals, taps.hidden, before, scratch)
            timed("keeping the hidden states, numpy", np.copyto, before, taps.hidden)
    return {name: median(values) for name, values in times.items()}


def nodes(artifact: Artifact, graph: Path, context: int, tokens: int, threads: int) -> tuple[int, float]:
    """Nodes that run for a token, and the attention nodes' milliseconds, from onnxruntime's profile."""
    with tempfile.TemporaryDirectory() as folder:

        def profiled(threads: int) -> Any:
            options = session_options(threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder, "profile"))
            return options

        edge.backends.onnx.session_options = profiled
        try:
            backend = OnnxBackend(
                artifact, capacity=context + WARM_UP + tokens, threads=threads, graph=graph
            )
        finally:
            edge.backends.onnx.session_options = session_options
        for _ in decode(backend, context, tokens):
            pass
        events = json.loads(Path(backend._session.end_profiling()).read_text())
        backend.close()
    runs = [event for event in events if event.get("name") == "model_run"]
    runs = sorted(runs, key=lambda event: event["ts"])[-tokens:]
    kernels = [
        event for event in events if event.get("cat") == "Node" and event["name"].endswith("kernel_time")
    ]
    attention, count = [], 0
    for run in runs:
        own = [event for event in kernels if run["ts"] <= event["ts"] < run["ts"] + run["dur"]]
        durations = [event["dur"] for event in own if event["args"]["op_name"] == "GroupQueryAttention"]
        attention.append(sum(durations) / 1e3)
        count = len(own)
    return count, median(attention)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the checkpoint and the artifacts (6 GB)"
    )
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 512, 1024])
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    code, problem = compiled_code()
    if code is None:
        raise SystemExit(f"the signals cannot be compiled here: {problem}")
    source = checkpoint(options.work)
    milliseconds: dict[int, dict[str, float]] = {context: {} for context in options.contexts}
    opened = {}
    for taps in ("rows", "none"):
        (built,) = build(str(source), ["onnx-int4"], options.work / taps, taps=taps)
        opened[taps] = (built.artifact, find_or_make(built.artifact, options.threads, print))
    artifact, graph = opened["rows"]
    backend = OnnxBackend(
        artifact,
        capacity=max(options.contexts) + WARM_UP + options.tokens,
        threads=options.threads,
        graph=graph,
    )
    for context in options.contexts:
        milliseconds[context] |= reductions(backend, code, context, options.tokens)
    backend.close()
    for context in options.contexts:
        row = milliseconds[context]
        for name, which, flash_off in (
            ("with taps", "rows", ""),
            ("without", "none", ""),
            ("without, no flash", "none", "1"),
        ):
            os.environ[FLASH_OFF] = flash_off
            row[f"nodes {name}"], row[f"attention {name}"] = nodes(
                *opened[which], context, options.tokens, options.threads
            )
        row["tap work"] = row["attention, compiled"] + row["hidden states, compiled"]
        row["tap work"] += row["attention with taps"] - row["attention without, no flash"]
        print(f"context {context}")
        for name, value in row.items():
            print(f"  {name:35} {value:.3f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(milliseconds, indent=2))


if __name__ == "__main__":
    main()
