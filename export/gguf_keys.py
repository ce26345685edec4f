"""The keys of a GGUF file as the config.json that a checkpoint of the model would have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge.architectures import Architecture
from edge.errors import UserError
from export.checkpoint import Array
from export.graph.architectures import CONVERSIONS, read_config
from export.graph.config import FULL_LAYER, WINDOW_LAYER, Llama3Scaling, Rope, scale_llama3

EPS = "attention.layer_norm_rms_epsilon"
# llama3's rope scaling as published. The file holds the factors that follow from it.
LOW, HIGH = 1.0, 4.0
ORIGINAL_CONTEXTS = (8192, 2048, 4096, 1024, 512, 256, 128, 64)


class Keys:
    """Typed access to the keys of one file and one architecture; names the key in every complaint."""

    def __init__(self, path: Path, keys: Mapping[str, Any], prefix: str) -> None:
        self.path, self._keys, self._prefix = path, keys, prefix

    def get(self, key: str) -> Any:
        return self._keys.get(f"{self._prefix}.{key}")

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]  # one number for each layer
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{self.path} has {self._prefix}.{key} {value!r}: a number is needed")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if not isinstance(value, int):
            raise UserError(f"{self.path} has {self._prefix}.{key} {value!r}: a whole number is needed")
        return value


def config_of(
    path: Path,
    keys: Mapping[str, Any],
    architecture: Architecture,
    *,
    rows: int,
    tied: bool,
    rope_factors: Array | None,
) -> dict[str, Any]:
    """config.json of the model, as transformers 4 writes it.

    `rows` are those of the embedding, `tied` says that there is no output matrix. `rope_factors`
    [head_dim / 2] divide the frequencies. Raises UserError for a key that is missing or not built.
    """
    read = Keys(path, keys, architecture.gguf)
    hidden, heads, layers = (
        read.integer(key) for key in ("embedding_length", "attention.head_count", "block_count")
    )
    head_dim = read.integer("attention.key_length", hidden // max(heads, 1))
    check_built(read, head_dim)
    config: dict[str, Any] = {
        "model_type": architecture.model_type,
        "architectures": [CONVERSIONS[architecture.model_type].model_class],
        "hidden_size": hidden,
        "intermediate_size": read.integer("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": read.integer("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "vocab_size": rows,
        "max_position_embeddings": read.integer("context_length"),
        # A float32 in the file; its shortest decimal is what config.json said.
        "rms_norm_eps": float(str(np.float32(read.number(EPS)))),
        "rope_theta": float(read.number("rope.freq_base", 10000.0)),
        "tie_word_embeddings": tied,
    }
    if rope_factors is not None:
        config["rope_scaling"] = scaling_of(path, config["rope_theta"], head_dim, rope_factors)
    if architecture.full_every:
        config |= windows_of(read, architecture, layers)
    decoder = read_config(config, 1)
    # Gemma's scale of the scores is no key of the file: llama.cpp knows it.
    config["query_pre_attn_scalar"] = CONVERSIONS[architecture.model_type].score_width(decoder)
    for role in ("bos", "eos"):
        token_id = keys.get(f"tokenizer.ggml.{role}_token_id")
        if isinstance(token_id, int):
            config[f"{role}_token_id"] = token_id
    return config


def check_built(read: Keys, head_dim: int) -> None:
    """Raises UserError, by name, for what the graph does not build."""
    kind = read.get("rope.scaling.type")
    if kind not in (None, "none") and read.number("rope.scaling.factor", 1.0) != 1.0:
        raise UserError(
            f"{read.path} asks for rope scaling {kind!r}, which is not built; those built: none, llama3's "
            "factors"
        )
    if read.integer("rope.dimension_count", head_dim) != head_dim:
        raise UserError(f"{read.path} turns a part of each head, which is not built: take another model")
    if read.integer("attention.value_length", head_dim) != head_dim:
        raise UserError(f"{read.path} has values of another width than its keys, which is not built")
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "expert_count", "logit_scale"):
        if read.get(key):
            raise UserError(f"{read.path} asks for {key}, which is not built: take another model")


def scaling_of(path: Path, theta: float, head_dim: int, factors: Array) -> dict[str, Any]:
    """`rope_scaling` of type llama3 whose factors these are; raises UserError where there is none."""
    frequencies = Rope(theta).frequencies(head_dim)
    largest = float(factors.max())
    for original in ORIGINAL_CONTEXTS:
        scaling = Llama3Scaling(largest, LOW, HIGH, original)
        if np.allclose(frequencies / scale_llama3(frequencies, scaling), factors, rtol=1e-4):
            return {
                "rope_type": "llama3",
                "factor": largest,
                "low_freq_factor": LOW,
                "high_freq_factor": HIGH,
                "original_max_position_embeddings": original,
            }
    raise UserError(
        f"{path} has rope factors that are not llama3's (rope_freqs.weight), which is not built: take "
        "another model"
    )


def windows_of(read: Keys, architecture: Architecture, layers: int) -> dict[str, Any]:
    """Window, its layers and the base of their rope, of an architecture that has windows."""
    window = read.get("attention.sliding_window")
    if not window:
        return {"layer_types": [FULL_LAYER] * layers}
    pattern: Any = read.get("attention.sliding_window_pattern")
    if isinstance(pattern, Sequence):
        local = [bool(entry) for entry in pattern[:layers]]
    else:
        every = architecture.full_every if pattern is None else int(pattern)
        local = [every == 0 or (layer + 1) % every != 0 for layer in range(layers)]
    return {
        "sliding_window": int(window),
        "layer_types": [WINDOW_LAYER if entry else FULL_LAYER for entry in local],
        "rope_local_base_freq": float(read.number("rope.freq_base_swa", 1e4)),
    }
