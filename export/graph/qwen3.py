"""model_type `qwen3`: a norm on each query and key head, head_dim of its own."""

from __future__ import annotations

import dataclasses

from export.graph.config import ConfigReader, DecoderConfig
from export.graph.conversion import Conversion
from export.graph.qwen2 import read_windows


def read_config(reader: ConfigReader, context: int) -> DecoderConfig:
    """Sizes from config.json; refuses by name what is not built."""
    reader.only("hidden_act", "silu")
    reader.only("attention_bias", False, None)
    base = reader.decoder(context, positions=32768, head_dim=128)
    return dataclasses.replace(base, windows=read_windows(reader, base.layers), qk_norm=True)


CONVERSION = Conversion(
    read_config,
    model_class="Qwen3ForCausalLM",
    onnx_config="Qwen3OnnxConfig",
    tokenizer_class="Qwen2TokenizerFast",
    five_tokenizer="Qwen2Tokenizer",
)
