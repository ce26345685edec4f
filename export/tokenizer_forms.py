"""Forms that published tokenizers share: words, a BPE's settings, and what goes around a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

# How the published tokenizers cut a text into words before merging.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_WORDS, QWEN2_WORDS = _WORDS % r"\p{N}{1,3}", _WORDS % r"\p{N}"
META_SPACE = "▁"


def bpe(vocab: Mapping[str, int], merges: Sequence[Any], **settings: Any) -> dict[str, Any]:
    """The object `model` of tokenizer.json for a BPE; `settings` replace the library's defaults."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        **settings,
        "vocab": vocab,
        "merges": merges,
    }


def added_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the post-processor puts before and after a text."""
    inner = tokenizer.encode("a", add_special_tokens=False).ids
    outer = tokenizer.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(outer)) if outer[i : i + len(inner)] == inner), 0)
    return outer[:start], outer[start + len(inner) :]
