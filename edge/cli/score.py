"""`edge score`: TruthfulQA's multiple choice on any artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge.analysis.intervals import bootstrap
from edge.analysis.plain import plain
from edge.backends.gguf_file import open_artifact
from edge.cli import tables
from edge.cli.common import QUESTIONS_HELP, check_json, chosen_questions, console, print_notice, write_json
from edge.cli.job import follow_job
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
    """Say which listed answers a model finds likeliest: mc1, mc2 and binary; continues by itself where it
    was stopped."""
    check_json(json_file)
    opened = open_artifact(artifact)
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
        task: (len(values), bootstrap(list(values.values())))
        for task, values in scored.values.items()
        if values
    }
    if json_file != "-":
        title = unmarked(f"{opened.label}: share over questions [95% interval]")
        console.print(title, style="bold", soft_wrap=True)
        table = tables.table("", "task", "questions", "score")
        for task, (count, value) in scores.items():
            table.add_row(task, str(count), f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}]")
        print_notice(opened.manifest.notice)
        console.print(table)
        console.print(unmarked(f"log-likelihoods in {out}"), soft_wrap=True)
    if json_file:
        result: dict[str, Any] = {
            "artifact": scored.manifest.artifact.to_json(),
            "questions": scored.manifest.questions.to_json(),
        }
        tasks = {
            task: {"questions": count, **value._asdict(), "by_question": scored.values[task]}
            for task, (count, value) in scores.items()
        }
        write_json(json_file, plain(result | {"tasks": tasks}))
