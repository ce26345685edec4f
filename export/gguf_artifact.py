"""The files of a GGUF artifact: the checkpoint converted, and quantised by llama.cpp's own quantiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from edge.backends.llama_header import Header
from edge.backends.llama_library import captured_log, llama_cpp
from edge.errors import UserError
from edge.machine.device import usable_cores
from edge.precision import GGUF_NAME, Precision
from export.checkpoint import Checkpoint
from export.gguf_model import F16, F32, KINDS, Kind, write
from export.gguf_tokenizer import Vocabulary, prove, read_vocabulary
from export.graph.config import DecoderConfig
from export.tokenizer import TokenizerFiles

SOURCE_NAME = ".unquantised.gguf"
QUANTISER_BYTES = 64_000_000  # rows that the quantiser holds at once; more is no faster
LOOK_EVERY = 0.25  # seconds between two looks at how far it is


class Written(NamedTuple):
    """What the manifest keeps of a GGUF file: tensors by type, how it holds the tokenizer."""

    tensor_types: dict[str, int]
    tokenizer: dict[str, str]


def source_kind(checkpoint: Checkpoint, to: Precision) -> Kind:
    """How matrices are written first: as asked for, or in what the checkpoint has, so that quantising starts
    from all of it."""
    if not to.quantized:
        return F16 if to.bits == 16 else F32
    found = {checkpoint.dtype(name) for name in checkpoint.names() if len(checkpoint.shape(name)) > 1}
    return KINDS[found.pop()] if len(found) == 1 else F32


def source_bytes(checkpoint: Checkpoint, to: Precision) -> int:
    """Bytes of the file that stands beside the artifact while it is quantised; 0 where there is none."""
    if not to.quantized:
        return 0
    size = source_kind(checkpoint, to).size
    return sum(math.prod(checkpoint.shape(name)) * size for name in checkpoint.names())


def write_files(
    checkpoint: Checkpoint,
    config: DecoderConfig,
    tokenizer: TokenizerFiles,
    to: Precision,
    folder: Path,
    on_bytes: Callable[[int], None],
    *,
    name: str,
) -> Written:
    """Writes model.gguf into the folder; raises UserError when llama.cpp cannot compute, hold or quantise
    the model.

    `name` is what the file calls the model. `on_bytes` hears the bytes written so far, of both files where
    there are two.
    """
    vocabulary = provable(checkpoint, config, tokenizer, folder, name)
    kind, target = source_kind(checkpoint, to), folder / GGUF_NAME
    if not to.quantized:
        write(checkpoint, config, vocabulary, kind, target, on_bytes, name=name)
    else:
        source = folder / SOURCE_NAME
        try:
            write(checkpoint, config, vocabulary, kind, source, on_bytes, name=name)
            written = source.stat().st_size
            quantise(source, target, to, lambda done: on_bytes(written + done))
        finally:
            source.unlink(missing_ok=True)
    with Header(target) as header:
        return Written(header.tensor_types(), vocabulary.describe())


def provable(
    checkpoint: Checkpoint, config: DecoderConfig, tokenizer: TokenizerFiles, folder: Path, name: str
) -> Vocabulary:
    """The vocabulary to write: with a tokenizer only if llama.cpp then gives tokenizer.json's ids for the
    corpus."""
    vocabulary = read_vocabulary(tokenizer, config.vocabulary, checkpoint.config.get("bos_token_id"))
    if vocabulary.model == "none":
        return vocabulary
    trial = folder / ".vocabulary.gguf"
    try:
        write(
            checkpoint,
            config,
            vocabulary,
            F32,
            trial,
            lambda done: None,
            name=name,
            weights=False,
        )
        reason = prove(trial, tokenizer)
    except UserError as error:
        reason = f"llama.cpp cannot read the tokenizer ({error})"
    finally:
        trial.unlink(missing_ok=True)
    return vocabulary.without(reason) if reason else vocabulary


def quantise(source: Path, target: Path, to: Precision, on_bytes: Callable[[int], None]) -> None:
    """llama.cpp's quantiser from one file to another; raises UserError with its own word when it fails.

    `on_bytes` hears now and then how large the target has become.
    """
    lib = llama_cpp()
    params = lib.llama_model_quantize_default_params()
    params.ftype = to.file_type
    params.nthread = usable_cores()
    params.max_buf_size = QUANTISER_BYTES
    with captured_log() as log, ThreadPoolExecutor(1) as beside:
        made = beside.submit(lib.llama_model_quantize, str(source).encode(), str(target).encode(), params)
        while wait([made], LOOK_EVERY).not_done:
            if target.is_file():
                on_bytes(target.stat().st_size)
    if made.result():
        said = [" ".join(line.split()) for line in log.lines]
        detail = next(
            (line for line in reversed(said) if "fail" in line or "error" in line.lower()), log.first()
        )
        raise UserError(
            f"llama.cpp cannot make {to.name} ({detail[:200]}): free space, or build another precision"
        )
    on_bytes(target.stat().st_size)
