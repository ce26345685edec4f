"""Scoring: log-likelihoods of a question's choices, for TruthfulQA's mc1, mc2 and binary."""

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
from edge.errors import OnNote, UserError, asking, ignore
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


class Encoded(NamedTuple):
    """A question's prompt and, by text, the tokens of each choice that continue it, and a note."""

    prompt: tuple[int, ...]
    continuations: dict[str, tuple[int, ...]]
    note: str = ""

    @property
    def refused(self) -> bool:
        """Whether the question cannot be scored; the note says why."""
        return not self.continuations

    @property
    def positions(self) -> int:
        """Positions of the cache that scoring fills: a choice's last token is never fed."""
        return len(self.prompt) + max(map(len, self.continuations.values())) - 1


def encode(prompter: Prompter, question: Question) -> Encoded:
    """Tokenises TruthfulQA's preset followed by " " and each choice, cut where lm-evaluation-harness cuts.

    Prompt and choice are tokenised as one text. The choice is what follows as many tokens as the prompt
    alone has. Raises UserError for a question or a choice that has no tokens or cannot be encoded.
    """
    prompt = prompter.prompt(question.question)
    continuations = {}
    for text in dict.fromkeys(choice.text for choice in choices(question)):
        whole = prompter.continued(question.question, f" {text}")
        if len(whole) <= len(prompt.ids):
            raise UserError(
                f"the answer {text[:40]!r} has no tokens of its own: write it out in the questions"
            )
        continuations[text] = tuple(whole[len(prompt.ids) :])
    return Encoded(prompt.ids, continuations, prompt.note)


def encode_or_note(prompter: Prompter, question: Question, context: int) -> Encoded:
    """As `encode`; for a question that cannot be scored in this context an Encoded that says why."""
    try:
        encoded = encode(prompter, question)
        if encoded.positions > context:
            raise UserError(
                f"the question {question.question[:40]!r} takes {encoded.positions} positions, more than "
                f"the {context} the artifact was built for: build it with a larger --context"
            )
        return encoded
    except UserError as error:
        return Encoded((), {}, str(error))


def common_prefix(prompts: Sequence[tuple[int, ...]]) -> int:
    """Number of first tokens that all prompts share, at most all but two of the shortest prompt.

    A pass over a single token rounds quantised activations in another way (edge/backends/onnx.py). With one
    left, the question's bits would depend on the other questions.
    """
    first, last = min(prompts), max(prompts)  # all prompts between them begin with the same tokens
    alike: int = sum(itertools.takewhile(bool, map(operator.eq, first, last)))
    return max(0, min(alike, min(map(len, prompts)) - 2))


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
    parsed = parsed_of(out, control_tokens)
    prompter = Prompter(artifact, "qa", control_tokens=parsed is not False)
    context = artifact.manifest.model.context
    encoded = {question.index: encode_or_note(prompter, question, context) for question in chosen}
    ready = [question for question in encoded.values() if not question.refused]
    if not ready:
        raise UserError(f"no question can be scored: {next(iter(encoded.values())).note}")
    if len(ready) < len(encoded):
        note = next(question.note for question in encoded.values() if question.refused)
        on_note(
            f"{len(encoded) - len(ready)} of {len(encoded)} questions cannot be scored, the first: {note}"
        )
    longest = max(question.positions for question in ready)
    # The prompts of all shards, so that the results do not depend on sharding or resuming.
    others = [question for question in select(questions, limit, "1/1") if question.index not in encoded]
    prompts = [
        *(question.prompt for question in ready),
        *(asked.ids for other in others if not (asked := prompter.prompt_or_note(other.question)).refused),
    ]
    shared = common_prefix(prompts)
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


def parsed_of(out: Path, control_tokens: bool) -> bool | None:
    """Whether control tokens are parsed; None, which parses them, where scores in `out` say nothing."""
    if (out / SCORE_NAME).is_file() and read_score_manifest(out).settings.control_tokens is None:
        return None
    return control_tokens


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
