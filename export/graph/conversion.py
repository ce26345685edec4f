"""The facts of an architecture that building needs besides its graph.

They say how its checkpoints are read, and how other programs name it and compute it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge.registry import Shape
from export.graph.config import ConfigReader, DecoderConfig


def silu_key(shape: Shape) -> dict[str, Any]:
    return {"hidden_act": "silu"}


def head_dim(config: DecoderConfig) -> int:
    return config.head_dim


@dataclass(frozen=True)
class Conversion:
    """The facts of one architecture.

    `read_config` makes the decoder of a config.json, for at most so many positions. `model_class` is the
    name of transformers' class, `onnx_config` that of optimum's. `own_keys` gives the keys of
    config.json, for a model of the registry, beside the sizes that all architectures have.

    `tokenizer_class` is the class of transformers 4 that reads the tokenizer where no file names one. Of
    transformers 5, `five_tokenizer` is that class, "" for the one that takes tokenizer.json as it is;
    `five_insists` says that it counts whatever the files name.

    The others are about llama.cpp. `rotates_pairs`: it turns neighbouring numbers of a head where
    transformers turns its halves. `reads_rope_factors`: it knows llama3's scaling. `heads_fill_width`:
    it takes heads times head_dim for the hidden width. `score_width`: it divides attention scores by the
    square root of this.
    """

    read_config: Callable[[ConfigReader, int], DecoderConfig]
    model_class: str
    onnx_config: str
    tokenizer_class: str = "PreTrainedTokenizerFast"
    five_tokenizer: str = ""
    five_insists: bool = False
    own_keys: Callable[[Shape], dict[str, Any]] = silu_key
    rotates_pairs: bool = False
    reads_rope_factors: bool = False
    heads_fill_width: bool = False
    score_width: Callable[[DecoderConfig], int] = head_dim
