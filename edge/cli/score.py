"""`edge score`: TruthfulQA's multiple choice on any artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge.analysis.intervals import Interval, bootstrap, share
from edge.analysis.plain import plain
from edge.cli import tables
from edge.cli.common import (
    QUESTIONS_HELP,
    check_json,
    chosen_questions,
    console,
    print_note,
    print_notice,
    write_json,
)
from edge.cli.job import follow_job
from edge.cli.known import open_named
from edge.cli.options import (
    Anyway,
    ArtifactPath,
    ControlTokens,
    GpuLayers,
    JsonFile,
    KvCache,
    Limit,
    LowMemory,
    NoPrepack,
    Quiet,
    Shard,
    Threads,
    runtime_of,
)
from edge.cli.progress import OnProgress
from edge.cli.terminal import unmarked
from edge.errors import OnNote
from edge.jobs.score import Scored
from edge.jobs.score import score as score_job
from edge.precision import LLAMA_CPP
from edge.questions.question import read_questions
from edge.report.formatting import FEW_NOTE
from edge.runs.sessions import cautions


def score(
    artifact: ArtifactPath,
    out: Annotated[Path, typer.Option(help="Folder to make or to continue.")],
    questions: Annotated[Path | None, typer.Option(help=QUESTIONS_HELP)] = None,
    limit: Limit = None,
    shard: Shard = "1/1",
    control_tokens: ControlTokens = False,
    threads: Threads = None,
    kv_cache: KvCache = None,
    low_memory: LowMemory = False,
    gpu_layers: GpuLayers = 0,
    no_prepack: NoPrepack = False,
    anyway: Anyway = False,
    quiet: Quiet = False,
    json_file: JsonFile = None,
) -> None:
    """The command `edge score`; its help is in edge/cli/app.py."""
    check_json(json_file)
    opened = open_named(artifact)
    question_list = read_questions(chosen_questions(questions))
    # Scores need no attention and no hidden states: llama.cpp gives only logits.
    taps = "none" if opened.manifest.backend == LLAMA_CPP else "auto"
    runtime = runtime_of(
        threads, taps, kv_cache, low_memory, gpu_layers, no_prepack=no_prepack, anyway=anyway
    )

    def job(on_progress: OnProgress, on_note: OnNote) -> Scored:
        return score_job(
            opened,
            question_list,
            out,
            limit=limit,
            shard=shard,
            control_tokens=control_tokens,
            runtime=runtime,
            on_progress=on_progress,
            on_note=on_note,
        )

    scored = follow_job(job, f"{opened.label} scored", quiet)
    scores = {
        task: (len(values), mean_score(task, list(values.values())))
        for task, values in scored.values.items()
        if values
    }
    told = cautions([(str(out), scored.manifest.sessions)])
    for caution in told:
        print_note(caution)
    if json_file != "-":
        title = unmarked(f"{opened.label}: share over questions [95% interval]")
        console.print(title, style="bold", soft_wrap=True)
        table = tables.table("", "task", "questions", "score")
        for task, (count, value) in scores.items():
            table.add_row(task, str(count), tables.interval(value, digits=4))
        print_notice(opened.manifest.notice)
        console.print(table)
        if any(value.marked for _, value in scores.values()):
            console.print(f"{FEW_NOTE}.", style="dim")
        console.print(unmarked(f"log-likelihoods in {out}"), soft_wrap=True)
    if json_file:
        result: dict[str, Any] = {
            "artifact": scored.manifest.artifact.to_json(),
            "questions": scored.manifest.questions.to_json(),
            "cautions": told,
        }
        tasks = {
            task: {"questions": count, **value._asdict(), "by_question": scored.values[task]}
            for task, (count, value) in scores.items()
        }
        write_json(json_file, plain(result | {"tasks": tasks}))


def mean_score(task: str, values: list[float]) -> Interval:
    """Mean over questions with its interval: mc2 is a mass of probability, the others are 0 or 1."""
    return bootstrap(values).within(0.0, 1.0) if task == "mc2" else share(values)
