"""Cost of tracing every column: time of a step of `edge run` with taps over a step without.

`plain2` is another of the same kind as `plain`, so that plain2/plain is the noise. `bare` is the untapped
model alone: a step and an argmax, nothing recorded. Every ONNX variant has a process of its own, stopped
while another is timed (idle sessions' spinning threads would disturb it); rounds of some tokens are
interleaved in changing order. Two copies of the weights differ by several percent in speed just by where
they lie, so that all processes map one file, and llama.cpp's variants are contexts over one copy in one
process, which take turns token by token. Whole processes differ by a few percent all the same, so that all
are started several times, in another order each time, and the ratio is given launch by launch, too. `flash`
is plain with flash attention, and `library` the generation of llama-cpp-python's own high-level class,
greedy, to set beside `bare`. The prompt is read once for each context length; each round goes on from its
end.
"""

from __future__ import annotations

import argparse
import filecmp
import itertools
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.checkpoints import checkpoint
from edge.artifact import Artifact
from edge.backends.base import Backend, Runtime
from edge.backends.llama_library import llama_cpp
from edge.backends.llamacpp import LlamaBackend
from edge.backends.onnx import WEIGHTS_NAME, OnnxBackend
from edge.backends.prepacked import find_or_make
from edge.backends.runtime import versions
from edge.jobs.bench import rotated, started, turns
from edge.jobs.decode import GivenTokens, decode
from edge.precision import LLAMA_CPP, PRECISIONS
from edge.questions.prompt import Prompt, Prompter
from edge.runs.record import LENGTH, AnswerRecord, ForcedValues, PartBuffer
from edge.signals.reader import SignalReader
from edge.signals.taps import Taps
from export.build import build

Stepper = Callable[[list[int], list[int]], Iterator[None]]


class Variant(NamedTuple):
    """One way to run the model."""

    taps: bool = False
    bare: bool = False
    flash: bool = False
    library: bool = False


VARIANTS = {
    "plain": Variant(),
    "plain2": Variant(),
    "tapped": Variant(taps=True),
    "bare": Variant(bare=True),
}
LLAMA_VARIANTS = VARIANTS | {"flash": Variant(flash=True), "library": Variant(library=True)}


class PromptCache:
    """A backend that, given the last prompt again, reads only that prompt's last token."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.spec, self.capacity, self.prompt = backend, backend.spec, backend.capacity, ()

    def prefill(self, ids: Sequence[int]) -> Taps:
        if tuple(ids) != self.prompt:
            self.backend.rewind(0)
            self.prompt = tuple(ids)
            return self.backend.prefill(ids)
        self.backend.rewind(len(ids) - 1)
        return self.backend.prefill(ids[-1:])

    def step(self, token_id: int) -> Taps:
        return self.backend.step(token_id)

    def rewind(self, length: int) -> None:
        """Does nothing: the next prefill rewinds."""


def open_variant(path: Path, variant: Variant, threads: int, capacity: int) -> tuple[PromptCache, Prompter]:
    """The backend of one variant and its artifact's prompter."""
    artifact = Artifact.open(path, verify=False)
    if artifact.manifest.backend == LLAMA_CPP:
        runtime = Runtime(threads, "rows" if variant.taps else "none")
        backend: Backend = LlamaBackend(
            artifact, capacity=capacity, runtime=runtime, flash_attention=variant.flash
        )
    else:
        graph = find_or_make(artifact, threads, print)
        backend = OnnxBackend(artifact, capacity=capacity, threads=threads, graph=graph)
    return PromptCache(backend), Prompter(artifact, "raw")


def stepper(path: Path, *, variant: Variant, threads: int, capacity: int) -> Stepper:
    """A function of prompt and forced tokens that gives an iterator.

    Its first item comes after the prompt, each other item after a token.
    """
    backend, prompter = open_variant(path, variant, threads, capacity)
    reader = SignalReader(backend.spec)

    def bare(prompt: list[int], forced: list[int]) -> Iterator[None]:
        backend.prefill(prompt)
        yield
        for token in forced[:-1]:
            backend.step(token).logits.argmax()
            yield

    def whole(prompt: list[int], forced: list[int]) -> Iterator[None]:
        record = AnswerRecord(backend.spec, prompter, Prompt(tuple(prompt), ""), 0, "", "", "", forced=True)
        for step, _ in decode(backend, reader, prompt, GivenTokens(forced, LENGTH)):
            record.add(step, ForcedValues(0.0, 0.0, True))
            if step.step == len(forced) - 1:
                buffer = PartBuffer(forced=True)
                buffer.add(record)
                buffer.tables()  # the rows of all tokens, as they are written
            yield

    return bare if variant.bare else whole


def library_stepper(
    path: Path, *, variant: Variant, threads: int, capacity: int
) -> Callable[[list[int], list[int]], Iterator[None]]:
    """A stepper of llama-cpp-python's high-level class, which chooses its own tokens."""
    from llama_cpp import Llama

    model = Llama(
        str(Artifact.open(path, verify=False).weights),
        n_ctx=capacity,
        n_threads=threads,
        n_threads_batch=threads,
        n_batch=64,
        flash_attn=False,
        verbose=False,
    )

    def generate(prompt: list[int], forced: list[int]) -> Iterator[None]:
        tokens = model.generate(prompt, temp=0.0)  # reuses the cache of a common prefix
        for _ in itertools.islice(tokens, len(forced)):
            yield

    return generate


def share_mapped(paths: Sequence[Path], threads: int) -> None:
    """Makes artifacts with the same weights, laid out for this processor, map one file."""
    first, *others = [
        find_or_make(Artifact.open(path), threads, print).with_name(WEIGHTS_NAME) for path in paths
    ]
    for other in others:
        if not other.samefile(first):
            if not filecmp.cmp(first, other, shallow=False):
                problem = "differ, so the graphs cannot be compared over one file"
                raise SystemExit(f"{first} and {other} {problem}")
            other.unlink()
            other.hardlink_to(first)


def share_weights() -> None:
    """Makes llama.cpp load each GGUF file once in this process and never free it."""
    lib, loaded = llama_cpp(), {}
    load = lib.llama_model_load_from_file

    def load_once(path: bytes, params: object) -> object:
        if path not in loaded:
            loaded[path] = load(path, params)
        return loaded[path]

    lib.llama_model_load_from_file, lib.llama_model_free = load_once, lambda model: None


def worker(
    pipe: Connection, paths: dict[str, Path], variants: dict[str, Variant], threads: int, capacity: int
) -> None:
    """Answers (context, tokens) with each variant's seconds a token after a prompt of `context` tokens.

    The variants take turns token by token.
    """
    if len(variants) > 1:
        share_weights()
    steppers = {}
    for name, variant in variants.items():
        open_stepper = library_stepper if variant.library else stepper
        steppers[name] = open_stepper(paths[name], variant=variant, threads=threads, capacity=capacity)
    vocabulary = Artifact.open(next(iter(paths.values())), verify=False).manifest.model.vocabulary
    pipe.send("ready")
    while True:
        context, tokens = pipe.recv()
        ids = np.random.default_rng(context).integers(5, vocabulary, context + tokens + 1).tolist()
        steps = {name: start(ids[:context], ids[context:]) for name, start in steppers.items()}
        for iterator in steps.values():
            next(iterator)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for i in range(tokens):
            for name in rotated(steps, i):
                began = time.perf_counter()
                next(steps[name])
                seconds[name].append(time.perf_counter() - began)
        pipe.send(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the checkpoint and the artifacts (5 GB)"
    )
    parser.add_argument("--precision", default="onnx-int4", choices=PRECISIONS)
    parser.add_argument("--variants", nargs="+", help="only these; plain is always among them")
    parser.add_argument("--contexts", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--rounds", type=int, default=4, help="timed rounds of each launch")
    parser.add_argument("--launches", type=int, default=5, help="how often every process is started anew")
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    source = checkpoint(options.work)
    llama = PRECISIONS[options.precision].backend == LLAMA_CPP
    variants = LLAMA_VARIANTS if llama else VARIANTS
    if options.variants:
        names = (*options.variants, "plain")
        variants = {name: variant for name, variant in variants.items() if name in names}
    paths = {}
    # An ONNX graph is built with or without taps.
    for taps in ("rows",) if llama else ("none", "rows"):
        (built,) = build(str(source), [options.precision], options.work / taps, taps=taps)
        paths[taps] = built.artifact.path
    if not llama:
        share_mapped(list(paths.values()), options.threads)
    capacity = max(options.contexts) + options.tokens + 8
    contestants = {}
    for group in [variants] if llama else [{name: variant} for name, variant in variants.items()]:
        where = {name: paths["rows" if llama or variant.taps else "none"] for name, variant in group.items()}
        contestants[" ".join(group)] = (worker, (where, group, options.threads, capacity))
    opened = Artifact.open(next(iter(paths.values())), verify=False)
    result = {"machine": platform.machine(), "versions": versions(opened), **vars(options), "contexts": {}}
    times: dict[int, dict[str, list[float]]] = {
        context: {name: [] for name in variants} for context in options.contexts
    }
    for launch in range(options.launches):
        with started({name: contestants[name] for name in rotated(contestants, launch)}) as running:
            for context in options.contexts:
                for _, number, seconds in turns(running, (context, options.tokens), options.rounds):
                    for name, values in seconds.items() if number else ():  # the first round warms up
                        # Variants that take turns are compared token by token, processes round by round.
                        times[context][name] += values if len(seconds) > 1 else [sum(values) / len(values)]
    for context in options.contexts:
        row = ratios_to_plain(times[context], options.launches)
        result["contexts"][context] = row
        print(f"context {context}")
        for name, values in row.items():
            low, high = values["ratio_quartiles"]
            by_launch = " ".join(f"{ratio:.3f}" for ratio in values["ratio_by_launch"])
            print(
                f"  {name:8} {values['median_ms']:8.2f} ms/token   "
                f"over plain {values['ratio_of_medians']:.3f} (medians), "
                f"{values['ratio_by_turn']:.3f} (by turn, quartiles {low:.3f} to {high:.3f}), "
                f"by launch {by_launch}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, default=str))


def ratios_to_plain(times: Mapping[str, list[float]], launches: int) -> dict[str, dict[str, Any]]:
    """Median milliseconds a token of each variant and its ratios to `plain`.

    `times` are seconds in the order of launches and, within a launch, of turns.
    """
    plain = np.array(times["plain"])
    row: dict[str, dict[str, Any]] = {}
    for name, values in times.items():
        ratios = np.array(values) / plain
        row[name] = {
            "median_ms": 1e3 * median(values),
            "ratio_of_medians": median(values) / median(times["plain"]),
            "ratio_by_turn": float(np.median(ratios)),
            "ratio_quartiles": np.percentile(ratios, (25, 75)).tolist(),
            "ratio_by_launch": np.median(ratios.reshape(launches, -1), axis=1).tolist(),
        }
    return row


if __name__ == "__main__":
    main()
