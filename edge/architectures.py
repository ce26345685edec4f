"""The architectures that are traced: a table of one row for each `model_type`, with what running needs.

Building needs more; that is in export/graph, in one file for each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """An architecture by the `model_type` that config.json gives; the rest is llama.cpp's.

    `gguf` is its name in GGUF files. `embedding` is the node of llama.cpp's graph that holds what enters
    layer 1. `full_every` says which layers see every position where llama.cpp gives the others a window:
    each n-th, unless the file says otherwise; 0 where it gives no windows.
    """

    model_type: str
    gguf: str
    embedding: str = "embd"
    full_every: int = 0


# Others name their tensors in ways that are not tested.
ARCHITECTURES = {
    row.model_type: row
    for row in (
        Architecture("llama", "llama"),
        Architecture("qwen2", "qwen2"),
        Architecture("qwen3", "qwen3"),
        Architecture("gemma3_text", "gemma3", embedding="inp_scaled", full_every=6),
    )
}
BY_GGUF = {row.gguf: row for row in ARCHITECTURES.values()}
