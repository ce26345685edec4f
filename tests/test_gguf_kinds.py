"""GGUF files that are no model of their own are named for what they are; ends and BOS come from keys."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edge.cli.app
from edge.artifact import Artifact
from edge.backends.gguf_file import open_artifact
from edge.errors import UserError
from edge.questions.prompt import Prompter
from tests.conftest import write_questions
from tests.test_cli_errors import call
from tests.test_gguf_file import rewritten

gguf = pytest.importorskip("gguf")
TYPES = gguf.GGUFValueType


def write_gguf(path: Path, architecture: str | None, keys: dict[str, Any], tensors: dict[str, Any]) -> Path:
    """A GGUF file of these keys and tensors; without an architecture that key is missing."""
    writer = gguf.GGUFWriter(path, architecture or "x")
    if architecture is None:
        writer.kv_data[0].pop("general.architecture")
    for key, value in keys.items():
        kind = TYPES.UINT16 if key.startswith("split") else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, kind)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


ROW = np.ones((2, 32), np.float32)
KINDS = {
    "adapter": ("llama", {"general.type": "adapter"}, {"a.lora_a": ROW}, "is a LoRA adapter, not a model"),
    "old adapter": ("llama", {}, {"a.lora_a": ROW, "a.lora_b": ROW}, "is a LoRA adapter, not a model"),
    "imatrix": (None, {"general.type": "imatrix"}, {"a.in_sum2": ROW}, "is an importance matrix"),
    "nameless imatrix": (None, {}, {"a.in_sum2": ROW, "a.counts": ROW}, "is an importance matrix"),
    "clip": ("clip", {}, {"v.weight": ROW}, "is the image or audio part of a model"),
    "mmproj": ("llama", {"general.type": "mmproj"}, {"v.weight": ROW}, "is the image or audio part"),
    "vocabulary": ("llama", {"general.type": "model"}, {}, "is a vocabulary without a model"),
    "vocabulary by type": ("llama", {"general.type": "vocab"}, {}, "is a vocabulary without a model"),
    "control vector": ("controlvector", {}, {"direction.1": ROW}, "is a control vector"),
    "unknown type": ("llama", {"general.type": "shoe"}, {"a": ROW}, "is of the type 'shoe', not a model"),
    "other model": ("phi3", {}, {"a": ROW}, "holds the architecture 'phi3', which is not traced"),
    "nothing": (None, {}, {"a": ROW}, "holds the architecture None, which is not traced"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_something_else_is_named(kind, tmp_path):
    architecture, keys, tensors, words = KINDS[kind]
    path = write_gguf(tmp_path / "m.gguf", architecture, keys, tensors)
    with pytest.raises(UserError) as refused:
        open_artifact(path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_part_of_a_split_names_the_parts_that_are_missing(tmp_path):
    def part(number: int, name: str) -> Path:
        keys = {"split.no": number - 1, "split.count": 3}
        return write_gguf(tmp_path / name, "llama" if number == 1 else None, keys, {"a": ROW})

    second = part(2, "big-00002-of-00003.gguf")
    missing = r"part 2 of 3 .* big-00001-of-00003\.gguf, big-00003-of-00003\.gguf are missing beside it"
    with pytest.raises(UserError, match=missing):
        open_artifact(second)
    first = part(1, "big-00001-of-00003.gguf")
    with pytest.raises(UserError, match=r"part 1 of 3 .* big-00003-of-00003\.gguf is missing beside it"):
        open_artifact(first)
    part(3, "big-00003-of-00003.gguf")
    for path in (first, second):
        with pytest.raises(UserError, match=r"--merge big-00001-of-00003\.gguf big\.gguf' first"):
            open_artifact(path)
    with pytest.raises(UserError, match=r"part 3 of 3 of a split model: merge all parts"):
        open_artifact(part(3, "renamed.gguf"))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"GGUF" + struct.pack(">I", 3), "is a big-endian GGUF file"),
        (b"GGUF" + struct.pack(">I", 2), "is a big-endian GGUF file"),
        (b"GGUF" + struct.pack("<I", 1), "is GGUF version 1, which llama.cpp no longer reads"),
        (b"tjgg" + struct.pack("<I", 3), "is in a format before GGUF"),
        (b"algg" + struct.pack("<I", 1), "is in a format before GGUF"),
        (b"GGUF" + struct.pack("<I", 999), "is a damaged GGUF file"),
        (b"GGUF", "is a damaged GGUF file"),
    ],
)
def test_other_forms_and_versions_are_named(head, words, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(head + bytes(100 if len(head) > 4 else 0))
    with pytest.raises(UserError, match=words):
        open_artifact(path)


# Stop ids and BOS


@pytest.fixture(scope="module")
def source(artifacts) -> Path:
    return artifacts("nano-llama", "gguf-q8_0") / "model.gguf"


def keys_of(path: Path, key: str) -> Any:
    return gguf.GGUFReader(path).fields[key].contents()


def test_without_a_key_there_is_no_bos_whatever_llama_cpp_makes_up(source, tmp_path):
    path = rewritten(source, tmp_path / "m.gguf", {"tokenizer.ggml.bos_token_id": None})
    artifact = open_artifact(path)
    assert artifact.manifest.special_tokens.keys() == {"eos_token", "pad_token"}
    for style in ("chat", "raw", "qa"):
        ids = Prompter(artifact, style).prompt("Do bats see?").ids
        assert 11 not in ids
        assert 0 not in ids


def test_without_an_end_key_control_tokens_that_are_usual_ends_count_and_nothing_made_up(source, tmp_path):
    path = rewritten(source, tmp_path / "m.gguf", {"tokenizer.ggml.eos_token_id": None})
    stops = open_artifact(path).manifest.model.stop_ids
    assert stops
    assert 11 not in stops
    words, types = (keys_of(source, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type"))
    assert all(types[i] == gguf.TokenType.CONTROL for i in stops)
    assert {words[i] for i in stops} <= {"<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"}
    types[11] = int(gguf.TokenType.CONTROL)
    changes = {"tokenizer.ggml.eos_token_id": None, "tokenizer.ggml.token_type": types}
    path = rewritten(source, tmp_path / "control.gguf", changes)
    assert open_artifact(path).manifest.model.stop_ids == stops


def test_an_end_token_that_is_text_ends_nothing(source, tmp_path):
    """`</s>` as a plain HTML tag, as in Gemma's vocabulary."""
    words = keys_of(source, "tokenizer.ggml.tokens")
    for text in ("</s>", "<|im_end|>", "<end_of_turn>"):
        words[300] = text
        artifact = open_artifact(rewritten(source, tmp_path / "m.gguf", {"tokenizer.ggml.tokens": words}))
        assert 300 not in artifact.manifest.model.stop_ids


def test_a_file_in_which_nothing_ends_an_answer_is_refused(source, tmp_path):
    types = keys_of(source, "tokenizer.ggml.token_type")
    normal = [int(gguf.TokenType.NORMAL)] * len(types)
    keys = ("bos", "eos", "eot", "eom", "padding")
    changes = {f"tokenizer.ggml.{key}_token_id": None for key in keys}
    path = rewritten(source, tmp_path / "m.gguf", changes | {"tokenizer.ggml.token_type": normal})
    with pytest.raises(UserError, match=r"nothing in .* ends an answer"):
        open_artifact(path)


# Templates of files


def test_a_template_that_is_a_name_is_llama_cpps(source, tmp_path):
    path = rewritten(source, tmp_path / "m.gguf", {"tokenizer.chat_template": "chatml"})
    prompter = Prompter(open_artifact(path))
    prompt = prompter.prompt("Do bats see?")
    assert prompt.text == "<|im_start|>user\nDo bats see?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.ids[0] == 0  # such a template writes no BOS
    assert prompt.ids.count(0) == 1
    path = rewritten(source, tmp_path / "n.gguf", {"tokenizer.chat_template": "nosuch"})
    with pytest.raises(UserError, match=r"the chat template is the name 'nosuch' and llama\.cpp has none"):
        Prompter(open_artifact(path))
    assert Prompter(open_artifact(path), "raw").prompt("Why?").ids


def test_every_builtin_template_has_the_question():
    from edge.backends.llama_chat import builtin_names, builtin_template

    assert "chatml" in builtin_names()
    for name in builtin_names():
        assert len(builtin_template(name).pieces) == 2


def test_tensors_that_no_weight_needs_are_ignored(source, tmp_path):
    reader = gguf.GGUFReader(source)
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(
                key, field.contents(), kind, field.types[-1] if kind == TYPES.ARRAY else None
            )
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.add_tensor("rope_freqs.weight", np.ones(16, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert open_artifact(path).manifest.model == open_artifact(copied(source, tmp_path)).manifest.model


def copied(source: Path, folder: Path) -> Path:
    (folder / "copy").mkdir()
    return shutil.copyfile(source, folder / "copy" / "m.gguf")


# Names that are not UTF-8


def test_every_command_takes_names_of_any_bytes(source, artifacts, tmp_path, capsys):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xe8r"))
    folder.mkdir()
    file = shutil.copyfile(source, Path(os.fsdecode(os.fsencode(folder) + b"/mod\xe8le.gguf")))
    shutil.copytree(artifacts("nano-llama", "onnx-int4"), folder / "onnx")
    questions = str(write_questions(folder / "q.csv", ["Do bats see?", "Why?"]))
    assert "\ufffd" in open_artifact(file).manifest.source
    asking = ["--questions", questions, "--quiet"]
    for name, artifact in (("gguf", file), ("graph", folder / "onnx")):
        run = ["run", str(artifact), "--out", str(folder / name), "--max-new-tokens", "6", *asking]
        assert call(edge.cli.app.main, run, tmp_path) == 0
        # A second time: everything is read.
        assert call(edge.cli.app.main, run, tmp_path) == 0
    for arguments in (
        ["force", str(file), "--like", str(folder / "gguf"), "--out", str(folder / "forced"), "--quiet"],
        ["compare", str(folder / "gguf"), str(folder / "forced"), "--json", str(folder / "c.json")],
        ["report", str(folder / "gguf"), str(folder / "forced"), "--out", str(folder / "r.html")],
        ["watch", "--once", str(folder / "gguf")],
        ["score", str(folder / "onnx"), "--out", str(folder / "scores"), *asking],
        ["ask", str(folder / "onnx"), "Why?", "--max-new-tokens", "2"],
    ):
        assert call(edge.cli.app.main, arguments, tmp_path) == 0, arguments
    assert Artifact.open(folder / "onnx").manifest.source
