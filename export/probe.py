"""Makes the tiny models with random weights on which `edge doctor` tries llama.cpp, one an architecture.

`python -m export.probe edge/data`
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from edge.architectures import ARCHITECTURES
from export.checkpoint import Array, Checkpoint
from export.gguf_model import F16, write
from export.gguf_tokenizer import Vocabulary
from export.graph.architectures import read_config

WIDTH = 32
CONFIG: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 16,
}


class RandomCheckpoint:
    """The part of a Checkpoint that the GGUF writer reads: every tensor is drawn from its name."""

    def __init__(self, architecture: str) -> None:
        self.folder, self.config = Path(f"probe-{architecture}"), CONFIG | {"model_type": architecture}

    def tensor(self, name: str, shape: tuple[int, ...]) -> Array:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return rng.normal(0.0, 1.0 if len(shape) == 1 else 0.25, shape).astype(np.float32)

    def row_blocks(self, name: str, shape: tuple[int, ...]) -> Iterator[Array]:
        yield self.tensor(name, shape)


def make(folder: Path) -> list[Path]:
    """Writes probe-ARCHITECTURE.gguf for each architecture; the same bytes every time."""
    paths = []
    for architecture in ARCHITECTURES:
        checkpoint = RandomCheckpoint(architecture)
        config = read_config(checkpoint.config, CONFIG["max_position_embeddings"])
        vocabulary = Vocabulary("none", reason="a probe has none")
        path = folder / f"{checkpoint.folder}.gguf"
        write(
            cast(Checkpoint, checkpoint),
            config,
            vocabulary,
            F16,
            path,
            lambda done: None,
            name=checkpoint.folder.name,
        )
        paths.append(path)
    return paths


if __name__ == "__main__":
    for path in make(Path(sys.argv[1])):
        print(path)
