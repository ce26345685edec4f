"""How fast artifacts run here, beside one another: what `edge run` does for each token, in interleaved
rounds.

Every contestant has a process of its own, which is stopped while another runs, since idle sessions' waiting
threads would disturb it. Rounds are taken in rotating order, and the same rounds are compared, so that a
machine that slows down slows all.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.gguf_file import open_artifact
from edge.backends.runtime import open_backend
from edge.errors import UserError, ignore
from edge.jobs.decode import GivenTokens, decode
from edge.machine.device import meminfo, read_text
from edge.questions.prompt import Prompt, Prompter
from edge.runs.record import LENGTH, AnswerRecord, ForcedValues, PartBuffer
from edge.signals.reader import SignalReader

READ_BYTES = 1 << 28  # that each thread of the read test goes through, far more than caches hold
READ_ROUNDS = 7
FIRST_ID = 5  # ids below are mostly special


class Opened(NamedTuple):
    """What a contestant says when it is ready: seconds that opening took."""

    load_s: float


class Round(NamedTuple):
    """One round: seconds for the prompt and its first token, then for each further token, and the peak of
    resident memory."""

    first_s: float
    token_s: list[float]
    peak_rss: int


# A function of a pipe and further arguments, and those arguments.
Contestant = tuple[Callable[..., None], tuple[Any, ...]]


class Running(NamedTuple):
    """A contestant's process, this end of its pipe, and what it said when it was open."""

    pid: int
    pipe: Connection
    said: Any


class Result(NamedTuple):
    """Of one contestant at one context length: medians and quartiles over the rounds after the first.

    `ratio` is the time a token over that of the first contestant, by round; `bandwidth` the share of the
    machine's read bandwidth that reading `weight_bytes` once a token takes, NaN where they are not known.
    """

    name: str
    context: int
    load_s: float
    first_s: float
    token_ms: tuple[float, float, float]
    ratio: tuple[float, float, float]
    peak_rss: int
    weight_bytes: int
    bandwidth: float

    @property
    def tokens_per_s(self) -> float:
        return 1e3 / self.token_ms[1]


def race(
    contestants: Mapping[str, Contestant],
    contexts: Sequence[int],
    rounds: int,
    tokens: int,
    on_round: Callable[[str, int, int], None] = ignore,
) -> tuple[dict[str, Opened], dict[tuple[str, int], list[Round]]]:
    """Runs every contestant, a function of a pipe and its further arguments, in a process of its own, one at
    a time.

    A contestant sends Opened, then answers each (context, tokens) with a Round, until None comes. The first
    round of each context warms up and is left out. Raises UserError with what a contestant said when it
    fails.
    """
    with started(contestants) as running:
        opened = {name: each.said for name, each in running.items()}
        found: dict[tuple[str, int], list[Round]] = {
            (name, context): [] for name in contestants for context in contexts
        }
        for context in contexts:

            def on_turn(name: str, number: int, context: int = context) -> None:
                on_round(name, context, number)

            for name, number, made in turns(running, (context, tokens), rounds, on_turn):
                if number:
                    found[name, context].append(made)
        return opened, found


def turns(
    running: Mapping[str, Running], asked: Any, rounds: int, on_turn: Callable[[str, int], None] = ignore
) -> Iterator[tuple[str, int, Any]]:
    """Asks every process the same once a round, in rotating order, one at a time: name, round (0 warms up)
    and answer."""
    for number in range(rounds + 1):
        for name in rotated(running, number):
            on_turn(name, number)
            os.kill(running[name].pid, signal.SIGCONT)
            with suppress(ConnectionError):  # it died while it waited: receive() tells
                running[name].pipe.send(asked)
            answer = receive(name, running[name].pipe)
            os.kill(running[name].pid, signal.SIGSTOP)
            yield name, number, answer


def rotated(names: Iterable[str], by: int) -> list[str]:
    """The names in the order that begins with the one `by` places further, so that none is always the
    first."""
    order = list(names)
    return order[by % len(order) :] + order[: by % len(order)]


@contextmanager
def started(contestants: Mapping[str, Contestant]) -> Iterator[dict[str, Running]]:
    """Processes that are open and stopped, killed at the end."""
    spawn = multiprocessing.get_context("spawn")
    processes, running = [], {}
    try:
        for name, (target, arguments) in contestants.items():
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=target, args=(theirs, *arguments), daemon=True)
            process.start()
            processes.append(process)
            assert process.pid is not None
            theirs.close()
            running[name] = Running(process.pid, ours, receive(name, ours))
            os.kill(process.pid, signal.SIGSTOP)
        yield running
    finally:
        for process in processes:
            process.kill()
            process.join()


def receive(name: str, pipe: Connection) -> Any:
    """The next answer of a contestant; raises UserError for one that has died or sends what went wrong."""
    try:
        said = pipe.recv()
    except (EOFError, ConnectionError):
        raise UserError(
            f"{name} ended before it was done: see what it said above, free memory or leave it out"
        ) from None
    if isinstance(said, UserError):
        raise said
    return said


def trace_rounds(pipe: Connection, path: Path, runtime: Runtime, capacity: int) -> None:
    """A contestant: everything that `edge run` does for a token of an artifact or GGUF file, on given
    tokens."""
    try:
        began = time.perf_counter()
        artifact = open_artifact(path)
        backend = open_backend(artifact, runtime, capacity, ignore)
        prompter = Prompter(artifact, "raw")
        pipe.send(Opened(time.perf_counter() - began))
        reader = SignalReader(backend.spec)
        while asked := pipe.recv():
            context, tokens = asked
            ids = random_ids(backend.spec.vocabulary, context, tokens)
            times: list[float] = []
            record = AnswerRecord(
                backend.spec, prompter, Prompt(tuple(ids[:context]), ""), 0, "", "", "", forced=True
            )
            began = time.perf_counter()
            for step, _ in decode(backend, reader, ids[:context], GivenTokens(ids[context:], LENGTH)):
                record.add(step, ForcedValues(0.0, 0.0, same_top1=True))
                if step.step == tokens:
                    buffer = PartBuffer(forced=True)
                    buffer.add(record)
                    buffer.tables()  # the rows of all tokens, as they are written
                times.append(time.perf_counter() - began)
                began = time.perf_counter()
            pipe.send(Round(times[0], times[1:], peak_rss()))
    except UserError as error:
        pipe.send(error)


def random_ids(vocabulary: int, context: int, tokens: int) -> list[int]:
    """The same for every contestant: a prompt of `context` ids, then one more than `tokens`."""
    ids: list[int] = (
        np.random.default_rng(context).integers(FIRST_ID, vocabulary, context + tokens + 1).tolist()
    )
    return ids


def peak_rss() -> int:
    """Highest resident memory of this process so far, in bytes."""
    return meminfo(read_text(Path("/proc/self/status")) or "", "VmHWM") or 0


def read_bandwidth(threads: int) -> float:
    """Bytes a second that so many threads read from memory together: the best of some rounds over far more
    than caches hold."""
    blocks = [np.ones(READ_BYTES // 8, np.int64) for _ in range(threads)]
    best = 0.0
    for _ in range(READ_ROUNDS):
        workers = [threading.Thread(target=np.bitwise_or.reduce, args=(block,)) for block in blocks]
        began = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, threads * READ_BYTES / (time.perf_counter() - began))
    return best


def weight_bytes(artifact: Artifact) -> int:
    """Of the largest file, which is that of the weights."""
    return max(record.size for record in artifact.manifest.files.values())


def summarise(
    opened: Mapping[str, Opened],
    found: Mapping[tuple[str, int], Sequence[Round]],
    weights: Mapping[str, int],
    bandwidth: float,
) -> list[Result]:
    """One Result for each contestant and context, in their order."""
    first = next(iter(opened))
    results = []
    for (name, context), rounds in found.items():
        own, other = by_round(rounds), by_round(found[first, context])
        low, middle, high = np.percentile(own, (25, 50, 75))
        ratio = np.percentile(own / other, (25, 50, 75))
        size = weights.get(name, 0)
        results.append(
            Result(
                name,
                context,
                opened[name].load_s,
                float(np.median([r.first_s for r in rounds])),
                (float(low), float(middle), float(high)),
                (float(ratio[0]), float(ratio[1]), float(ratio[2])),
                max(r.peak_rss for r in rounds),
                size,
                size / (middle / 1e3) / bandwidth if size else math.nan,
            )
        )
    return results


def by_round(rounds: Sequence[Round]) -> np.ndarray[Any, Any]:
    """Milliseconds a token, mean of each round."""
    return np.array([1e3 * sum(r.token_s) / len(r.token_s) for r in rounds])
