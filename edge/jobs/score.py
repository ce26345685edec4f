"""The log-likelihoods of a question's answers, from any backend: TruthfulQA's mc1, mc2 and binary."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edge.artifact import Artifact
from edge.backends.base import Backend, Runtime
from edge.backends.runtime import Loader, llama_settings, versions
from edge.errors import OnNote, UserError, ignore
from edge.jobs.interrupt import stop_on_signal
from edge.jobs.multiple_choice import by_question, choices
from edge.jobs.session import Progress, now, tell_damaged
from edge.machine import device
from edge.questions.prompt import Prompter
from edge.questions.question import Question, questions_sha256, select
from edge.runs.records import ArtifactIdentity, QuestionSet, ScoreSettings
from edge.runs.score_directory import SCHEMA, ScoreManifest, ScoreWriter
from edge.signals.taps import Array

FLUSH_ROWS = 200


class Encoded(NamedTuple):
    """A question's prompt and, by text, the tokens of each choice that continue it."""

    prompt: tuple[int, ...]
    continuations: dict[str, tuple[int, ...]]

    @property
    def positions(self) -> int:
        """That scoring it fills: a choice's last token is never fed."""
        return len(self.prompt) + max(map(len, self.continuations.values())) - 1


def encode(prompter: Prompter, question: Question) -> Encoded:
    """The benchmark's preset and " " + choice, cut where lm-evaluation-harness cuts: prompt and choice are
    tokenised as one text, and what follows as many tokens as the prompt alone has is the choice."""
    prompt = prompter.prompt(question.question)
    found = {}
    for text in dict.fromkeys(choice.text for choice in choices(question)):
        whole = prompter.tokenizer.encode(f"{prompt.text} {text}", special=True)
        if len(whole) <= len(prompt.ids):
            raise UserError(
                f"the answer {text[:40]!r} has no tokens of its own: write it out in the questions"
            )
        found[text] = tuple(whole[len(prompt.ids) :])
    return Encoded(prompt.ids, found)


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """How many first tokens all prompts share, at most all but two of the shortest: a pass over a single
    token would round quantised activations in another way (edge/backends/onnx.py), so that a list of one
    question gave it other bits."""
    first, last = min(prompts), max(prompts)  # what the least and the greatest share, all between them share
    alike: int = sum(itertools.takewhile(bool, map(operator.eq, first, last)))
    return max(0, min(alike, min(map(len, prompts)) - 2))


class Scorer:
    """Log-likelihoods on one backend. The `shared` first tokens, which all prompts have, are computed once,
    a question's prompt once for all of its choices: so a question's numbers are the same bits whichever were
    scored before it."""

    def __init__(self, backend: Backend, shared: int) -> None:
        self._backend, self._shared = backend, shared

    def score(self, encoded: Encoded) -> dict[str, float]:
        """Sum of the log-probabilities of each choice's tokens, in nats, by text."""
        if self._backend.length < self._shared:
            self._backend.prefill(encoded.prompt[: self._shared])
        self._backend.rewind(self._shared)
        first = log_softmax(self._backend.prefill(encoded.prompt[self._shared :]).logits)
        return {
            text: self._continue(first, ids, len(encoded.prompt))
            for text, ids in encoded.continuations.items()
        }

    def _continue(self, first: npt.NDArray[np.float64], ids: Sequence[int], length: int) -> float:
        if self._backend.length != length:
            self._backend.rewind(length)
        logprobs = [float(first[ids[0]])]
        for fed, scored in itertools.pairwise(ids):
            logprobs.append(log_probability(self._backend.step(fed).logits, scored))
        return math.fsum(logprobs)


def log_softmax(logits: Array) -> npt.NDArray[np.float64]:
    """[V], in float64."""
    shifted = logits.astype(np.float64) - float(logits.max())
    shifted -= math.log(float(np.exp(shifted).sum()))
    return shifted


def log_probability(logits: Array, token: int) -> float:
    return float(log_softmax(logits)[token])


# The job


@dataclass(frozen=True)
class Scored:
    """A finished job: its manifest and the values of by_question()."""

    manifest: ScoreManifest
    values: dict[str, dict[int, float]]


def score(
    artifact: Artifact,
    questions: Sequence[Question],
    out: Path,
    *,
    limit: int | None = None,
    shard: str = "1/1",
    runtime: Runtime | None = None,
    on_progress: Callable[[Progress], None] = ignore,
    on_note: OnNote = ignore,
) -> Scored:
    """Scores the choices of the questions into the directory `out`; continues where it was stopped, as `edge
    run` does.

    Raises UserError for bad input, also where a choice does not fit the artifact's context, and Interrupted
    on a signal after writing what is finished.
    """
    loader = Loader(artifact, runtime or Runtime())
    selected = select(questions, limit, shard)
    chosen = [question for question in selected if choices(question)]
    if not chosen:
        raise UserError(
            "no question has a true and a false answer to choose from: fill them in, or give other "
            "--questions"
        )
    if len(chosen) < len(selected):
        on_note(
            f"{len(selected) - len(chosen)} questions have no true and false answers to choose from: left "
            f"out"
        )
    prompter = Prompter(artifact, "qa")
    encoded = {question.index: encode(prompter, question) for question in chosen}
    longest = max(made.positions for made in encoded.values())
    # Of every shard's questions, so that neither shards nor what is left to do decide a bit.
    others = [question for question in select(questions, limit, "1/1") if question.index not in encoded]
    prompts = [
        *(made.prompt for made in encoded.values()),
        *(prompter.prompt(other.question).ids for other in others),
    ]
    shared = common_prefix(prompts)
    if longest > (context := artifact.manifest.model.context):
        raise UserError(
            f"a question takes {longest} positions, more than the {context} {artifact.label} was built for: "
            "build it with a larger --context"
        )
    manifest = ScoreManifest(
        artifact=ArtifactIdentity.of(artifact),
        settings=ScoreSettings(
            limit=limit,
            shard=shard,
            prompt=prompter.style,
            llama=llama_settings(artifact, loader.runtime),
        ),
        questions=QuestionSet(questions_sha256(questions), len(questions), len(chosen)),
        device=device.describe(),
        versions=versions(artifact),
        created=now(),
    )
    with ScoreWriter(out, manifest) as writer:
        tell_damaged(writer, on_note, "scored")
        left = [question for question in chosen if question.index not in writer.done]
        if left:
            with stop_on_signal() as check:
                with writer.or_nothing():
                    backend = loader.load(longest, on_note)
                with closing(backend):
                    on_progress(Progress(len(writer.done), len(chosen), None))
                    tables = rows_of(left, encoded, Scorer(backend, shared), check)
                    write(writer, tables, lambda done: on_progress(Progress(done, len(chosen), None)))
        writer.finish()
        return Scored(writer.manifest, by_question(writer.rows()))


def rows_of(
    questions: Iterable[Question], encoded: dict[int, Encoded], scorer: Scorer, check: Callable[[], None]
) -> Iterator[pa.Table]:
    """One table for each question; `check` may stop the work between two."""
    for question in questions:
        made = encoded[question.index]
        logprobs = scorer.score(made)
        rows = [
            {
                "question_index": question.index,
                "question_id": question.question_id,
                "category": question.category,
                **choice._asdict(),
                "tokens": len(made.continuations[choice.text]),
                "logprob": logprobs[choice.text],
            }
            for choice in choices(question)
        ]
        yield pa.Table.from_pylist(rows, schema=SCHEMA)
        check()


def write(writer: ScoreWriter, tables: Iterator[pa.Table], on_done: Callable[[int], None]) -> None:
    """In parts of whole questions; what is finished is written however the work ends."""
    waiting: list[pa.Table] = []
    done = len(writer.done)

    def flush() -> None:
        if waiting:
            writer.write_part(pa.concat_tables(waiting))
        waiting.clear()

    try:
        for table in tables:
            waiting.append(table)
            done += 1
            on_done(done)
            if sum(len(kept) for kept in waiting) >= FLUSH_ROWS:
                flush()
    finally:
        flush()
