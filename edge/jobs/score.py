"""Scoring: log-likelihoods of a question's choices, for TruthfulQA's mc1, mc2 and binary."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from edge.artifact import Artifact
from edge.backends.base import Backend, Runtime
from edge.backends.runtime import Loader, llama_settings, versions
from edge.errors import OnNote, UserError, asking, ignore
from edge.jobs.asked import parsed_of, tell_questions
from edge.jobs.encoded import Encoded, common_prefix, encode_or_note
from edge.jobs.interrupt import stop_on_signal
from edge.jobs.multiple_choice import by_question, choices
from edge.jobs.session import Progress, now, tell_damaged
from edge.machine import device
from edge.questions.prompt import Prompter
from edge.questions.question import Question, questions_sha256, select
from edge.runs.columns import storable
from edge.runs.provenance import ArtifactIdentity, QuestionSet, ScoreSettings
from edge.runs.score_directory import (
    SCHEMA,
    SCORE_NAME,
    ScoreManifest,
    ScoreWriter,
    read_score_manifest,
)
from edge.signals.definitions import most_likely
from edge.signals.taps import Array

FLUSH_ROWS = 200


class Scorer:
    """Log-likelihoods on one backend.

    The `shared` first tokens, which all prompts have, are computed once, and a question's prompt once for
    all of its choices. A question's bits do not depend on the questions before it.
    """

    def __init__(self, backend: Backend, shared: int) -> None:
        self._backend, self._shared = backend, shared

    def score(self, encoded: Encoded) -> dict[str, float]:
        """Maps each choice's text to the sum of its tokens' log-probabilities, in nats."""
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
    """Log-probabilities [V] in float64; raises NotFinite as most_likely does."""
    _, largest = most_likely(logits)
    shifted = logits.astype(np.float64) - largest
    shifted -= math.log(float(np.exp(shifted).sum()))
    return shifted


def log_probability(logits: Array, token: int) -> float:
    return float(log_softmax(logits)[token])


# The job


@dataclass(frozen=True)
class Scored:
    """A finished job: its manifest, and the scores by task and question_index."""

    manifest: ScoreManifest
    values: dict[str, dict[int, float]]


def score(
    artifact: Artifact,
    questions: Sequence[Question],
    out: Path,
    *,
    limit: int | None = None,
    shard: str = "1/1",
    control_tokens: bool = False,
    runtime: Runtime | None = None,
    on_progress: Callable[[Progress], None] = ignore,
    on_note: OnNote = ignore,
) -> Scored:
    """Scores the choices of the questions into the directory `out`; continues unfinished scores.

    A question that cannot be encoded, or does not fit the artifact's context, has no score, and its rows say
    why. `control_tokens` is the choice of Prompter. Raises UserError for bad input, also where no question
    can be scored, and Interrupted on a signal after writing the finished questions.
    """
    loader = Loader(artifact, runtime or Runtime())
    selected = select(questions, limit, shard)
    chosen = [question for question in selected if choices(question)]
    if not chosen:
        raise UserError(
            "no question has a true and a false answer to choose from: "
            "fill them in, or give other --questions"
        )
    if len(chosen) < len(selected):
        on_note(
            f"{len(selected) - len(chosen)} questions have no true and false answers to choose from: "
            "left out"
        )
    before = read_score_manifest(out).settings if (out / SCORE_NAME).is_file() else None
    parsed = parsed_of(before, control_tokens)
    prompter = Prompter(artifact, "qa", control_tokens=parsed is not False)
    context = artifact.manifest.model.context
    # The questions of all shards, so that neither results nor settings depend on sharding or resuming.
    everyone = {
        question.index: encode_or_note(prompter, question, context)
        for question in select(questions, limit, "1/1")
        if choices(question)
    }
    encoded = {question.index: everyone[question.index] for question in chosen}
    ready = [question for question in encoded.values() if not question.refused]
    if not ready:
        raise UserError(f"no question can be scored: {next(iter(encoded.values())).note}")
    tell_questions(list(encoded.values()), "scored", on_note)
    longest = max(question.positions for question in ready)
    shared = common_prefix([question.prompt for question in everyone.values() if not question.refused])
    manifest = ScoreManifest(
        artifact=ArtifactIdentity.of(artifact),
        settings=ScoreSettings(
            limit=limit,
            shard=shard,
            prompt=prompter.style,
            control_tokens=parsed if prompter.met_controls else None,
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
                with closing(backend), writer.or_nothing(UserError):
                    writer.go_on(on_note)
                    on_progress(Progress(len(writer.done), len(chosen), None))
                    tables = rows_of(left, encoded, Scorer(backend, shared), check)
                    write(writer, tables, lambda done: on_progress(Progress(done, len(chosen), None)))
        writer.finish()
        return Scored(writer.manifest, by_question(writer.rows()))


def rows_of(
    questions: Iterable[Question], encoded: dict[int, Encoded], scorer: Scorer, check: Callable[[], None]
) -> Iterator[pa.Table]:
    """Yields one table for each question; `check` may raise between two."""
    for question in questions:
        tokens = encoded[question.index]
        with asking(question.index):
            logprobs = {} if tokens.refused else scorer.score(tokens)
        rows = [
            {
                "question_index": question.index,
                "question_id": question.question_id,
                "category": storable(question.category),
                **choice._asdict(),
                "text": storable(choice.text),
                "tokens": len(tokens.continuations.get(choice.text, ())),
                "logprob": logprobs.get(choice.text),
                "note": tokens.note,
            }
            for choice in choices(question)
        ]
        yield pa.Table.from_pylist(rows, schema=SCHEMA)
        check()


def write(writer: ScoreWriter, tables: Iterator[pa.Table], on_done: Callable[[int], None]) -> None:
    """Writes parts of whole questions; finished ones are written even when the work is interrupted.

    New scores that are refused before their first part leave none.
    """
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
    except UserError:
        if writer.is_empty:
            waiting.clear()
        raise
    finally:
        flush()
