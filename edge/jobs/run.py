"""The main job: questions through a model into a run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import Loader, llama_settings, versions
from edge.errors import OnNote, ignore
from edge.jobs.asked import parsed_of, tell_questions
from edge.jobs.decode import DecodeSettings
from edge.jobs.item import Item
from edge.jobs.session import Progress, TraceJob, capacity_for, now, sensors_for, trace
from edge.machine import device
from edge.questions.prompt import Prompter
from edge.questions.question import Question, questions_sha256, select
from edge.runs.manifest import RUN_NAME, RunManifest, read_manifest
from edge.runs.provenance import ArtifactIdentity, QuestionSet, RunSettings


def run(
    artifact: Artifact,
    questions: Sequence[Question],
    out: str | Path,
    settings: DecodeSettings,
    *,
    prompt: str | None = None,
    date: str | None = None,
    limit: int | None = None,
    shard: str = "1/1",
    control_tokens: bool = False,
    runtime: Runtime | None = None,
    pause_above: float | None = None,
    on_progress: Callable[[Progress], None] = ignore,
    on_note: OnNote = ignore,
) -> RunManifest:
    """Traces answers to the questions that `limit` and `shard` select into the run directory `out`.

    Continues an unfinished run of the same settings, does nothing for a finished one. Control tokens in a
    question are text, unless `control_tokens` asks to parse them. A question that cannot be asked gets an
    answer without tokens whose stop reason is "refused" and whose note says why. Waits while the
    machine is hotter than `pause_above` degrees Celsius. `on_note` is called with notes for the user. Raises
    UserError for bad input, and Interrupted on SIGINT or SIGTERM after writing the finished answers.
    """
    out, loader = Path(out), Loader(artifact, runtime or Runtime())
    sensors = sensors_for(pause_above)
    chosen = select(questions, limit, shard)
    before = read_manifest(out).settings if (out / RUN_NAME).is_file() else None
    parsed = parsed_of(before, control_tokens)
    prompter = Prompter(artifact, prompt, date_of(out, date), control_tokens=parsed is not False)
    prompts = [prompter.prompt_or_note(question.question) for question in chosen]
    for question in set(select(questions, limit, "1/1")) - set(chosen):
        prompter.prompt_or_note(question.question)  # all shards have the same settings
    tell_questions(prompts, "asked", on_note)
    manifest = RunManifest(
        kind="run",
        artifact=ArtifactIdentity.of(artifact),
        model=artifact.manifest.model,
        settings=RunSettings(
            **asdict(settings),
            prompt=prompter.style,
            date=prompter.date.isoformat(),
            limit=limit,
            shard=shard,
            control_tokens=parsed if prompter.met_controls else None,
            llama=llama_settings(artifact, loader.runtime),
        ),
        # The hash is of the whole list, so that shards and limited runs of one file have the same.
        questions=QuestionSet(questions_sha256(questions), len(questions), len(chosen)),
        like=None,
        device=device.describe(),
        versions=versions(artifact),
        created=now(),
    )
    job = TraceJob(
        manifest=manifest,
        loader=loader,
        prompter=prompter,
        items=[
            Item(question.index, question.question_id, question.question, question.category, asked)
            for question, asked in zip(chosen, prompts, strict=True)
        ],
        tokens=dict.fromkeys((question.index for question in chosen), settings.max_new_tokens),
        capacity=capacity_for(prompts, settings, artifact.manifest.model.context),
        sensors=sensors,
        pause_above=pause_above,
        settings=settings,
    )
    return trace(out, job, on_progress, on_note)


def date_of(out: Path, date: str | None) -> str | None:
    """The day that templates see: `date`, that of the run in `out`, or None for today."""
    if date is None and (out / RUN_NAME).is_file():
        return read_manifest(out).settings.date
    return date
