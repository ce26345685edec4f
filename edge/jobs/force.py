"""Teacher forcing: this model reads the tokens of another run, so that positions align and distributions
compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import check_runtime, llama_settings, open_backend, versions
from edge.errors import OnNote, UserError, ignore
from edge.files import file_sha256
from edge.jobs.decode import force as force_steps
from edge.jobs.exact import FullModel, check_full
from edge.jobs.run import (
    Progress,
    Recorder,
    check_run_disk,
    now,
    sensors_for,
    stop_on_signal,
    tell_damaged,
)
from edge.machine import device
from edge.machine.telemetry import Cooling
from edge.questions.prompt import Prompt, Prompter
from edge.runs.manifest import RUN_NAME, RunManifest
from edge.runs.record import AnswerRecord, ForcedValues, PartBuffer
from edge.runs.records import ArtifactIdentity, FollowedRun
from edge.runs.run_directory import Run, RunWriter
from edge.signals.comparison import TopK, kl_to_reference
from edge.signals.definitions import Signals
from edge.signals.reader import SignalReader
from edge.signals.taps import Taps


class ReferenceAnswer(NamedTuple):
    """One answer of the reference run; `distributions` is empty when the run kept none."""

    question_index: int
    question_id: str
    question: str
    category: str
    prompt: Prompt
    tokens: list[int]
    stop_reason: str
    surprisals: list[float]
    distributions: list[TopK]


def read_reference(run: Run) -> Iterator[ReferenceAnswer]:
    """The answers of a run in the order of its parts."""
    kept = run.manifest.settings.reference_k > 0
    extra = ["reference_token_ids", "reference_logprobs", "reference_rest"] if kept else []
    columns = ["question_id", "question", "category", "prompt_ids", "prompt_text", "stop_reason"]
    answers = {row["question_index"]: row for row in run.answers(["question_index", *columns]).to_pylist()}
    for index, table in run.each_question(["token_id", "surprisal", *extra]):
        row = answers[index]
        yield ReferenceAnswer(
            question_index=index,
            question_id=row["question_id"],
            question=row["question"],
            category=row["category"],
            prompt=Prompt(tuple(row["prompt_ids"]), row["prompt_text"]),
            tokens=table.column("token_id").to_pylist(),
            stop_reason=row["stop_reason"],
            surprisals=table.column("surprisal").to_pylist(),
            distributions=distributions(table) if kept else [],
        )


def distributions(steps: pa.Table) -> list[TopK]:
    """The reference's K most likely tokens of each step, as views of the table."""
    if steps.num_rows == 0:
        return []
    cells = [steps.column(name).combine_chunks() for name in ("reference_token_ids", "reference_logprobs")]
    flat = [cell.flatten().to_numpy() for cell in cells]
    rows = [
        np.split(values, np.cumsum(cell.value_lengths())[:-1])
        for values, cell in zip(flat, cells, strict=True)
    ]
    return [TopK(*kept) for kept in zip(*rows, steps.column("reference_rest").to_pylist(), strict=True)]


class Listener:
    """What the reference answer says of this model's passes over its tokens, by its kept distributions or by
    the full model."""

    def __init__(self, answer: ReferenceAnswer, full: FullModel | None) -> None:
        self._answer, self._full = answer, full
        self._passes = iter(full.steps(answer.prompt.ids, answer.tokens)) if full else None

    def values(self, step: int, taps: Taps, signals: Signals) -> ForcedValues:
        """Of the pass before the reference's token number `step`; to be asked in order."""
        answer, token = self._answer, self._answer.tokens[step]
        if self._full and self._passes:
            return self._full.values(next(self._passes), token, taps, signals)
        kept = answer.distributions[step] if answer.distributions else None
        kl = math.nan if kept is None else kl_to_reference(kept, taps.logits, signals.output.log_normaliser)
        # Without a kept distribution a greedy run's own token is its most likely one.
        top1 = token if kept is None else int(kept.ids[0])
        return ForcedValues(kl, answer.surprisals[step], signals.output.top1 == top1)


def force(
    artifact: Artifact,
    like: Path,
    out: Path,
    *,
    exact: Artifact | None = None,
    runtime: Runtime | None = None,
    pause_above: float | None = None,
    on_progress: Callable[[Progress], None] = ignore,
    on_note: OnNote = ignore,
) -> RunManifest:
    """Traces `artifact` on the prompts and tokens of the run `like` into the run directory `out`.

    Adds KL(reference || this) (null where `like` was made without --reference), the reference's surprisal
    and whether the most likely token is the same. With `exact`, the artifact that made `like`, both are
    stepped together: KL is over the whole vocabulary, and the distance of the residual streams is added.
    Raises UserError when tokenizers or vocabularies differ.
    """
    runtime = runtime or Runtime()
    check_runtime(artifact, runtime)
    sensors = sensors_for(pause_above)
    reference = Run.open(like)
    check_comparable(artifact, reference, sampled=exact is not None)
    if exact:
        check_full(exact, reference)
    if reference.manifest.kind != "run":
        raise UserError(f"{like} is itself a forced run: give the free-running one with --like")
    prompter = Prompter(artifact, "raw")
    lengths = answer_lengths(reference)
    manifest = RunManifest(
        kind="force",
        artifact=ArtifactIdentity.of(artifact),
        model=artifact.manifest.model,
        # How the tokens came about is the reference's, how they are read is ours.
        settings=replace(reference.manifest.settings, llama=llama_settings(artifact, runtime)),
        questions=replace(reference.manifest.questions, selected=len(lengths)),
        like=FollowedRun(file_sha256(like / RUN_NAME), reference.manifest.artifact, exact is not None),
        device=device.describe(),
        versions=versions(artifact),
        created=now(),
    )
    total, capacity = len(lengths), artifact.manifest.model.context
    for index, length in lengths.items():
        if length.positions > capacity:
            raise UserError(
                f"question {index} of {like} takes {length.positions} positions, more than the {capacity} "
                f"this artifact was "
                "built for: build it with a larger --context"
            )
    with RunWriter(out, manifest) as writer:
        tell_damaged(writer, on_note)
        if writer.complete(lengths):
            return writer.manifest
        longest = max((length.positions for length in lengths.values()), default=1) or 1
        with writer.or_nothing():
            left = [length.tokens for index, length in lengths.items() if index not in writer.done]
            check_run_disk(out, artifact, runtime, sum(left), len(left), forced=True)
            backend = open_backend(artifact, runtime, longest, on_note)
            full = FullModel(exact, reference, runtime, longest, on_note) if exact else None
        reader = SignalReader(backend.spec)
        recorder = Recorder(
            writer, PartBuffer(forced=True, exact=exact is not None), backend, sensors, on_note
        )
        on_progress(Progress(recorder.done, total, None))
        with stop_on_signal() as check:
            cooling = Cooling(sensors, pause_above, check, on_note)
            try:
                for answer in read_reference(reference):
                    if answer.question_index in writer.done:
                        continue
                    record = AnswerRecord(
                        backend.spec,
                        prompter,
                        answer.prompt,
                        answer.question_index,
                        answer.question_id,
                        answer.question,
                        answer.category,
                        forced=True,
                        cache_bytes_each=backend.cache_bytes_each,
                    )
                    listener = Listener(answer, full)
                    for step, taps in force_steps(
                        backend, reader, answer.prompt.ids, answer.tokens, answer.stop_reason
                    ):
                        record.add(step, listener.values(step.step, taps, step.signals))
                        on_progress(Progress(recorder.done, total, record))
                        check()
                        cooling.wait()
                    recorder.add(record, cooling.taken())
                    on_progress(Progress(recorder.done, total, record, finished=True))
            finally:
                recorder.flush()
                backend.close()
                if full:
                    full.close()
        writer.finish()
        return writer.manifest


class Length(NamedTuple):
    """Tokens of a prompt and of its answer, 0 for one that never fitted."""

    prompt: int
    tokens: int

    @property
    def positions(self) -> int:
        """That forcing the answer fills."""
        return self.prompt + self.tokens - 1 if self.tokens else 0


def answer_lengths(reference: Run) -> dict[int, Length]:
    """By question_index."""
    rows = reference.answers(["question_index", "prompt_ids", "tokens"])
    prompts = pc.list_value_length(rows.column("prompt_ids")).to_pylist()
    indices, tokens = rows.column("question_index").to_pylist(), rows.column("tokens").to_pylist()
    return {index: Length(*length) for index, *length in zip(indices, prompts, tokens, strict=True)}


def check_comparable(artifact: Artifact, reference: Run, *, sampled: bool) -> None:
    """Raises UserError unless the artifact reads and writes the same tokens as the reference run's model.
    `sampled`: a sampled run will do although it kept no distributions."""
    theirs = reference.manifest.artifact
    if theirs.tokenizer_sha256 != artifact.manifest.tokenizer_sha256:
        raise UserError(
            f"{reference.folder} was traced with another tokenizer ({theirs.model_id}) than "
            f"{artifact.label}: force an artifact of the same model"
        )
    if reference.manifest.model.vocabulary != artifact.manifest.model.vocabulary:
        raise UserError(
            f"{reference.folder} has a vocabulary of {reference.manifest.model.vocabulary}, "
            f"{artifact.label} one of "
            f"{artifact.manifest.model.vocabulary}: force an artifact of the same model"
        )
    settings = reference.manifest.settings
    if not sampled and settings.temperature > 0 and not settings.reference_k:
        raise UserError(
            f"{reference.folder} was sampled without --reference: its most likely tokens are unknown, trace "
            f"it again"
        )
