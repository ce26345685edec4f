"""model_type `qwen2`: Qwen2, Qwen2.5 and DeepSeek-R1-Distill-Qwen. A bias on queries, keys and values."""

from __future__ import annotations

import dataclasses

from export.graph.config import ConfigReader, DecoderConfig
from export.graph.conversion import Conversion


def read_config(reader: ConfigReader, context: int) -> DecoderConfig:
    """Sizes from config.json; refuses by name what is not built."""
    reader.only("hidden_act", "silu")
    base = reader.decoder(context, positions=32768)
    return dataclasses.replace(base, windows=read_windows(reader, base.layers), qkv_bias=True)


def read_windows(reader: ConfigReader, layers: int) -> tuple[int, ...]:
    """The window of each layer, 0 for none.

    With use_sliding_window, the layers from max_window_layers on have one. `sliding_window` alone sets none.
    """
    if not reader.flag("use_sliding_window", False):
        return (0,) * layers
    first = reader.natural("max_window_layers", 28)
    return reader.windows(
        layers, reader.integer("sliding_window", 4096), [i >= first for i in range(layers)]
    )


CONVERSION = Conversion(
    read_config,
    model_class="Qwen2ForCausalLM",
    onnx_config="Qwen2OnnxConfig",
    tokenizer_class="Qwen2TokenizerFast",
    five_tokenizer="Qwen2Tokenizer",
    five_insists=True,
    heads_fill_width=True,
)
