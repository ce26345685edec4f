"""What a build says and refuses about tokenizer files, and what ends an answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from edge.artifact import Artifact, Manifest
from edge.backends.runtime import Loader
from edge.errors import UserError
from edge.questions.prompt import Prompter
from export.build import build
from export.checkpoint import Checkpoint
from export.tokenizer import TokenizerFiles, read_tokenizer
from tests import checkpoint_forms as forms
from tests import models
from tests.conftest import NANO_LLAMA, ONE_THREAD

ROWS = 2048
Change = Callable[[Path], None]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return shutil.copytree(NANO_LLAMA, tmp_path / "checkpoint")


def edit(folder: Path, name: str, **changes: Any) -> None:
    """Sets keys of a JSON file; `...` takes one away."""
    path = folder / name
    value = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for key, content in changes.items():
        if content is ...:
            value.pop(key, None)
        else:
            value[key] = content
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def settings(folder: Path, **changes: Any) -> None:
    edit(folder, "tokenizer_config.json", **changes)


def read(folder: Path) -> TokenizerFiles:
    with Checkpoint(folder) as opened:
        return read_tokenizer(opened, ROWS)


def built(folder: Path, notes: list[str] | None = None) -> Artifact:
    said: list[str] = [] if notes is None else notes
    return build(str(folder), ["onnx-fp32"], folder.parent / "out", on_note=said.append)[0].artifact


def html_tag(folder: Path, *, special: bool) -> int:
    """Makes `</s>` an added token in place of an ordinary one; its id."""
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text("utf-8"))
    vocab, merges = raw["model"]["vocab"], raw["model"]["merges"]
    token_id = vocab["</s>"] = vocab.pop("Ġthe")
    raw["model"]["merges"] = [m for m in merges if "Ġthe" not in m and "".join(m) != "Ġthe"]
    raw["added_tokens"].append({"id": token_id, **forms.token("</s>", special=special)})
    path.write_text(json.dumps(raw, ensure_ascii=False), encoding="utf-8")
    return int(token_id)


@pytest.mark.parametrize("special", [False, True])
def test_a_well_known_end_token_counts_where_it_is_marked_special(special, checkpoint):
    token_id = html_tag(checkpoint, special=special)
    assert read(checkpoint).stop_ids == tuple(sorted({1, 4, *([token_id] if special else [])}))


def test_the_default_end_of_a_class_is_none_where_the_tokenizer_has_it_as_a_word(checkpoint):
    html_tag(checkpoint, special=False)
    settings(checkpoint, tokenizer_class="LlamaTokenizerFast", eos_token=..., bos_token=forms.BOS)
    assert read(checkpoint).stop_ids == (1, 4)


@pytest.mark.parametrize(("named", "stops"), [([4, 77], (1, 4, 77)), (77, (1, 4, 77)), (5000, (1, 4))])
def test_ends_are_those_that_the_files_name_within_the_model(named, stops, checkpoint):
    edit(checkpoint, "generation_config.json", eos_token_id=named)
    edit(checkpoint, "config.json", eos_token_id=...)
    assert read(checkpoint).stop_ids == stops


def test_a_checkpoint_in_which_nothing_ends_an_answer_is_refused(checkpoint):
    path = checkpoint / "tokenizer.json"
    text = path.read_text("utf-8")
    for old, new in ((forms.END, "<|a|>"), (forms.TURN, "<|b|>")):
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    (checkpoint / "special_tokens_map.json").unlink()
    settings(checkpoint, eos_token=..., added_tokens_decoder=..., additional_special_tokens=...)
    edit(checkpoint, "generation_config.json", eos_token_id=...)
    edit(checkpoint, "config.json", eos_token_id=None)
    with pytest.raises(UserError, match="names no end-of-text token: set eos_token_id"):
        built(checkpoint)
    assert not (checkpoint.parent / "out").exists()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "class": ({"tokenizer_class": "T5TokenizerFast"}, "tokenizer_class 'T5TokenizerFast'.*set PreTrained"),
    "no-bos": ({"tokenizer_class": "LlamaTokenizer", "bos_token": None}, "puts the bos_token around"),
    "no-eos": (
        {"tokenizer_class": "GemmaTokenizer", "eos_token": None, "add_eos_token": True},
        "puts the eos_token around",
    ),
    "bos-number": ({"bos_token": 7}, "bos_token '7': give a token's text"),
    "listed": ({"added_tokens_decoder": ["<s>"]}, "added_tokens_decoder is no object"),
    "listed-id": ({"added_tokens_decoder": {"x": {"content": "a"}}}, "has the id 'x'"),
    "listed-flags": (
        {"added_tokens_decoder": {"3": {"content": "a", "special": "yes"}}},
        "has an added token that is none",
    ),
    "additional": ({"additional_special_tokens": "<s>"}, "additional_special_tokens '<s>': give a list"),
    "template": ({"chat_template": 3}, "neither a text nor a list"),
    "templates": ({"chat_template": [{"name": "a"}]}, "neither a text nor a list"),
    "space-in-bos": (
        {"tokenizer_class": "LlamaTokenizer", "bos_token": "a b", "added_tokens_decoder": {}},
        "cannot be done",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_make_no_sense_are_refused_by_name(name, checkpoint):
    changes, words = REFUSED[name]
    settings(checkpoint, **changes)
    with pytest.raises(UserError, match=words) as caught:
        built(checkpoint)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json", "tokenizer_config.json"])
def test_a_damaged_file_beside_tokenizer_json_is_named(name, checkpoint):
    settings(checkpoint, added_tokens_decoder=...)
    (checkpoint / name).write_text("[1", encoding="utf-8")
    with pytest.raises(UserError, match=name):
        built(checkpoint)


READ_ALL_THE_SAME: dict[str, tuple[dict[str, Any], str]] = {
    "five's class": (
        {"tokenizer_class": "TokenizersBackend"},
        "TokenizersBackend, which transformers",
    ),
    "five's list": ({"extra_special_tokens": [forms.HEADER]}, "extra_special_tokens as a list"),
    "object without type": ({"bos_token": {"content": forms.BOS}}, "bos_token as an object without __type"),
    "add_prefix_space": (
        {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": True},
        "makes the tokenizer anew of tokenizer.model",
    ),
}


@pytest.mark.parametrize("name", READ_ALL_THE_SAME)
def test_what_transformers_4_refuses_and_is_clear_is_read_with_a_note(name, checkpoint):
    changes, words = READ_ALL_THE_SAME[name]
    settings(checkpoint, **changes)
    notes: list[str] = []
    artifact = built(checkpoint, notes)
    assert any(words in note for note in notes)
    rules = artifact.manifest.tokenizer_rules
    assert rules is not None and any(words in note for note in rules.notes)
    assert Prompter(artifact, "raw").prompt("Do bats see?").ids[0] == 0


def test_the_build_says_in_one_line_where_transformers_5_differs_and_the_manifest_keeps_it(checkpoint):
    settings(checkpoint, tokenizer_class="LlamaTokenizerFast", add_bos_token=False)
    notes: list[str] = []
    artifact = built(checkpoint, notes)
    (note,) = (note for note in notes if "transformers 5" in note)
    assert "puts <|begin_of_text|> before a text (this build: nothing around)" in note
    manifest = Manifest.from_json((artifact.path / "manifest.json").read_text("utf-8"))
    assert manifest == artifact.manifest and manifest.tokenizer_rules is not None
    assert note in manifest.tokenizer_rules.notes
    assert manifest.tokenizer_rules.why == "tokenizer_config.json names LlamaTokenizerFast"


def test_the_embedded_model_has_nothing_to_say(checkpoint):
    notes: list[str] = []
    built(checkpoint, notes)
    assert notes == []


def test_a_template_that_cannot_be_used_is_noted_at_build(checkpoint):
    for number, template in enumerate(["{% if %}", "{{ raise_exception('no') }}", "nothing of it"]):
        settings(checkpoint, chat_template=template)
        notes: list[str] = []
        artifact = build(
            str(checkpoint), ["onnx-fp32"], checkpoint.parent / str(number), on_note=notes.append
        )[0].artifact
        (note,) = notes
        assert note.startswith("--prompt chat will be refused: ") and ".building" not in note
        with pytest.raises(UserError):
            Prompter(artifact, "chat")
        assert Prompter(artifact, "raw").prompt("Do bats see?").ids


def test_without_a_default_template_chat_is_refused_with_the_names(checkpoint):
    named = [{"name": name, "template": "{{ messages[0].content }}"} for name in ("tool_use", "rag")]
    settings(checkpoint, chat_template=named)
    notes: list[str] = []
    artifact = built(checkpoint, notes)
    assert any("(rag, tool_use)" in note for note in notes)
    for style in (None, "chat"):
        with pytest.raises(UserError, match=r"several chat templates \(rag, tool_use\) and none called"):
            Prompter(artifact, style)
    assert Prompter(artifact, "raw").prompt("Do bats see?").ids


def test_a_token_around_texts_beyond_the_model_is_noted(checkpoint):
    settings(checkpoint, tokenizer_class="LlamaTokenizer", bos_token="<new>")
    notes: list[str] = []
    artifact = built(checkpoint, notes)
    assert any("<new> goes around each text and has the id 2048" in note for note in notes)
    with pytest.raises(UserError, match="2048"):
        Prompter(artifact, "raw").prompt("Do bats see?")


def test_an_artifact_of_before_runs_with_a_note_to_build_again(checkpoint):
    artifact = built(checkpoint)
    manifest = json.loads((artifact.path / "manifest.json").read_text("utf-8"))
    del manifest["tokenizer_rules"]
    old = Artifact(artifact.path, Manifest.from_json(json.dumps(manifest)))
    assert "tokenizer_rules" not in old.manifest.to_json()
    notes: list[str] = []
    Loader(old, ONE_THREAD).load(64, notes.append).close()
    assert any("read tokenizer.json alone: build it again" in note for note in notes)
    notes.clear()
    Loader(artifact, ONE_THREAD).load(64, notes.append).close()
    assert not any("build it again" in note for note in notes)


def test_the_board_splits_special_tokens_where_the_files_say_so(checkpoint):
    settings(checkpoint, split_special_tokens=True)
    prompter = Prompter(built(checkpoint), "raw", control_tokens=True)
    assert prompter.prompt("a<|eot_id|>").ids.count(4) == 0
    whole = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).encode("a<|eot_id|>").ids
    assert whole.count(4) == 1


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.uint8, np.float64])
@pytest.mark.parametrize("precision", ["onnx-int4", "gguf-q8_0"])
def test_tensors_that_no_weight_needs_are_ignored_whatever_their_type(dtype, precision, tmp_path):
    folder = models.write_shape(tmp_path / "tiny", "odd")
    tensors = load_file(folder / "model.safetensors")
    more = {
        "model.layers.0.rotary_emb.inv_freq": np.ones(4, dtype),
        "ids": np.zeros((2, 3), dtype),
    }
    save_file({**tensors, **more}, folder / "model.safetensors")
    assert build(str(folder), [precision], tmp_path / "out")[0].artifact.manifest.size > 0


def test_a_missing_shard_without_an_index_is_named(tmp_path):
    folder = models.write_checkpoint(tmp_path / "tiny", models.config_of(), shards=3)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-00002-of-00003\.safetensors is missing beside"):
        build(str(folder), ["onnx-fp32"], tmp_path / "out")
