"""model_type `llama`: Llama 1 to 3.x and whatever else declares it."""

from __future__ import annotations

from export.graph.config import ConfigReader, DecoderConfig
from export.graph.conversion import Conversion


def read_config(reader: ConfigReader, context: int) -> DecoderConfig:
    """Sizes from config.json; refuses by name what is not built."""
    reader.only("hidden_act", "silu")
    reader.only("attention_bias", False, None)
    reader.only("mlp_bias", False, None)
    reader.only("pretraining_tp", 1, None)
    return reader.decoder(context, positions=2048)


CONVERSION = Conversion(
    read_config,
    model_class="LlamaForCausalLM",
    onnx_config="LlamaOnnxConfig",
    tokenizer_class="LlamaTokenizerFast",
    rotates_pairs=True,
    reads_rope_factors=True,
)
