"""The files of a GGUF artifact: the checkpoint converted, and quantised by llama.cpp's own quantiser."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from edge.artifact import TOKENIZER_NAME
from edge.backends.llama_header import Header
from edge.backends.llama_library import captured_log, llama_cpp
from edge.errors import UserError
from edge.machine.processors import usable_cores
from edge.precision import GGUF_NAME, Precision
from export.checkpoint import Checkpoint
from export.gguf_model import F16, F32, KINDS, Kind, write
from export.gguf_tokenizer import Vocabulary, prove, read_vocabulary
from export.graph.config import DecoderConfig
from export.graph.tensors import all_shapes
from export.tokenizer import TokenizerFiles

SOURCE_NAME = ".unquantised.gguf"
QUANTISER_BYTES = 64_000_000  # rows that the quantiser holds at once; more is no faster
LOOK_EVERY = 0.25  # seconds between two looks at how far it is


class Written(NamedTuple):
    """The part of a manifest that a GGUF file gives: tensors by type, and its tokenizer."""

    tensor_types: dict[str, int]
    tokenizer: dict[str, str]


def source_kind(checkpoint: Checkpoint, config: DecoderConfig, to: Precision) -> Kind:
    """The type in which matrices are written first: the precision's own, or one to quantise from."""
    if not to.quantized:
        return F16 if to.bits == 16 else F32
    types = {checkpoint.dtype(name) for name, shape in all_shapes(config).items() if len(shape) > 1}
    return KINDS[types.pop()] if len(types) == 1 else F32


def source_bytes(checkpoint: Checkpoint, config: DecoderConfig, to: Precision) -> int:
    """Bytes of the file that stands beside the artifact while it is quantised; 0 where there is none."""
    if not to.quantized:
        return 0
    size = source_kind(checkpoint, config, to).size
    return sum(math.prod(shape) * size for shape in all_shapes(config).values())


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

    `name` is what the file calls the model. `on_bytes` is called with the bytes written so far, of both
    files where there are two.
    """
    vocabulary = provable(checkpoint, config, tokenizer, folder, name)
    kind, target = source_kind(checkpoint, config, to), folder / GGUF_NAME
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
    """The vocabulary to write; its tokenizer is kept if llama.cpp then gives tokenizer.json's ids."""
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
        reason = prove(trial, folder / TOKENIZER_NAME, vocabulary.added())
    except UserError as error:
        reason = f"llama.cpp cannot read the tokenizer ({error})"
    finally:
        trial.unlink(missing_ok=True)
    return vocabulary.without(reason) if reason else vocabulary


def quantise(source: Path, target: Path, to: Precision, on_bytes: Callable[[int], None]) -> None:
    """Quantises a file with llama.cpp; raises UserError with its own message when it fails.

    `on_bytes` is called now and then with the bytes of the target so far.
    """
    lib = llama_cpp()
    params = lib.llama_model_quantize_default_params()
    params.ftype = to.file_type
    params.nthread = usable_cores()
    params.max_buf_size = QUANTISER_BYTES
    with captured_log() as log, ThreadPoolExecutor(1) as beside:
        quantising = beside.submit(
            lib.llama_model_quantize, os.fsencode(source), os.fsencode(target), params
        )
        while wait([quantising], LOOK_EVERY).not_done:
            if target.is_file():
                on_bytes(target.stat().st_size)
    if quantising.result():
        lines = [" ".join(line.split()) for line in log.lines]
        detail = next(
            (line for line in reversed(lines) if "fail" in line or "error" in line.lower()), log.first()
        )
        raise UserError(
            f"llama.cpp cannot make {to.name} ({detail[:200]}): free space, or build another precision"
        )
    on_bytes(target.stat().st_size)
