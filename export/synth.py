"""Writes a checkpoint of a real model's exact shape with seeded random weights.

It serves to measure speed, memory and limits without the hub; its answers mean nothing. Weights are written
one layer a shard, so that no more than one matrix of the embedding's size is in memory.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import pre_tokenizers

from edge.errors import UserError
from edge.registry import RegistryEntry, Shape, read_registry
from export.graph.architectures import CONVERSIONS, read_config
from export.graph.config import DecoderConfig
from export.graph.tensors import EMBEDDING, FINAL_NORM, HEAD, layer_shapes
from export.tokenizer_forms import bpe
from export.tokenizer_rules import PLAIN

SPREAD = 0.02  # the standard deviation of such models' weights before training
INDEX_NAME = "model.safetensors.index.json"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
Tensors = dict[str, npt.NDArray[Any]]


def synth(model_id: str, out: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint folder of a hub model's shape to `out` (BF16, twice the parameters in bytes).

    Raises UserError when the model is unknown or embedded, when `out` is there already, or cannot be
    written; nothing half-written is left.
    """
    registry = read_registry()
    entry = registry.get(model_id)
    if entry is None or entry.shape is None:
        known = ", ".join(e.model_id for e in registry.values() if e.shape is not None)
        raise UserError(f"{model_id!r} is not a model whose shape is known: choose from {known}")
    if out.exists():
        raise UserError(f"{out} is there already: remove it or give another --out")
    working = out.with_name(f".{out.name}.making")
    shutil.rmtree(working, ignore_errors=True)
    try:
        working.mkdir(parents=True)
        config = config_of(entry, entry.shape)
        write_json(working / "config.json", config)
        write_json(working / "generation_config.json", {"eos_token_id": list(entry.stop_ids)})
        write_json(
            working / "tokenizer.json", tokenizer_of(entry.shape.vocabulary, entry.stop_ids), indent=None
        )
        settings = {"tokenizer_class": PLAIN, "chat_template": TEMPLATE}
        write_json(working / "tokenizer_config.json", settings)
        write_weights(working, read_config(config, entry.shape.context), seed)
        working.rename(out)
    except OSError as error:
        raise UserError(
            f"cannot write {out} ({error.strerror or error}): free space or give another --out"
        ) from error
    finally:
        shutil.rmtree(working, ignore_errors=True)  # gone already when all went well
    return out


def write_json(path: Path, value: Any, indent: int | None = 2) -> None:
    path.write_text(json.dumps(value, indent=indent, ensure_ascii=False), encoding="utf-8")


def config_of(entry: RegistryEntry, shape: Shape) -> dict[str, Any]:
    """config.json in transformers 4's form, from the registry's facts."""
    config: dict[str, Any] = {
        "architectures": [CONVERSIONS[entry.model_type].model_class],
        "model_type": entry.model_type,
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "tie_word_embeddings": shape.tied,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "eos_token_id": list(entry.stop_ids),
        "torch_dtype": "bfloat16",
    }
    if shape.llama3_factor:
        config["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": shape.llama3_factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    return config | CONVERSIONS[entry.model_type].own_keys(shape)


def shards(config: DecoderConfig, seed: int) -> Iterator[Tensors]:
    """The tensors file by file: embedding, each layer, the rest."""
    rng = np.random.default_rng(seed)
    norm = 1.0 - config.norm_offset  # what a layer multiplies by is 1

    def draw(name: str, size: tuple[int, ...]) -> npt.NDArray[Any]:
        if len(size) == 1 and not name.endswith("bias"):
            return np.full(size, norm, ml_dtypes.bfloat16)
        weights = np.empty(size, ml_dtypes.bfloat16)
        # The float32 numbers of a whole embedding would take twice its size.
        for start in range(0, size[0], 8192):
            part = weights[start : start + 8192]
            part[...] = rng.standard_normal(part.shape, np.float32) * np.float32(SPREAD)
        return weights

    table = (config.vocabulary, config.hidden)
    yield {EMBEDDING: draw("embedding", table)}
    for layer in range(config.layers):
        yield {
            f"model.layers.{layer}.{name}": draw(name, size) for name, size in layer_shapes(config).items()
        }
    last: Tensors = {FINAL_NORM: draw("norm", (config.hidden,))}
    if not config.tied:
        last[HEAD] = draw("head", table)
    yield last


def write_weights(folder: Path, config: DecoderConfig, seed: int) -> None:
    count, total = config.layers + 2, 0
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards(config, seed), 1):
        name = f"model-{number:05d}-of-{count:05d}.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def stop_token(token_id: int) -> str:
    return f"<|stop_{token_id}|>"


def tokenizer_of(vocabulary: int, stop_ids: tuple[int, ...]) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE with as many entries as the model has rows: bytes, pairs of bytes,
    triples.

    Every text can be encoded and every id decoded, as with the real one; which ids come out means nothing.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = ((a, b) for a in letters for b in letters)
    triples = ((a + b, c) for a in letters for b in letters for c in letters)
    words = itertools.chain(
        ((letter, None) for letter in letters), ((a + b, (a, b)) for a, b in itertools.chain(pairs, triples))
    )
    vocab: dict[str, int] = {}
    merges: list[list[str]] = []
    for token_id in range(vocabulary):
        if token_id in stop_ids:
            vocab[stop_token(token_id)] = token_id  # an added token that is no entry would get another id
            continue
        word, merge = next(words)
        vocab[word] = token_id
        if merge is not None:
            merges.append(list(merge))
    added = [
        {
            "id": i,
            "content": stop_token(i),
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i in sorted(stop_ids)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": bpe(vocab, merges),
    }
