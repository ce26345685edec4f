"""edge.backends.text_stream: what tokens add to a text joins to exactly the decoded answer."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE, WordLevel

from edge.backends.llama_vocabulary import LlamaTokenizer
from edge.backends.text_stream import pieces
from edge.backends.tokenizer import JsonTokenizer
from tests import models

WORDS = (
    "▁",
    "▁the",
    "▁a",
    "b",
    "##c",
    "'",
    ".",
    ",",
    "▁▁",
    "é",
    "☃",
    "d</w>",
    "e</w>",
    "<pad>",
    "|",
    "\ufffd",
)
SEQUENCE = {
    "llama-2": [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ],
    "gemma": [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()],
    "strip-two": [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 2, 0)],
    "late-replace": [decoders.Fuse(), decoders.Replace("a▁", "X")],
    "late-letter": [decoders.Fuse(), decoders.Replace("▁", " ")],
}
ALONE = {
    "metaspace": decoders.Metaspace(),
    "metaspace-never": decoders.Metaspace(prepend_scheme="never"),
    "wordpiece": decoders.WordPiece(),
    "ctc": decoders.CTC(),
    "bpe": decoders.BPEDecoder(),
    "none": None,
}


def word_tokenizer(decoder: Any, path: Path) -> JsonTokenizer:
    """A tokenizer of WORDS and all byte tokens, with a special token and an added one."""
    tokens = [*WORDS, *(f"<0x{byte:02X}>" for byte in range(256))]
    made = Tokenizer(WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="b"))
    made.add_special_tokens([AddedToken("<end>", special=True)])
    made.add_tokens([AddedToken("<think>", special=False)])
    if decoder is not None:
        made.decoder = decoder
    made.save(str(path))
    return JsonTokenizer(path)


def assert_joins(tokenizer: Any, size: int, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(rounds):
        ids = [rng.randrange(size) for _ in range(rng.randrange(12))]
        if rng.random() < 0.5 and ids:  # runs of one kind
            ids = [token for token in ids for _ in range(rng.randrange(1, 4))]
        added = pieces(tokenizer.stream(), ids)
        assert len(added) == len(ids)
        assert "".join(added) == tokenizer.decode(ids, special=False), ids


@pytest.mark.parametrize("name", [*SEQUENCE, *ALONE])
def test_pieces_of_any_decoder_join_to_the_text(name, tmp_path):
    decoder = decoders.Sequence(SEQUENCE[name]) if name in SEQUENCE else ALONE[name]
    tokenizer = word_tokenizer(decoder, tmp_path / "tokenizer.json")
    assert_joins(tokenizer, len(WORDS) + 4, 1000, 1)  # words and special tokens seldom beside bytes
    assert_joins(tokenizer, len(WORDS) + 260, 1000, 2)
    high = list(range(len(WORDS) + 0xE0, len(WORDS) + 0xF0))  # runs of bytes that may be characters
    snowman = [len(WORDS) + byte for byte in "☃".encode()]
    for ids in ([*snowman, *snowman], [*snowman[:2], 1], [*snowman, high[0], 1], [*snowman, 1, *snowman]):
        assert "".join(pieces(tokenizer.stream(), ids)) == tokenizer.decode(ids, special=False)


def test_pieces_of_byte_level_tokens_join_to_the_text(tmp_path):
    models.tokenizer(bos=False).save(str(tmp_path / "tokenizer.json"))
    assert_joins(JsonTokenizer(tmp_path / "tokenizer.json"), models.VOCABULARY, 3000, 3)


@pytest.mark.parametrize("model", ["nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3"])
def test_pieces_of_the_embedded_models_join_to_the_text(model, artifacts):
    folder = artifacts(model, "gguf-q8_0")
    assert_joins(JsonTokenizer(folder / "tokenizer.json"), 2048, 1000, 4)
    assert_joins(LlamaTokenizer(folder / "model.gguf"), 2048, 1000, 5)


def test_a_characters_text_belongs_to_the_token_that_completes_it(tmp_path):
    models.tokenizer(bos=False).save(str(tmp_path / "tokenizer.json"))
    tokenizer = JsonTokenizer(tmp_path / "tokenizer.json")
    ids = tokenizer.encode("a☃b", special=False)
    assert pieces(tokenizer.stream(), ids) == ["a", "", "", "☃", "b"]
    assert pieces(tokenizer.stream(), [*ids[:2], ids[4]]) == ["a", "", "\ufffdb"]
    assert pieces(tokenizer.stream(), ids[:3]) == ["a", "", "\ufffd"]
    assert pieces(tokenizer.stream(), [*ids[:3], 3]) == ["a", "", "", "\ufffd"]  # 3 is special


def test_the_first_space_of_a_sentencepiece_answer_is_not_shown_and_all_others_are(tmp_path):
    tokenizer = word_tokenizer(decoders.Sequence(SEQUENCE["llama-2"]), tmp_path / "tokenizer.json")
    the, a, end = WORDS.index("▁the"), WORDS.index("▁a"), len(WORDS) + 256
    assert pieces(tokenizer.stream(), [the, end, a, the, end]) == ["the", "", " a", " the", ""]


def test_a_byte_level_decoder_within_a_sequence_joins_too(tmp_path):
    made = models.tokenizer(bos=False)
    assert isinstance(made.model, BPE)
    made.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    made.save(str(tmp_path / "tokenizer.json"))
    assert_joins(JsonTokenizer(tmp_path / "tokenizer.json"), models.VOCABULARY, 1500, 6)


def test_a_sentencepiece_vocabulary_in_a_gguf_file_gives_the_text_without_its_first_space(
    artifacts, tmp_path
):
    """Llama-2's kind: llama.cpp's pieces begin with the space that the tokenizer put there."""
    gguf = pytest.importorskip("gguf")
    from tests.test_gguf_file import rewritten

    source = artifacts("nano-llama", "gguf-q8_0") / "model.gguf"
    words = gguf.GGUFReader(source).fields["tokenizer.ggml.tokens"].contents()
    path = rewritten(
        source,
        tmp_path / "m.gguf",
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": None,
            "tokenizer.ggml.merges": None,
            "tokenizer.ggml.tokens": [word.replace("Ġ", "▁").replace("Ċ", "\n") for word in words],
            "tokenizer.ggml.scores": [-float(i) for i in range(len(words))],
        },
    )
    tokenizer = LlamaTokenizer(path)
    ids = tokenizer.encode("the sea", special=False)
    assert tokenizer.decode(ids, special=False) == "the sea"
    assert_joins(tokenizer, 2048, 1000, 7)


def test_the_table_of_bytes_is_that_of_the_library(tmp_path):
    models.tokenizer(bos=False).save(str(tmp_path / "tokenizer.json"))
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    tokenizer = JsonTokenizer(tmp_path / "tokenizer.json")
    ids = sorted(vocabulary.values())[4:]
    assert "".join(pieces(tokenizer.stream(), ids)) == tokenizer.decode(ids, special=False)
