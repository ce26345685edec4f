"""Builds artifact folders from a checkpoint; each is whole or absent."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from edge.artifact import MANIFEST_NAME, TAPS, TEMPLATE_NAME, TOKENIZER_NAME, Artifact, Manifest, record_file
from edge.backends.llama_library import llama_cpp
from edge.errors import OnNote, UserError, ignore
from edge.precision import LLAMA_CPP, MIXED, Precision
from export.checkpoint import DTYPES, Checkpoint
from export.download import Agree, refuse
from export.graph.architectures import read_config
from export.graph.config import DecoderConfig
from export.graph.tensors import all_shapes
from export.manifest import existing, manifest_of
from export.precision import Target, groups_of, mixed, precision
from export.source import Source, open_checkpoint, pinned, resolve
from export.space import build_bytes, check_space
from export.tokenizer import TokenizerFiles, read_tokenizer
from export.tokenizer_probe import check_prompts

DEFAULT_CONTEXT = 4096


class Built(NamedTuple):
    """A finished artifact; `reused` when it was there already, `seconds` that this call took for it."""

    artifact: Artifact
    seconds: float
    reused: bool


class Model(NamedTuple):
    """The source of an artifact: the open checkpoint, its decoder and its tokenizer."""

    checkpoint: Checkpoint
    config: DecoderConfig
    tokenizer: TokenizerFiles


def build(
    source: str,
    precisions: list[str],
    out: Path,
    *,
    taps: str = "rows",
    context: int = DEFAULT_CONTEXT,
    overwrite: bool = False,
    revision: str | None = None,
    wide: Sequence[str] = (),
    on_start: Callable[[str], None] = ignore,
    on_file: Callable[[str, int], None] = ignore,
    agree: Agree = refuse,
    on_note: OnNote = ignore,
    on_bytes: Callable[[int, int], None] = ignore,
) -> list[Built]:
    """Builds out/PRECISION/ for each precision; raises UserError before anything is written when the input
    is bad.

    `wide` are the groups of matrices that onnx-int4-mixed keeps in 8 bits (export/mix.py finds them).
    `revision` chooses a commit of a hub model (default: the one that `out` was built from before, else the
    head of main). `on_start` is called with each precision, `on_file` with each download, `on_note` with
    each difference from the registry's facts. `agree` decides on a large download. `on_bytes` is called
    with the bytes of weights written and their total, temporary files included.
    """
    wanted = [precision(name) for name in dict.fromkeys(precisions)]
    check_choices(wanted, taps, context, wide)
    if taps == "raw":
        on_note("--taps raw is another name for --taps rows and will go: leave --taps out")
    origin = resolve(source, revision=revision or pinned(source, out), on_file=on_file, agree=agree)
    for difference in origin.differences:
        on_note(difference)
    results, told = [], set[str]()

    def note_once(note: str) -> None:
        if note not in told:
            told.add(note)
            on_note(note)

    with open_checkpoint(origin) as checkpoint:
        config = read_config(checkpoint.config, context)
        for name, shape in all_shapes(config).items():
            checkpoint.check_shape(name, shape)
        if any(row.backend == LLAMA_CPP for row in wanted):
            check_llama(config)
        model = Model(checkpoint, config, read_tokenizer(checkpoint, config.vocabulary))
        for note in (*model.tokenizer.notes, *quantised_source(origin, checkpoint)):
            on_note(note)
        digest = checkpoint.sha256()
        for row in wanted:
            to = mixed(wide, groups_of(checkpoint, config)) if row.name == MIXED else Target(row)
            on_start(row.name)
            started = time.perf_counter()
            manifest = manifest_of(origin, checkpoint, config, model.tokenizer, to, taps, digest)
            folder = out / row.name
            artifact = existing(folder, manifest, model.tokenizer, overwrite)
            reused = artifact is not None
            if artifact is None:
                total = build_bytes(checkpoint, config, to)
                check_space(out, total, row.backend)
                write(model, to, manifest, folder, within(on_bytes, total), note_once)
                artifact = Artifact.open(folder, verify=False)
            results.append(Built(artifact, time.perf_counter() - started, reused))
    return results


def quantised_source(origin: Source, checkpoint: Checkpoint) -> tuple[str, ...]:
    """A note where the weights were quantised before: no precision brings back what that lost."""
    types = [name for name in sorted(checkpoint.tensor_types) if name not in DTYPES]
    if not types:
        return ()
    return (
        f"{origin.path.name} holds weights in {', '.join(types)}: full precision is what the file has, not "
        "what the model was trained in",
    )


def check_choices(wanted: Sequence[Precision], taps: str, context: int, wide: Sequence[str]) -> None:
    """Raises UserError for choices that do not go together."""
    if taps not in TAPS:
        raise UserError(f"unknown taps {taps!r}: choose from {', '.join(TAPS)}")
    if taps == "raw" and any(row.backend == LLAMA_CPP for row in wanted):
        raise UserError(
            "--taps raw is for ONNX graphs alone, where it is another name for rows: leave --taps out"
        )
    if bool(wide) != any(row.name == MIXED for row in wanted):
        raise UserError(
            f"{MIXED} and a recipe go together: give --recipe FILE with it, from 'edge-export mix', and "
            "with it alone"
        )
    if context < 1:
        raise UserError(f"--context is {context}: a positive number of positions is needed")


def check_llama(config: DecoderConfig) -> None:
    """Raises UserError when llama.cpp's libraries are missing, or its graph is not the model's."""
    from export import gguf_model

    gguf_model.gguf_package()
    gguf_model.check_config(config)
    llama_cpp()


def within(on_bytes: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    """Limits the bytes reported to `total`: alignment may make the file a little larger."""
    return lambda done: on_bytes(min(done, total), total)


def write(
    model: Model,
    to: Target,
    manifest: Manifest,
    folder: Path,
    on_bytes: Callable[[int], None] = ignore,
    on_note: OnNote = ignore,
) -> None:
    """Writes the folder under a temporary name and renames it, so that a killed build leaves none.

    `on_note` is told when chat prompts cannot be made with what was written.
    """
    working = folder.parent / f".{folder.name}.building"
    new_parent = not folder.parent.exists()
    if working.exists():
        shutil.rmtree(working)
    try:
        working.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent} ({error.strerror}): give another --out") from error
    try:
        (working / TOKENIZER_NAME).write_bytes(model.tokenizer.content.encode())
        known = write_model(model, to, manifest, working, on_bytes)
        if known.tokenizer.get("model") == "none":
            on_note(
                f"{to.precision.name} holds no tokenizer for other programs ({known.tokenizer['reason']}); "
                "edge encodes with tokenizer.json beside it"
            )
        if model.tokenizer.chat_template:
            (working / TEMPLATE_NAME).write_bytes(model.tokenizer.chat_template.encode())
        files = {path.name: record_file(path) for path in sorted(working.iterdir())}
        whole = dataclasses.replace(known, files=files)
        (working / MANIFEST_NAME).write_text(whole.to_json(), encoding="utf-8")
        check_prompts(Artifact(working, whole), model.tokenizer, on_note)
        for path in working.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        working.rename(folder)
    except BaseException as error:
        shutil.rmtree(working, ignore_errors=True)
        if new_parent:
            with suppress(OSError):
                folder.parent.rmdir()
        if isinstance(error, OSError):
            raise UserError(
                f"cannot write {folder} ({error.strerror or error}): free space or give another --out"
            ) from error
        raise


def write_model(
    model: Model, to: Target, manifest: Manifest, folder: Path, on_bytes: Callable[[int], None]
) -> Manifest:
    """Writes the model's own files and gives the completed manifest.

    Each backend's library is imported only where it is needed.
    """
    checkpoint, config, tokenizer = model
    if to.precision.backend == LLAMA_CPP:
        from export import gguf_artifact

        written = gguf_artifact.write_files(
            checkpoint, config, tokenizer, to.precision, folder, on_bytes, name=manifest.model_id
        )
        return dataclasses.replace(manifest, tensor_types=written.tensor_types, tokenizer=written.tokenizer)
    from export import onnx_artifact

    tensor_types = onnx_artifact.write_files(checkpoint, config, to, manifest.taps, folder, on_bytes)
    return dataclasses.replace(manifest, tensor_types=tensor_types)
