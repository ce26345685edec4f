"""model_type `gemma3_text`: Gemma 3's text models.

Norms before and after with weights 1 + w, window layers with a rope base of their own, a scaled embedding.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from edge.architectures import ARCHITECTURES
from edge.registry import Shape
from export.graph.config import FULL_LAYER, WINDOW_LAYER, ConfigReader, DecoderConfig
from export.graph.conversion import Conversion

LARGEST = 62  # layers of the one gemma3 whose attention llama.cpp scales by the width


def read_config(reader: ConfigReader, context: int) -> DecoderConfig:
    """Sizes from config.json; refuses by name what is not built."""
    reader.only("hidden_activation", "gelu_pytorch_tanh", None)
    reader.only("hidden_act", "gelu_pytorch_tanh", None)
    reader.only("attention_bias", False, None)
    reader.only("attn_logit_softcapping", None)
    reader.only("final_logit_softcapping", None)
    reader.only("use_bidirectional_attention", False, None)
    # head_dim is never hidden / heads: 1152 / 4 in gemma-3-1b, where it is 256.
    base = reader.decoder(context, positions=131072, head_dim=256)
    full_every = ARCHITECTURES[base.model_type].full_every
    pattern = reader.integer("sliding_window_pattern", reader.integer("_sliding_window_pattern", full_every))
    local = [(i + 1) % pattern != 0 for i in range(base.layers)]
    # transformers 5 keeps one set of rope parameters for each kind of layer.
    kinds = ConfigReader(reader.section("rope_parameters"))
    full = kinds.section(FULL_LAYER) or reader.section("rope_scaling")
    return dataclasses.replace(
        base,
        rope=reader.rope_of(full, reader.number("rope_theta", 1e6)),
        local_rope=reader.rope_of(kinds.section(WINDOW_LAYER), reader.number("rope_local_base_freq", 1e4)),
        tied=reader.flag("tie_word_embeddings", True),
        windows=reader.windows(base.layers, reader.integer("sliding_window", 4096), local),
        query_scale=reader.number("query_pre_attn_scalar", 256.0) ** -0.5,
        activation="gelu_tanh",
        qk_norm=True,
        norm_offset=1.0,
        sandwich_norms=True,
        embedding_scale=math.sqrt(base.hidden),
    )


def own_keys(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": shape.head_dim,
        "rope_local_base_freq": shape.local_rope_theta,
        "sliding_window": shape.window,
    }


def score_width(config: DecoderConfig) -> int:
    return config.hidden // config.heads if config.layers == LARGEST else config.head_dim


CONVERSION = Conversion(
    read_config,
    model_class="Gemma3ForCausalLM",
    onnx_config="Gemma3TextOnnxConfig",
    tokenizer_class="GemmaTokenizerFast",
    five_tokenizer="GemmaTokenizer",
    own_keys=own_keys,
    score_width=score_width,
)
