"""Teacher forcing: a model reads the tokens of another run, so that positions and distributions align."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import Loader, llama_settings, versions
from edge.backends.tokenizer import open_tokenizer
from edge.errors import OnNote, UserError, ignore
from edge.files import file_sha256
from edge.jobs.exact import full_loader
from edge.jobs.item import ForcedTokens, Item
from edge.jobs.session import Progress, TraceJob, now, sensors_for, trace
from edge.machine import device
from edge.questions.prompt import Prompt, Prompter
from edge.runs.manifest import RUN_NAME, RunManifest
from edge.runs.provenance import ArtifactIdentity, FollowedRun
from edge.runs.run_directory import Run
from edge.signals.comparison import TopK
from edge.signals.groups import names
from edge.signals.metric import Kind

ASKED = ("question_index", "prompt_text", "prompt_ids", "answer")
KEPT = names(lambda metric: metric.kind == Kind.REFERENCE)  # ids and log-probabilities [K], the rest's mass


def force(
    artifact: Artifact,
    like: str | Path,
    out: str | Path,
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
    like, out, loader = Path(like), Path(out), Loader(artifact, runtime or Runtime())
    sensors = sensors_for(pause_above)
    reference = Run.open(like)
    check_comparable(artifact, reference, sampled=exact is not None)
    full = full_loader(exact, reference, loader.runtime) if exact else None
    if reference.manifest.kind != "run":
        raise UserError(f"{like} is itself a forced run: give the free-running one with --like")
    lengths = answer_lengths(reference)
    check_context(artifact, like, lengths)
    manifest = RunManifest(
        kind="force",
        artifact=ArtifactIdentity.of(artifact),
        model=artifact.manifest.model,
        # The reference run's settings chose the tokens, our llama.cpp settings decide how they are read.
        settings=replace(reference.manifest.settings, llama=llama_settings(artifact, loader.runtime)),
        questions=replace(reference.manifest.questions, selected=len(lengths)),
        like=FollowedRun(file_sha256(like / RUN_NAME), reference.manifest.artifact, exact is not None),
        device=device.describe(),
        versions=versions(artifact),
        created=now(),
    )
    job = TraceJob(
        manifest=manifest,
        loader=loader,
        prompter=Prompter(artifact, "raw"),
        items=read_items(reference),
        tokens={index: length.tokens for index, length in lengths.items()},
        capacity=max((length.positions for length in lengths.values()), default=1) or 1,
        sensors=sensors,
        pause_above=pause_above,
        exact=full,
    )
    return trace(out, job, on_progress, on_note)


def read_items(reference: Run) -> Iterator[Item]:
    """Yields an item for each answer of the reference run, in the order of its parts."""
    kept = reference.manifest.settings.reference_k > 0
    extra = [*KEPT] if kept else []
    columns = ["question_id", "question", "category", "prompt_ids", "prompt_text", "stop_reason"]
    columns += [name for name in reference.columns("answers") if name == "note"]
    rows = reference.answers(["question_index", *columns]).to_pylist()
    answers = {row["question_index"]: row for row in rows}
    for index, steps in reference.each_question(["token_id", "surprisal", *extra]):
        row = answers[index]
        yield Item(
            index=index,
            question_id=row["question_id"],
            question=row["question"],
            category=row["category"],
            prompt=Prompt(tuple(row["prompt_ids"]), row["prompt_text"], row.get("note") or ""),
            forced=ForcedTokens(
                tokens=steps.column("token_id").to_pylist(),
                stop_reason=row["stop_reason"],
                surprisals=steps.column("surprisal").to_pylist(),
                distributions=distributions(steps) if kept else [],
            ),
        )


def distributions(steps: pa.Table) -> list[TopK]:
    """The K most likely tokens that the reference kept of each step, as views of the table."""
    if steps.num_rows == 0:
        return []
    *lists, rest = KEPT
    cells = [steps.column(name).combine_chunks() for name in lists]
    flat = [cell.flatten().to_numpy() for cell in cells]
    rows = [
        np.split(values, np.cumsum(cell.value_lengths())[:-1])
        for values, cell in zip(flat, cells, strict=True)
    ]
    return [TopK(*kept) for kept in zip(*rows, steps.column(rest).to_pylist(), strict=True)]


class Length(NamedTuple):
    """Tokens of a prompt and of its answer, 0 for an answer whose prompt did not fit."""

    prompt: int
    tokens: int

    @property
    def positions(self) -> int:
        """Positions of the cache that forcing the answer fills."""
        return self.prompt + self.tokens - 1 if self.tokens else 0


def answer_lengths(reference: Run) -> dict[int, Length]:
    """Maps question_index to the lengths of prompt and answer."""
    rows = reference.answers(["question_index", "prompt_ids", "tokens"])
    prompts = pc.list_value_length(rows.column("prompt_ids")).to_pylist()
    indices, tokens = rows.column("question_index").to_pylist(), rows.column("tokens").to_pylist()
    return {index: Length(*length) for index, *length in zip(indices, prompts, tokens, strict=True)}


def check_context(artifact: Artifact, like: Path, lengths: Mapping[int, Length]) -> None:
    """Raises UserError where an answer of the run `like` is longer than the artifact's context."""
    context = artifact.manifest.model.context
    for index, length in lengths.items():
        if length.positions > context:
            raise UserError(
                f"question {index} of {like} takes {length.positions} positions, more than the {context} "
                "this artifact was built for: build it with a larger --context"
            )


def check_comparable(artifact: Artifact, reference: Run, *, sampled: bool) -> None:
    """Raises UserError unless the artifact has the tokens of the reference run's model.

    A run that was sampled and kept no distributions is refused too, unless `sampled` allows it.
    """
    known, own = reference.manifest.model.vocabulary, artifact.manifest.model.vocabulary
    if known != own:
        raise UserError(
            f"{reference.folder} has a vocabulary of {known}, {artifact.label} one of {own}: "
            "force an artifact of the same model"
        )
    theirs = reference.manifest.artifact
    same_file = theirs.tokenizer_sha256 == artifact.manifest.tokenizer_sha256
    if not same_file and not reads_alike(artifact, reference):
        raise UserError(
            f"{reference.folder} was traced with another tokenizer ({theirs.model_id}) than "
            f"{artifact.label}: force an artifact of the same model"
        )
    settings = reference.manifest.settings
    if not sampled and settings.temperature > 0 and not settings.reference_k:
        raise UserError(
            f"{reference.folder} was sampled without --reference: "
            "its most likely tokens are unknown, trace it again"
        )


def reads_alike(artifact: Artifact, reference: Run) -> bool:
    """Whether the artifact's tokenizer gives the ids of every prompt of the run, and the text of every
    answer.

    A GGUF file's own tokenizer and the tokenizer.json of its model are different files with the same tokens.
    Prompts with a note are left out: control tokens in a question were read as text. Libraries write one or
    several U+FFFD for the bytes of a character that was cut.
    """
    tokenizer = open_tokenizer(artifact)
    columns = [name for name in (*ASKED, "note") if name in reference.columns("answers")]
    rows = reference.answers(columns).to_pylist()
    texts = {row["question_index"]: row["answer"] for row in rows}
    # A template writes its own special tokens, other prompts get the tokenizer's.
    return all(
        any(tokenizer.encode(row["prompt_text"], special=own) == row["prompt_ids"] for own in (False, True))
        for row in rows
        if row["prompt_ids"] and not row.get("note")
    ) and all(
        whole(tokenizer.decode(steps.column("token_id").to_pylist(), special=False)) == whole(texts[index])
        for index, steps in reference.each_question(["token_id"])
    )


def whole(answer: str) -> str:
    """The text with one U+FFFD for each row of them."""
    return re.sub("\ufffd+", "\ufffd", answer)
