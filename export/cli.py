"""The commands of `edge-export`: from a checkpoint to artifacts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated

import typer

from edge.cli.common import check_json, console, errors, print_note, write_json
from edge.cli.completion import complete_models
from edge.cli.guard import run_app
from edge.cli.options import JsonFile, Limit, MaxNewTokens, Threads
from edge.precision import PRECISIONS
from edge.questions.question import EMBEDDED, read_questions
from export.app import app
from export.build import DEFAULT_CONTEXT
from export.build import build as build_artifacts
from export.mix import find as find_mix
from export.mix import table as mix_table
from export.recipe import foreign, read_recipe
from export.reference import reference as make_reference
from export.screen import WriteBar, agree_to, say_fetching
from export.synth import synth as synthesise
from export.verdict import table as verdict_table
from export.verify import verify as verify_artifacts

Source = Annotated[
    str,
    typer.Argument(
        help="A known model (see `edge models`), a checkpoint folder or a GGUF file.",
        autocompletion=complete_models,
    ),
]
HubModel = Annotated[
    str,
    typer.Argument(
        help="A known model that is fetched (see `edge models`).", autocompletion=complete_models
    ),
]
ArtifactFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="One artifact folder, or a folder of them by precision.")
]
Precisions = Annotated[
    list[str], typer.Option(help=f"Precision, may be given again: {', '.join(PRECISIONS)}.")
]
Taps = Annotated[
    str,
    typer.Option(
        help="none: logits alone; rows: also attention and hidden states; raw: another name for rows, "
        "which will go."
    ),
]
Context = Annotated[int, typer.Option(help="Largest number of positions to build for.")]
Revision = Annotated[str, typer.Option(help="Commit, branch or tag of a hub model (default: main).")]
SameRevision = Annotated[
    str, typer.Option(help="Commit, branch or tag of a hub model (default: as before, or main).")
]
RecipeFile = Annotated[Path | None, typer.Option(help="What `edge-export mix` found, for onnx-int4-mixed.")]
Yes = Annotated[bool, typer.Option("--yes", help="Fetch what is larger than 0.5 GB without asking.")]
Overwrite = Annotated[bool, typer.Option("--force", help="Replace an artifact that is already there.")]


def build(
    source: Source,
    to: Precisions,
    out: Annotated[Path, typer.Option(help="Folder in which PRECISION/ is made.")],
    taps: Taps = "rows",
    context: Context = DEFAULT_CONTEXT,
    revision: SameRevision = "",
    recipe: RecipeFile = None,
    overwrite: Overwrite = False,
    yes: Yes = False,
) -> None:
    """The command `edge-export build`; its help is in export/app.py."""
    known = read_recipe(recipe) if recipe else None
    with WriteBar() as bar:
        results = build_artifacts(
            source,
            to,
            out,
            taps=taps,
            context=context,
            overwrite=overwrite,
            revision=revision or None,
            wide=known.wide if known else (),
            on_start=bar.on_start,
            on_file=functools.partial(say_fetching, console),
            agree=agree_to(yes),
            on_note=print_note,
            on_bytes=bar.on_bytes,
        )
    for result in results:
        path, manifest = result.artifact.path, result.artifact.manifest
        how = "already built" if result.reused else f"built in {result.seconds:.1f} s"
        console.print(f"{path}: {how}, {manifest.size / 1e6:.1f} MB", markup=False, soft_wrap=True)
        if known and foreign(known, manifest):
            print_note(
                f"{recipe} was found for another checkpoint ({known.model_id}): search for this one with "
                "'edge-export mix'"
            )


def mix(
    source: Source,
    out: Annotated[
        Path, typer.Option(help="Folder in which onnx-int4-mixed/ and the search's log are made.")
    ],
    questions: Annotated[
        Path, typer.Option(help="CSV of questions to calibrate on: not those you will judge by.")
    ] = EMBEDDED,
    limit: Limit = None,
    max_new_tokens: MaxNewTokens = 64,
    budget: Annotated[float, typer.Option(help="Size allowed, as a multiple of onnx-int4's.")] = 1.15,
    context: Context = DEFAULT_CONTEXT,
    revision: Revision = "",
    threads: Threads = None,
    overwrite: Overwrite = False,
    yes: Yes = False,
    json_file: JsonFile = None,
) -> None:
    """The command `edge-export mix`; its help is in export/app.py."""
    check_json(json_file)
    result = find_mix(
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
        agree=agree_to(yes),
    )
    if json_file is not None:
        write_json(json_file, result.to_json())
    if json_file != "-":
        console.print(mix_table(result))
        console.print(f"{result.artifact}: built from {result.recipe}", markup=False, soft_wrap=True)


def synth(
    model_id: HubModel,
    out: Annotated[Path, typer.Option(help="Checkpoint folder to make.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights.")] = 0,
) -> None:
    """The command `edge-export synth`; its help is in export/app.py."""
    folder = synthesise(model_id, out, seed=seed)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e9
    console.print(
        f"{folder}: {size:.1f} GB of random weights; what it answers means nothing",
        markup=False,
        soft_wrap=True,
    )


def reference(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    revision: Revision = "",
    yes: Yes = False,
) -> None:
    """The command `edge-export reference`; its help is in export/app.py."""
    on_file = functools.partial(say_fetching, console)
    result = make_reference(source, out, revision=revision or None, on_file=on_file, agree=agree_to(yes))
    size = sum(record.size for record in result.files.values()) / 1e6
    console.print(
        f"{out}: {size:.1f} MB; hidden_states.{result.layers} is taken {result.last_hidden} the final norm",
        markup=False,
        soft_wrap=True,
    )


def verify(
    folder: ArtifactFolder,
    source: Annotated[
        str, typer.Option(help="The checkpoint: folder or known model (embedded ones are found).")
    ] = "",
    reference: Annotated[Path | None, typer.Option(help="Folder of `edge-export reference`.")] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer, not the worst alone.")] = False,
    threads: Threads = None,
    yes: Yes = False,
    json_file: JsonFile = None,
) -> None:
    """The command `edge-export verify`; its help is in export/app.py."""
    check_json(json_file)
    results = verify_artifacts(
        folder,
        source=source or None,
        reference=reference,
        threads=threads,
        on_start=lambda name: errors.print(f"{name} ...", style="dim", markup=False),
        on_file=functools.partial(say_fetching, errors),
        agree=agree_to(yes),
    )
    if json_file is not None:
        write_json(json_file, [result.to_json() for result in results])
    if json_file != "-":
        for result in results:
            console.print(verdict_table(result, layers=layers))
    if not all(result.passed for result in results):
        raise typer.Exit(1)


def main() -> None:
    run_app(app)
