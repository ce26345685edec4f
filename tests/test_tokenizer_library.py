"""Tokenizers that the library panics on, or would reserve gigabytes for, are one error that says why."""

from __future__ import annotations

import base64
import json

import pytest

from edge.backends.tokenizer import JsonTokenizer
from edge.backends.tokenizer_library import TokenizerError, caught, load_tokenizer, written
from edge.errors import UserError
from tests import models


def content(**changes) -> bytes:
    """tokenizer.json of the tests' tokenizer with other parts."""
    return json.dumps(json.loads(models.tokenizer(bos=False).to_str()) | changes).encode()


def charsmap(size: int, data: int) -> dict[str, str]:
    text = base64.b64encode(size.to_bytes(4, "little") + bytes(data)).decode()
    return {"type": "Precompiled", "precompiled_charsmap": text}


def test_a_sound_tokenizer_is_loaded():
    assert load_tokenizer(content()).encode("what is").ids


def test_limits_of_length_are_dropped():
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 10**9},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    limited = load_tokenizer(content(truncation=truncation, padding=padding))
    assert limited.encode("what is the name").ids == load_tokenizer(content()).encode("what is the name").ids


@pytest.mark.parametrize("size", [2**32 - 1, 0, 12, 9])
@pytest.mark.parametrize("nested", [False, True])
def test_a_charsmap_shorter_than_it_says_is_refused(size, nested):
    normalizer = charsmap(size, 8)
    if nested:
        normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}, normalizer]}
    with pytest.raises(TokenizerError, match=f"12 bytes for a table of {size}"):
        load_tokenizer(content(normalizer=normalizer))


def test_a_panic_is_an_error_and_says_nothing_by_itself(capfd):
    model = {
        "type": "BPE",
        "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": [["a", "b"]],
        "continuing_subword_prefix": "xxxx",
    }
    with pytest.raises(TokenizerError, match="byte index"):
        load_tokenizer(content(model=model))
    assert capfd.readouterr().err == ""


def test_what_cannot_encode_a_text_is_refused_by_name(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}))
    with pytest.raises(UserError, match=r"WordLevel error: Missing \[UNK\] token"):
        JsonTokenizer(path)


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_an_end_of_the_process_is_no_error_of_the_library(end):
    with pytest.raises(end), caught():
        raise end


def test_an_id_that_no_vocabulary_has_is_refused_before_it_is_written():
    """The library would take four bytes for every free id below it: 8 GB."""
    vocab = json.loads(content())["model"]["vocab"]
    name = max(vocab, key=vocab.get)
    model = json.loads(content())["model"] | {"vocab": vocab | {name: 2**31}}
    with pytest.raises(TokenizerError, match=f"has the id {2**31}"):
        written(load_tokenizer(content(model=model)))
    assert json.loads(written(load_tokenizer(content())))["model"]["vocab"] == vocab
