"""A tokenizer that came from a GGUF file goes back into one: GGUF -> tokenizer.json -> GGUF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from tokenizers import normalizers

from edge.artifact import Artifact
from edge.backends.llama_vocabulary import LlamaTokenizer
from edge.backends.tokenizer import JsonTokenizer
from export.build import build
from export.gguf_tokenizer_files import ALIASES, BYTE_LEVEL_FORMS
from export.gguf_tokenizer_files import FORMS as READ
from tests import models
from tests.test_gguf_source import rewritten
from tests.test_gguf_tokenizer import (
    CORPUS,
    FORMS,
    SPECIAL,
    built,
    byte_level,
    gemma,
    pieces_of,
    sentencepiece,
)

pytestmark = pytest.mark.slow


def scored(*, prefix: bool) -> tuple[dict[str, Any], bytes]:
    """tokenizer.json and tokenizer.model as Gemma has them, or with Llama 2's space before a text."""
    raw = gemma(split=False)
    if prefix:
        steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        raw["normalizer"] = json.loads(normalizers.Sequence(steps).__getstate__())
    return raw, sentencepiece(pieces_of(raw))


def first(name: str, folder: Path) -> Artifact:
    """A GGUF artifact with a tokenizer of a form, and rows that have no token."""
    template = models.CHAT_TEMPLATE
    if name in FORMS:
        return built(folder, byte_level(**FORMS[name]), template=template)
    if name == "gemma4":
        return built(folder, gemma(split=True), template=template)
    return built(folder, *scored(prefix=name == "llama-prefix"), template=template)


def keys_of(path: Path) -> dict[str, Any]:
    fields = GGUFReader(path).fields
    return {name: field.contents() for name, field in fields.items() if name.startswith("tokenizer.")}


def check_ids(one: Path, other: Path, *more: str) -> None:
    """llama.cpp gives the same ids with both files, and so does tokenizer.json beside the second."""
    tokenizers = LlamaTokenizer(one), LlamaTokenizer(other), JsonTokenizer(other.parent / "tokenizer.json")
    for text in (*CORPUS, *SPECIAL[:-1], *more):
        for special in (False, True):
            before, after, ours = (each.encode(text, special=special) for each in tokenizers)
            assert before == after == ours, text


def test_every_form_that_is_read_is_tried():
    assert set(FORMS) == set(BYTE_LEVEL_FORMS) >= set(ALIASES.values())
    assert set(READ) == {"gpt2", "gemma4", "llama"}


@pytest.mark.parametrize("name", [*FORMS, "gemma4", "llama", "llama-prefix"])
def test_the_keys_are_the_same(name, tmp_path):
    one = first(name, tmp_path).weights
    model = name.removesuffix("-prefix") if name not in FORMS else "gpt2"
    assert keys_of(one)["tokenizer.ggml.model"] == model
    artifact = build(str(one), ["gguf-f16"], tmp_path / "back")[0].artifact
    assert artifact.manifest.tokenizer["model"] == model
    assert keys_of(artifact.weights) == keys_of(one)
    check_ids(one, artifact.weights, "<bos>a<eos> b", "▁ ▁▁ x", "<0x41> <0x0A>")


def test_another_name_of_a_rule_becomes_its_own(tmp_path):
    one = first("llama-bpe", tmp_path).weights
    other = rewritten(one, tmp_path / "other.gguf", keys={"tokenizer.ggml.pre": "llama3"})
    artifact = build(str(other), ["gguf-f16"], tmp_path / "back")[0].artifact
    assert keys_of(artifact.weights) == keys_of(one)
    check_ids(other, artifact.weights)
