"""The manifest of an artifact that is to be built, and whether the one already there is the same."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path

import edge
from edge.artifact import MANIFEST_NAME, TEMPLATE_NAME, TOKENIZER_NAME, Artifact, Manifest, ModelSpec
from edge.errors import UserError
from edge.precision import LLAMA_CPP, ONNX
from edge.runs.job_directory import differences
from export.checkpoint import Checkpoint
from export.graph.config import DecoderConfig
from export.precision import ACCURACY_LEVEL, BLOCK_SIZE, WIDE_BITS, Target
from export.source import Source
from export.tokenizer import TokenizerFiles

VERSIONS_OF = {
    ONNX: ("onnx", "onnxruntime", "numpy", "safetensors", "tokenizers"),
    LLAMA_CPP: ("gguf", "llama-cpp-python", "numpy", "safetensors", "tokenizers"),
}


def manifest_of(
    origin: Source,
    checkpoint: Checkpoint,
    config: DecoderConfig,
    tokenizer: TokenizerFiles,
    to: Target,
    taps: str,
    digest: str,
) -> Manifest:
    """The manifest as far as it is known before anything is written: no files, no tensor types."""
    return Manifest(
        model_id=origin.model_id,
        source=origin.name,
        revision=origin.revision,
        precision=to.precision.name,
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
        versions={name: importlib.metadata.version(name) for name in VERSIONS_OF[to.precision.backend]}
        | {"edgetrace": edge.__version__},
        notice=origin.notice,
        tokenizer_rules=tokenizer.rules,
        source_types=checkpoint.tensor_types,
    )


def quantization(to: Target) -> dict[str, int]:
    """The settings of quantisation, for the manifest; empty where weights are not quantised."""
    if not to.precision.quantized:
        return {}
    if to.precision.backend == LLAMA_CPP:
        return {"file_type": to.precision.file_type}
    wide = dict.fromkeys(to.wide, WIDE_BITS)
    return {"bits": to.precision.bits, "block_size": BLOCK_SIZE, "accuracy_level": ACCURACY_LEVEL} | wide


def existing(folder: Path, wanted: Manifest, tokenizer: TokenizerFiles, overwrite: bool) -> Artifact | None:
    """The artifact already in the folder if it is the one wanted; raises UserError if it is another one.

    `overwrite` replaces an artifact, whole or damaged, and nothing else.
    """
    if not folder.exists():
        return None
    if not (folder / MANIFEST_NAME).is_file():
        raise UserError(f"{folder} is there and is no artifact: remove it or give another --out")
    if overwrite:
        return None
    try:
        built = Artifact.open(folder)
    except UserError as error:
        raise UserError(f"{error}, with --force to replace it") from error
    same = dataclasses.replace(
        wanted,
        files=built.manifest.files,
        tensor_types=built.manifest.tensor_types,
        # A newer numpy is no reason to build again: our own version alone decides what is in the files.
        versions={**built.manifest.versions, "edgetrace": wanted.versions["edgetrace"]},
        verification=built.manifest.verification,
        tokenizer=built.manifest.tokenizer,
    )
    differing = differences(json.loads(built.manifest.to_json()), json.loads(same.to_json()))
    # The checkpoint's digest covers config and weights; these two files follow from others.
    copied = {
        TOKENIZER_NAME: tokenizer.content.encode(),
        TEMPLATE_NAME: tokenizer.chat_template.encode(),
    }
    for name, content in copied.items():
        record = built.manifest.files.get(name)
        if (record.sha256 if record else "") != (hashlib.sha256(content).hexdigest() if content else ""):
            differing.append(name)
    if differing:
        raise UserError(
            f"{folder} holds another artifact ({built.label}, it differs in {', '.join(differing)}): give "
            "another --out, or --force to replace it"
        )
    return built
