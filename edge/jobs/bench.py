"""Speed of artifacts on this machine: what `edge run` does for each token, in interleaved rounds.

Every contestant has a process of its own. It is stopped while another runs, since waiting threads of idle
sessions would disturb it. Rounds are taken in rotating order and compared by round, so that a machine that
slows down slows all contestants.
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
from edge.machine.device import meminfo
from edge.machine.processes import starting
from edge.machine.system import read_text
from edge.questions.prompt import Prompt, Prompter
from edge.runs.record import LENGTH, AnswerRecord, ForcedValues, PartBuffer
from edge.signals.reader import SignalReader

READ_BYTES = 1 << 28  # read by each thread of the bandwidth test, far more than caches hold
READ_ROUNDS = 7
FIRST_ID = 5  # ids below are mostly special


class Opened(NamedTuple):
    """A contestant's first message: it is ready, and opening took `load_s` seconds."""

    load_s: float


class Round(NamedTuple):
    """Times of one round in seconds: the prompt with its first token, then each further token.

    `peak_rss` is the peak of resident memory in bytes.
    """

    first_s: float
    token_s: list[float]
    peak_rss: int


# A function of a pipe and further arguments, and those arguments.
Contestant = tuple[Callable[..., None], tuple[Any, ...]]


class Running(NamedTuple):
    """A contestant's process, this end of its pipe, and its first message."""

    pid: int
    pipe: Connection
    opened: Any


class Result(NamedTuple):
    """Times of one contestant at one context length, over the rounds after the first.

    `token_ms` and `ratio` are lower quartile, median and upper quartile. `ratio` is the time a token over
    that of the first contestant, by round. `bandwidth` is the share of the machine's read bandwidth that
    reading `weight_bytes` once a token takes, NaN where the weights are not known.
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
    """Runs every contestant in a process of its own, one at a time.

    A contestant sends Opened, then answers each (context, tokens) with a Round, until it receives None. The
    first round of each context warms up and is left out. Raises the UserError of a contestant that fails.
    """
    with started(contestants) as running:
        opened = {name: process.opened for name, process in running.items()}
        results: dict[tuple[str, int], list[Round]] = {
            (name, context): [] for name in contestants for context in contexts
        }
        for context in contexts:

            def on_turn(name: str, number: int, context: int = context) -> None:
                on_round(name, context, number)

            for name, number, result in turns(running, (context, tokens), rounds, on_turn):
                if number:
                    results[name, context].append(result)
        return opened, results


def turns(
    running: Mapping[str, Running], request: Any, rounds: int, on_turn: Callable[[str, int], None] = ignore
) -> Iterator[tuple[str, int, Any]]:
    """Sends every process the same request once a round, in rotating order, one at a time.

    Yields name, round (0 warms up) and answer.
    """
    for number in range(rounds + 1):
        for name in rotated(running, number):
            on_turn(name, number)
            os.kill(running[name].pid, signal.SIGCONT)
            with suppress(ConnectionError):  # a process that has ended: receive() raises
                running[name].pipe.send(request)
            answer = receive(name, running[name].pipe)
            os.kill(running[name].pid, signal.SIGSTOP)
            yield name, number, answer


def rotated(names: Iterable[str], by: int) -> list[str]:
    """The names rotated by `by` places, so that the first one changes."""
    order = list(names)
    return order[by % len(order) :] + order[: by % len(order)]


@contextmanager
def started(contestants: Mapping[str, Contestant]) -> Iterator[dict[str, Running]]:
    """Starts a process for each contestant, stopped once it is open; kills them at the end."""
    spawn = multiprocessing.get_context("spawn")
    processes, running = [], {}
    try:
        for name, (target, arguments) in contestants.items():
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=target, args=(theirs, *arguments), daemon=True)
            with starting():
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
    """The next message of a contestant; raises UserError when it has ended or sends an error."""
    try:
        message = pipe.recv()
    except (EOFError, ConnectionError):
        raise UserError(
            f"{name} ended before it was done: see what it said above, free memory or leave it out"
        ) from None
    if isinstance(message, UserError):
        raise message
    return message


def trace_rounds(pipe: Connection, path: Path, runtime: Runtime, capacity: int) -> None:
    """A contestant: does all that `edge run` does for a token of an artifact, on random tokens."""
    try:
        began = time.perf_counter()
        artifact = open_artifact(path)
        backend = open_backend(artifact, runtime, capacity, ignore)
        prompter = Prompter(artifact, "raw")
        pipe.send(Opened(time.perf_counter() - began))
        reader = SignalReader(backend.spec)
        while request := pipe.recv():
            context, tokens = request
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
                    buffer.tables()  # as a run does before it writes them
                times.append(time.perf_counter() - began)
                began = time.perf_counter()
            pipe.send(Round(times[0], times[1:], peak_rss()))
    except UserError as error:
        pipe.send(error)


def random_ids(vocabulary: int, context: int, tokens: int) -> list[int]:
    """A prompt of `context` ids, then one more than `tokens`; the same for every contestant."""
    rng = np.random.default_rng(context)
    ids: list[int] = rng.integers(FIRST_ID, vocabulary, context + tokens + 1).tolist()
    return ids


def peak_rss() -> int:
    """Highest resident memory of this process so far, in bytes."""
    return meminfo(read_text(Path("/proc/self/status")) or "", "VmHWM") or 0


def read_bandwidth(threads: int) -> float:
    """Bytes a second that `threads` threads together read from memory: the best of READ_ROUNDS rounds."""
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
    """Bytes of the artifact's weights: the size of its largest file."""
    return max(record.size for record in artifact.manifest.files.values())


def summarise(
    opened: Mapping[str, Opened],
    rounds: Mapping[tuple[str, int], Sequence[Round]],
    weights: Mapping[str, int],
    bandwidth: float,
) -> list[Result]:
    """One Result for each contestant and context, in their order."""
    first = next(iter(opened))
    results = []
    for (name, context), measured in rounds.items():
        own, other = token_ms(measured), token_ms(rounds[first, context])
        low, middle, high = np.percentile(own, (25, 50, 75))
        ratio = np.percentile(own / other, (25, 50, 75))
        size = weights.get(name, 0)
        results.append(
            Result(
                name,
                context,
                opened[name].load_s,
                float(np.median([r.first_s for r in measured])),
                (float(low), float(middle), float(high)),
                (float(ratio[0]), float(ratio[1]), float(ratio[2])),
                max(r.peak_rss for r in measured),
                size,
                size / (middle / 1e3) / bandwidth if size else math.nan,
            )
        )
    return results


def token_ms(rounds: Sequence[Round]) -> np.ndarray[Any, Any]:
    """Mean milliseconds a token of each round [rounds]."""
    return np.array([1e3 * sum(r.token_s) / len(r.token_s) for r in rounds])
