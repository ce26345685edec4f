"""`edge score`: TruthfulQA's multiple choice on any artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge import tables
from edge.analysis.divergence import plain
from edge.analysis.intervals import bootstrap
from edge.artifact import LLAMA_CPP
from edge.backends.base import Runtime
from edge.cli_common import QUESTIONS_HELP, check_json, chosen_questions, console, write_json
from edge.cli_job import shown
from edge.completion import complete_artifacts
from edge.gguf_file import open_artifact
from edge.progress import OnNote, OnProgress
from edge.questions import read_questions
from edge.score import Scored
from edge.score import score as score_job
from edge.terminal import unmarked


def score(
    artifact: Annotated[Path, typer.Argument(help="Artifact folder, or any GGUF file.", autocompletion=complete_artifacts)],
    out: Annotated[Path, typer.Option(help="Folder to make or to continue.")],
    questions: Annotated[Path | None, typer.Option(help=QUESTIONS_HELP)] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    shard: Annotated[str, typer.Option(help="I/N: every N-th question, for several boards.")] = "1/1",
    threads: Annotated[int | None, typer.Option(help="Processor threads (default: all this process may use).", min=1)] = None,
    kv_cache: Annotated[str | None, typer.Option(help="GGUF: f16 or f32 (default: f32 for gguf-f32, else f16).")] = None,
    low_memory: Annotated[bool, typer.Option("--low-memory", help="GGUF: no second, faster copy of the weights.")] = False,
    gpu_layers: Annotated[int, typer.Option(help="GGUF: so many layers on a GPU that llama.cpp was built for.")] = 0,
    no_prepack: Annotated[
        bool, typer.Option("--no-prepack", help="ONNX: do not keep the weights as this processor wants them.")
    ] = False,
    anyway: Annotated[bool, typer.Option("--anyway", help="Start although memory may not suffice.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write the result as JSON to this file (- for standard output).")
    ] = None,
) -> None:
    """Say which listed answers a model finds likeliest: mc1, mc2 and binary; continues by itself where it was stopped."""
    check_json(json_file)
    opened, asked = open_artifact(artifact), read_questions(chosen_questions(questions))
    # Attention and hidden states are not looked at: llama.cpp is not asked for them.
    taps = "none" if opened.manifest.backend == LLAMA_CPP else "auto"
    runtime = Runtime(threads, taps, kv_cache, low_memory, gpu_layers, prepack=not no_prepack, anyway=anyway)

    def job(on_progress: OnProgress, on_note: OnNote) -> Scored:
        return score_job(opened, asked, out, limit=limit, shard=shard, runtime=runtime, on_progress=on_progress, on_note=on_note)

    made = shown(job, f"{opened.label} scored", quiet)
    found = {task: (len(values), bootstrap(list(values.values()))) for task, values in made.values.items() if values}
    if json_file != "-":
        table = tables.table(f"{opened.label}: share over questions [95% interval]", "task", "questions", "score")
        for task, (count, value) in found.items():
            table.add_row(task, str(count), tables.interval(value))
        console.print(table)
        console.print(unmarked(f"log-likelihoods in {out}"), soft_wrap=True)
    if json_file:
        result: dict[str, Any] = {"artifact": dict(made.manifest.artifact), "questions": dict(made.manifest.questions)}
        tasks = {
            task: {"questions": count, **value._asdict(), "by_question": made.values[task]}
            for task, (count, value) in found.items()
        }
        write_json(json_file, plain(result | {"tasks": tasks}))
