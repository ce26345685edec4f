"""How far an artifact is from itself: `python -m benchmarks.noise_floor --like RUN ARTIFACT...`.

RUN is a free-running run. Each artifact reads its prompts and tokens as runs do: the prompt in chunks, then
one position a pass, with one thread. Then it reads them in other ways: several positions a pass, the prompt
by single positions too, two threads. All ways compute the same function. What remains is rounding: the noise
floor, below which a KL between two artifacts says nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge.analysis.intervals import Interval
from edge.analysis.pairs import weighted
from edge.backends.base import Backend, Runtime
from edge.backends.gguf_file import open_artifact
from edge.backends.runtime import open_backend
from edge.jobs.force import read_items
from edge.runs.run_directory import Run
from edge.signals.comparison import kl_exact
from edge.signals.definitions import Scratch, output_signals
from edge.signals.taps import Array


class Way(NamedTuple):
    """A way to read: positions a pass once the answer has begun, whether the prompt is read by single
    positions as well, threads."""

    name: str
    rows: int = 1
    prompt_by_steps: bool = False
    threads: int = 1


REFERENCE = Way("as runs do")
WAYS = (
    Way("2 positions a pass", rows=2),
    Way("16 positions a pass", rows=16),
    Way("prompt by steps", prompt_by_steps=True),
    Way("2 threads", threads=2),
)


class Text(NamedTuple):
    """Ids of a prompt, and of the answer that follows it."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class Noise(NamedTuple):
    """One way against the way of runs: mean KL over tokens with its interval over questions, the largest KL
    of a token (all in nats), the largest difference of a logit, the share of tokens with the same most
    likely one."""

    kl: Interval
    largest_kl: float
    logit: float
    same_top1: float
    tokens: int


def texts_of(run: Run, tokens: int) -> list[Text]:
    """Prompts and at most `tokens` tokens of the answers of a run, without empty ones."""
    items = [(item.prompt.ids, item.forced) for item in read_items(run)]
    return [Text(ids, tuple(forced.tokens[:tokens])) for ids, forced in items if forced and forced.tokens]


def read(backend: Backend, text: Text, way: Way) -> Iterator[Array]:
    """The logits [V] before each token of the answer; views that the next pass overwrites."""
    ids, start = (*text.prompt, *text.answer[:-1]), len(text.prompt)
    backend.rewind(0)
    if way.prompt_by_steps:
        for token in text.prompt[:-1]:
            backend.step(token)
        yield backend.step(text.prompt[-1]).logits
    else:
        yield backend.prefill(text.prompt).logits
    for end in range(start + 1, len(ids) + 1):
        if way.rows == 1:
            yield backend.step(ids[end - 1]).logits
        else:  # positions that were read are read again, beside the next one
            first = max(0, end - way.rows)
            backend.rewind(first)
            yield backend.prefill(ids[first:end]).logits


def compare(wanted: Sequence[Array], backend: Backend, texts: Sequence[Text], way: Way) -> Noise:
    """The way's logits against those wanted, [N, V] for each text."""
    scratch, kl, logit, same, questions = Scratch(), [], 0.0, 0, []
    for question, (rows, text) in enumerate(zip(wanted, texts, strict=True)):
        for row, logits in zip(rows, read(backend, text, way), strict=True):
            one, other = (output_signals(x, scratch) for x in (row, logits))
            kl.append(kl_exact(row, one.log_normaliser, logits, other.log_normaliser))
            logit = max(logit, float(np.abs(row - logits).max()))
            same += one.top1 == other.top1
            questions.append(question)
    values = np.array(kl)
    mean = weighted(values, np.array(questions, np.float64)).within(0.0)
    return Noise(mean, float(values.max()), logit, same / len(kl), len(kl))


def measure(path: Path, texts: Sequence[Text]) -> Iterator[tuple[Way, Noise]]:
    """The noise of one artifact, for each way."""
    artifact = open_artifact(path)
    capacity = max(len(text.prompt) + len(text.answer) for text in texts)
    backends: dict[int, Backend] = {}
    wanted: list[Array] = []
    for way in (REFERENCE, *WAYS):
        if way.threads not in backends:
            while backends:
                backends.popitem()[1].close()
            runtime = Runtime(threads=way.threads, prepack=False)
            backends[way.threads] = open_backend(artifact, runtime, capacity, print)
        backend = backends[way.threads]
        if way is REFERENCE:
            wanted = [np.stack([logits.copy() for logits in read(backend, text, way)]) for text in texts]
        else:
            yield way, compare(wanted, backend, texts, way)
    while backends:
        backends.popitem()[1].close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifacts", type=Path, nargs="+", help="artifact folders or GGUF files")
    parser.add_argument("--like", type=Path, required=True, help="run whose prompts and answers are read")
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of an answer")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts = texts_of(Run.open(options.like), options.tokens)
    result: dict[str, object] = {}
    print(
        "| precision | read another way | mean KL [95% interval] | largest KL of a token "
        "| largest difference of a logit | same top 1 |"
    )
    print("|---|---|---|---|---|---|")
    for path in options.artifacts:
        precision = open_artifact(path).manifest.precision
        for way, noise in measure(path, texts):
            low, high = (f"{bound:.2g}" for bound in noise.kl[1:3])
            print(
                f"| {precision} | {way.name} | {noise.kl.value:.3g} [{low}, {high}] "
                f"| {noise.largest_kl:.2g} | {noise.logit:.2g} | {noise.same_top1:.4f} |",
                flush=True,
            )
            result[f"{precision}: {way.name}"] = noise._asdict() | {"kl": noise.kl._asdict()}
    if options.json:
        options.json.write_text(json.dumps({"texts": len(texts), "noise": result}, indent=1))


if __name__ == "__main__":
    main()
