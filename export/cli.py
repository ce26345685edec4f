"""`edge-export`: from a checkpoint to artifacts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from edge.cli.common import check_json, console, errors, run_app, write_json
from edge.cli.completion import complete_models
from edge.precision import MIXED, PRECISIONS
from edge.questions.question import EMBEDDED, read_questions
from export.build import DEFAULT_CONTEXT
from export.build import build as build_artifacts
from export.mix import find as find_mix
from export.mix import read_recipe
from export.mix import table as mix_table
from export.reference import reference as make_reference
from export.synth import synth as synthesise
from export.verdict import table as verdict_table
from export.verify import verify as verify_artifacts

app = typer.Typer(
    help="Build what `edge` runs: graphs with taps on attention and hidden states.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Source = Annotated[
    str,
    typer.Argument(
        help="A known model (see `edge models`) or a checkpoint folder.", autocompletion=complete_models
    ),
]


@app.callback()
def top() -> None:
    """Build what `edge` runs: graphs with taps on attention and hidden states."""


def say_fetching(where: Console, name: str, size: int) -> None:
    """One line for each file before it is downloaded; `size` in bytes."""
    where.print(f"fetching {name}, {size / 1e6:.1f} MB", style="dim", markup=False)


@app.command(
    epilog="Example: edge-export build nano-llama --to onnx-fp32 --to onnx-int4 --out models/nano-llama"
)
def build(
    source: Source,
    to: Annotated[list[str], typer.Option(help=f"Precision, may be given again: {', '.join(PRECISIONS)}.")],
    out: Annotated[Path, typer.Option(help="Folder in which PRECISION/ is made.")],
    taps: Annotated[
        str,
        typer.Option(
            help="none: logits alone; rows: also attention and hidden states; raw: the same graph."
        ),
    ] = "rows",
    context: Annotated[
        int, typer.Option(help="Largest number of positions to build for.")
    ] = DEFAULT_CONTEXT,
    revision: Annotated[
        str, typer.Option(help="Commit, branch or tag of a hub model (default: as before, or main).")
    ] = "",
    recipe: Annotated[
        Path | None, typer.Option(help="What `edge-export mix` found, for onnx-int4-mixed.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--force", help="Replace an artifact that is already there.")
    ] = False,
) -> None:
    """Build artifacts of one model in one or more precisions."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    bar = Bar(*columns, console=errors, transient=True)
    task = bar.add_task("", total=None)
    found = read_recipe(recipe) if recipe else None

    def on_bytes(done: int, total: int) -> None:
        bar.start()  # only now, so that a refusal stands alone on stderr
        bar.update(task, completed=done, total=total)

    try:
        results = build_artifacts(
            source,
            to,
            out,
            taps=taps,
            context=context,
            overwrite=overwrite,
            revision=revision or None,
            wide=found.wide if found else (),
            on_start=lambda name: bar.update(task, description=name),
            on_file=functools.partial(say_fetching, console),
            on_note=lambda text: console.print(
                f"note: {text}", style="yellow", markup=False, soft_wrap=True
            ),
            on_bytes=on_bytes,
        )
    finally:
        if bar.live.is_started:
            bar.stop()
    for result in results:
        size = sum(record.size for record in result.artifact.manifest.files.values()) / 1e6
        how = "already built" if result.reused else f"built in {result.seconds:.1f} s"
        console.print(f"{result.artifact.path}: {how}, {size:.1f} MB", markup=False, soft_wrap=True)
        manifest = result.artifact.manifest
        if (
            found
            and manifest.precision == MIXED
            and found.checkpoint_sha256 not in ("", manifest.checkpoint_sha256)
        ):
            text = (
                f"{recipe} was found for another checkpoint ({found.model_id}): "
                "search for this one with 'edge-export mix'"
            )
            console.print(f"note: {text}", style="yellow", markup=False, soft_wrap=True)


@app.command(epilog="Example: edge-export mix nano-llama --out models/nano-llama --budget 1.15")
def mix(
    source: Source,
    out: Annotated[
        Path, typer.Option(help="Folder in which onnx-int4-mixed/ and the search's log are made.")
    ],
    questions: Annotated[
        Path, typer.Option(help="CSV of questions to calibrate on: not those you will judge by.")
    ] = EMBEDDED,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer in tokens.")] = 64,
    budget: Annotated[float, typer.Option(help="Size allowed, as a multiple of onnx-int4's.")] = 1.15,
    context: Annotated[
        int, typer.Option(help="Largest number of positions to build for.")
    ] = DEFAULT_CONTEXT,
    revision: Annotated[
        str, typer.Option(help="Commit, branch or tag of a hub model (default: main).")
    ] = "",
    threads: Annotated[
        int | None, typer.Option(help="Processor threads (default: all this process may use).", min=1)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--force", help="Replace an artifact that is already there.")
    ] = False,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write the log as JSON too (- for standard output).")
    ] = None,
) -> None:
    """Find what int4 should keep in int8: measures the KL that each group of matrices costs, and builds
    onnx-int4-mixed."""
    check_json(json_file)
    found = find_mix(
        source,
        out,
        read_questions(questions),
        limit=limit,
        max_new_tokens=max_new_tokens,
        budget=budget,
        context=context,
        revision=revision or None,
        threads=threads,
        overwrite=overwrite,
        on_trial=lambda name, trial: errors.print(
            f"{name}: KL {trial.kl.value:.5f}, {trial.bytes / 1e6:.2f} MB", style="dim", markup=False
        ),
        on_file=functools.partial(say_fetching, errors),
    )
    if json_file is not None:
        write_json(json_file, found.to_json())
    if json_file != "-":
        console.print(mix_table(found))
        console.print(f"{found.artifact}: built from {found.recipe}", markup=False, soft_wrap=True)


@app.command(epilog="Example: edge-export synth llama-3.2-1b-instruct --out runs/llama-1b-shape")
def synth(
    model_id: Annotated[
        str,
        typer.Argument(
            help="A hub model whose shape is known (see `edge models`).", autocompletion=complete_models
        ),
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to make.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights.")] = 0,
) -> None:
    """Write a checkpoint of a model's exact shape with random weights, to measure speed and memory without
    the hub."""
    made = synthesise(model_id, out, seed=seed)
    size = sum(path.stat().st_size for path in made.iterdir()) / 1e9
    console.print(
        f"{made}: {size:.1f} GB of random weights; what it answers means nothing",
        markup=False,
        soft_wrap=True,
    )


@app.command(epilog="Example: edge-export reference nano-llama --out models/nano-llama/reference")
def reference(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    revision: Annotated[
        str, typer.Option(help="Commit, branch or tag of a hub model (default: main).")
    ] = "",
) -> None:
    """Export through optimum with raw attentions and hidden states, in float32; needs
    edgetrace[reference]."""
    made = make_reference(
        source,
        out,
        revision=revision or None,
        on_file=functools.partial(say_fetching, console),
    )
    size = sum(record.size for record in made.files.values()) / 1e6
    console.print(
        f"{out}: {size:.1f} MB; hidden_states.{made.layers} is taken {made.last_hidden} the final norm",
        markup=False,
        soft_wrap=True,
    )


@app.command(epilog="Example: edge-export verify models/nano-llama --reference models/nano-llama/reference")
def verify(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="One artifact folder, or a folder of them by precision.")
    ],
    source: Annotated[
        str, typer.Option(help="The checkpoint: folder or known model (embedded ones are found).")
    ] = "",
    reference: Annotated[Path | None, typer.Option(help="Folder of `edge-export reference`.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer, not the worst alone.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads (default: all this process may use).", min=1)
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write the result as JSON (- for standard output).")
    ] = None,
) -> None:
    """Compare artifacts with their checkpoint and store the verdict in their manifests; exits with 1 when
    one fails."""
    check_json(json_file)
    results = verify_artifacts(
        folder,
        source=source or None,
        reference=reference,
        threads=threads,
        on_start=lambda name: errors.print(f"{name} ...", style="dim", markup=False),
        on_file=functools.partial(say_fetching, errors),
    )
    if json_file is not None:
        write_json(
            json_file,
            [{"path": str(r.path), "label": r.label, "notice": r.notice, **r.record()} for r in results],
        )
    if json_file != "-":
        for result in results:
            console.print(verdict_table(result, layers=layers))
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def main() -> None:
    run_app(app)
