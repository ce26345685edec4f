"""From a checkpoint to artifact folders, each whole or absent."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import edge
from edge.artifact import (
    LLAMA_CPP,
    MANIFEST_NAME,
    ONNX,
    TAPS,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
    Artifact,
    Manifest,
    ModelSpec,
    record_file,
)
from edge.backends.llama_library import llama_cpp
from edge.errors import OnNote, UserError, ignore
from edge.machine.device import available_memory
from edge.runs.job_directory import differences
from export.checkpoint import Checkpoint
from export.graph import read_config
from export.graph.config import DecoderConfig
from export.precision import MIXED, WIDE_BITS, Precision, group, mixed, precision
from export.source import Source, pinned, resolve
from export.tokenizer import TokenizerFiles, read_tokenizer

DEFAULT_CONTEXT = 4096
DISK_MARGIN = 100_000_000  # bytes beside the weights: graph, tokenizer, alignment, and some left for others
# Bytes that a build holds at most, by backend (docs/performance.md). For GGUF the tokenizer decides: gemma's
# has 262144 tokens.
BUILD_MEMORY = {ONNX: 600_000_000, LLAMA_CPP: 800_000_000}
VERSIONS_OF = {
    ONNX: ("onnx", "onnxruntime", "numpy", "safetensors", "tokenizers"),
    LLAMA_CPP: ("gguf", "llama-cpp-python", "numpy", "safetensors", "tokenizers"),
}


class Built(NamedTuple):
    """One finished artifact; `reused` when it was there already, `seconds` the time this call took for
    it."""

    artifact: Artifact
    seconds: float
    reused: bool


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
    on_note: OnNote = ignore,
    on_bytes: Callable[[int, int], None] = ignore,
) -> list[Built]:
    """Builds out/PRECISION/ for each precision; raises UserError before anything is written when the input
    is bad.

    `wide` are the groups of matrices that onnx-int4-mixed keeps in 8 bits (export/mix.py finds them).
    `revision` chooses a commit of a hub model (default: the one that `out` was built from before, else the
    head of main). `on_start` hears each precision, `on_file` each download, `on_note` what differs from the
    registry's facts, `on_bytes` how many bytes of weights of how many are written, those that only stand
    there for a while among them.
    """
    wanted = [precision(name) for name in dict.fromkeys(precisions)]
    if taps not in TAPS:
        raise UserError(f"unknown taps {taps!r}: choose from {', '.join(TAPS)}")
    if taps == "raw" and any(to.backend == LLAMA_CPP for to in wanted):
        raise UserError(
            "--taps raw is for ONNX graphs, llama.cpp gives rows: leave it out, or build onnx-* alone"
        )
    if bool(wide) != any(to.name == MIXED for to in wanted):
        raise UserError(
            f"{MIXED} and a recipe go together: give --recipe FILE with it, from 'edge-export mix', and "
            f"with it alone"
        )
    if context < 1:
        raise UserError(f"--context is {context}: a positive number of positions is needed")
    origin = resolve(source, revision=revision or pinned(source, out), on_file=on_file)
    for difference in origin.differences:
        on_note(difference)
    results = []
    with Checkpoint(origin.folder) as checkpoint:
        config = read_config(checkpoint.config, context)
        if any(to.backend == LLAMA_CPP for to in wanted):
            check_llama(config)
        tokenizer = read_tokenizer(checkpoint)
        digest = checkpoint.sha256()
        for to in wanted:
            if to.name == MIXED:
                to = mixed(wide, groups_of(checkpoint, config))
            on_start(to.name)
            started = time.perf_counter()
            manifest = manifest_of(origin, config, tokenizer, to, taps, digest)
            target = out / to.name
            artifact = existing(target, manifest, tokenizer, overwrite)
            reused = artifact is not None
            if artifact is None:
                total = weight_bytes(checkpoint, to) + spare_bytes(checkpoint, to)
                check_room(out, total, BUILD_MEMORY[to.backend])
                write(
                    checkpoint,
                    config,
                    tokenizer,
                    to,
                    manifest,
                    target,
                    functools.partial(tell, on_bytes, total),
                )
                artifact = Artifact.open(target, verify=False)
            results.append(Built(artifact, time.perf_counter() - started, reused))
    return results


def manifest_of(
    origin: Source, config: DecoderConfig, tokenizer: TokenizerFiles, to: Precision, taps: str, digest: str
) -> Manifest:
    """The manifest as far as it is known before anything is written: no files, no tensor types."""
    return Manifest(
        model_id=origin.model_id,
        source=origin.hub or origin.folder.name,
        revision=origin.revision,
        precision=to.name,
        taps=taps,
        model=ModelSpec(
            architecture=config.model_type,
            layers=config.layers,
            hidden=config.hidden,
            heads=config.heads,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            vocabulary=config.vocabulary,
            context=config.context,
            windows=config.windows,
            stop_ids=tokenizer.stop_ids,
        ),
        files={},
        checkpoint_sha256=digest,
        tensor_types={},
        quantization=quantization(to),
        special_tokens=tokenizer.special_tokens,
        versions={name: importlib.metadata.version(name) for name in VERSIONS_OF[to.backend]}
        | {"edgetrace": edge.__version__},
        notice=origin.notice,
    )


def quantization(to: Precision) -> dict[str, int]:
    """How weights were quantised, for the manifest; nothing where they were not."""
    if not to.quantized:
        return {}
    if to.backend == LLAMA_CPP:
        return {"file_type": to.file_type}
    chosen = dict.fromkeys(to.wide, WIDE_BITS)
    return {"bits": to.bits, "block_size": to.block_size, "accuracy_level": to.accuracy_level} | chosen


def groups_of(checkpoint: Checkpoint, config: DecoderConfig) -> list[str]:
    """Groups of matrices that a mixed precision chooses among, in the order of the graph."""
    found = {group(name) for name in checkpoint.names()} - {"", *(["lm_head"] if config.tied else [])}
    layers = sorted(
        (name for name in found if "." in name), key=lambda name: (int(name.split(".")[1]), name)
    )
    return [
        *(["embedding"] if "embedding" in found else []),
        *layers,
        *(["lm_head"] if "lm_head" in found else []),
    ]


def check_llama(config: DecoderConfig) -> None:
    """Raises UserError when llama.cpp's libraries are missing, or its graph is not the model's."""
    from export import gguf_model

    gguf_model.gguf_package()
    gguf_model.check_config(config)
    llama_cpp()


def spare_bytes(checkpoint: Checkpoint, to: Precision) -> int:
    """Bytes of what stands beside an artifact only while it is built."""
    if to.backend != LLAMA_CPP:
        return 0
    from export import gguf_artifact

    return gguf_artifact.source_bytes(checkpoint, to)


def tell(on_bytes: Callable[[int, int], None], total: int, done: int) -> None:
    on_bytes(min(done, total), total)  # alignment may carry the file a little beyond


def weight_bytes(checkpoint: Checkpoint, to: Precision) -> int:
    """Bytes that the weights take (estimated for GGUF mixtures)."""
    return int(sum(to.bytes_of(name, checkpoint.shape(name)) for name in checkpoint.names()))


def check_room(out: Path, needed: int, memory: int) -> None:
    """Raises UserError when the disk of `out` is too small for `needed` bytes, or less than `memory` bytes
    are available."""
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed + DISK_MARGIN:
        raise UserError(
            f"{out} needs {(needed + DISK_MARGIN) / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB free: "
            "free space, give another --out, or build fewer bits"
        )
    available = available_memory()
    if available is not None and available < memory:
        raise UserError(
            f"a build needs about {memory / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are "
            f"available: "
            "stop other programs first"
        )


def existing(target: Path, wanted: Manifest, tokenizer: TokenizerFiles, overwrite: bool) -> Artifact | None:
    """The artifact already at `target` if it is the one wanted; raises UserError if it is another one.

    `overwrite` replaces an artifact, whole or damaged, and nothing else.
    """
    if not target.exists():
        return None
    if not (target / MANIFEST_NAME).is_file():
        raise UserError(f"{target} is there and is no artifact: remove it or give another --out")
    if overwrite:
        return None
    try:
        found = Artifact.open(target)
    except UserError as error:
        raise UserError(f"{error}, with --force to replace it") from error
    # A newer numpy is no reason to build again: of the versions only our own decides what is in the files.
    versions = {**found.manifest.versions, "edgetrace": wanted.versions["edgetrace"]}
    known = {
        "files": found.manifest.files,
        "tensor_types": found.manifest.tensor_types,
        "versions": versions,
        "verification": found.manifest.verification,
        "tokenizer": found.manifest.tokenizer,
    }
    same = Manifest(**{**vars(wanted), **known})
    differing = differences(json.loads(found.manifest.to_json()), json.loads(same.to_json()))
    # The checkpoint's digest covers config and weights; these two files are copied as they are.
    copied = {
        TOKENIZER_NAME: tokenizer.tokenizer.read_bytes(),
        TEMPLATE_NAME: tokenizer.chat_template.encode(),
    }
    for name, content in copied.items():
        record = found.manifest.files.get(name)
        if (record.sha256 if record else "") != (hashlib.sha256(content).hexdigest() if content else ""):
            differing.append(name)
    if differing:
        raise UserError(
            f"{target} holds another artifact ({found.label}, it differs in {', '.join(differing)}): "
            "give another --out, or --force to replace it"
        )
    return found


def write(
    checkpoint: Checkpoint,
    config: DecoderConfig,
    tokenizer: TokenizerFiles,
    to: Precision,
    manifest: Manifest,
    target: Path,
    on_bytes: Callable[[int], None] = ignore,
) -> None:
    """Writes the folder under a temporary name and renames it, so that a killed build leaves nothing that
    looks finished."""
    working = target.parent / f".{target.name}.building"
    made = not target.parent.exists()
    if working.exists():
        shutil.rmtree(working)
    try:
        working.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write to {target.parent} ({error.strerror}): give another --out") from error
    try:
        known = write_model(checkpoint, config, tokenizer, to, manifest, working, on_bytes)
        shutil.copyfile(tokenizer.tokenizer, working / TOKENIZER_NAME)
        if tokenizer.chat_template:
            (working / TEMPLATE_NAME).write_bytes(tokenizer.chat_template.encode())
        files = {path.name: record_file(path) for path in sorted(working.iterdir())}
        whole = Manifest(**{**vars(manifest), "files": files, **known})
        (working / MANIFEST_NAME).write_text(whole.to_json(), encoding="utf-8")
        for path in working.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        if target.exists():
            shutil.rmtree(target)
        working.rename(target)
    except BaseException as error:
        shutil.rmtree(working, ignore_errors=True)
        if made:
            with suppress(OSError):
                target.parent.rmdir()
        if isinstance(error, OSError):
            raise UserError(
                f"cannot write {target} ({error.strerror or error}): free space or give another --out"
            ) from error
        raise


def write_model(
    checkpoint: Checkpoint,
    config: DecoderConfig,
    tokenizer: TokenizerFiles,
    to: Precision,
    manifest: Manifest,
    folder: Path,
    on_bytes: Callable[[int], None],
) -> dict[str, dict[str, int] | dict[str, str]]:
    """Writes the model's own files; what is then known for the manifest. Each backend's library is imported
    only for it."""
    if to.backend == LLAMA_CPP:
        from export import gguf_artifact

        made = gguf_artifact.write_files(
            checkpoint, config, tokenizer, to, folder, on_bytes, name=manifest.model_id
        )
        return made._asdict()
    from export import onnx_artifact

    return {
        "tensor_types": onnx_artifact.write_files(checkpoint, config, to, manifest.taps, folder, on_bytes)
    }
