"""GGUF files on their own: what is read from them, and what is refused in one sentence."""

from __future__ import annotations

import json
import shutil
import sys

import gguf
import numpy as np
import pytest

import edge.cli.app
import export.cli
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.gguf_file import open_artifact
from edge.backends.llama_header import Header
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.run import run
from edge.questions.prompt import Prompter
from edge.questions.question import read_questions
from edge.runs.run_directory import Run
from tests.conftest import ROOT, tree, write_questions
from tests.test_cli_errors import assert_refused, call

DAY = "2026-01-01"
NANO = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")


@pytest.fixture
def bare(artifacts, tmp_path):
    """A GGUF file of a model alone in a folder."""

    def get(name="nano-llama", precision="gguf-q8_0"):
        folder = tmp_path / f"{name}-{precision}"
        folder.mkdir()
        return shutil.copyfile(artifacts(name, precision) / "model.gguf", folder / "some-model.gguf")

    return get


@pytest.mark.parametrize("model", NANO)
def test_a_file_alone_runs_as_its_artifact_does(model, bare, artifacts, tmp_path):
    alone, artifact = open_artifact(bare(model)), Artifact.open(artifacts(model, "gguf-q8_0"))
    assert alone.label == artifact.label
    assert alone.manifest.model.windows == artifact.manifest.model.windows
    assert alone.manifest.model.stop_ids == artifact.manifest.model.stop_ids
    assert alone.manifest.tensor_types == artifact.manifest.tensor_types
    questions = read_questions(
        write_questions(tmp_path / "q.csv", ["Do bats see?", "Why is the sky blue — in 3 words?"])
    )
    for name, opened in (("alone", alone), ("artifact", artifact)):
        run(opened, questions, tmp_path / name, DecodeSettings(40), date=DAY, runtime=Runtime(1, "rows"))
    ours, theirs = (Run.open(tmp_path / name) for name in ("alone", "artifact"))
    assert ours.steps().drop_columns(["step_ms"]).equals(theirs.steps().drop_columns(["step_ms"]))
    for column in ("prompt_ids", "prompt_text", "answer", "stop_reason"):
        assert ours.answers().column(column).equals(theirs.answers().column(column)), column
    assert not ours.manifest.same_checkpoint(
        theirs.manifest
    )  # nothing in the file says what it was made from


def test_the_file_of_an_artifact_is_the_artifact(artifacts):
    folder = artifacts("odd", "gguf-f32")
    assert open_artifact(folder / "model.gguf") == open_artifact(folder)


def test_a_tokenizer_beside_the_file_is_used(bare, artifacts):
    path = bare()
    own = open_artifact(path)
    shutil.copyfile(
        artifacts("nano-llama", "gguf-q8_0") / "tokenizer.json", path.with_name("tokenizer.json")
    )
    both = open_artifact(path)
    artifact = Artifact.open(artifacts("nano-llama", "onnx-fp32"))
    assert (
        both.manifest.tokenizer_sha256 == artifact.manifest.tokenizer_sha256 != own.manifest.tokenizer_sha256
    )
    text = "Do häns bark 123 times — at the ☃?"
    assert (
        Prompter(both, "raw").prompt(text)
        == Prompter(own, "raw").prompt(text)
        == Prompter(artifact, "raw").prompt(text)
    )


def test_a_token_beyond_the_models_rows_does_not_make_it_another_tokenizer(bare, artifacts):
    path = bare()
    raw = json.loads((artifacts("nano-llama", "gguf-q8_0") / "tokenizer.json").read_text())
    rows = open_artifact(path).manifest.model.vocabulary
    raw["added_tokens"].append(raw["added_tokens"][0] | {"id": rows, "content": "<image_soft_token>"})
    path.with_name("tokenizer.json").write_text(json.dumps(raw))
    assert Prompter(open_artifact(path), "raw").prompt("Do bats see?").ids


def test_two_precisions_of_one_model_read_the_same_tokens(bare):
    digests = {
        open_artifact(bare(precision=p)).manifest.tokenizer_sha256
        for p in ("gguf-f16", "gguf-q4_0", "gguf-q8_0")
    }
    assert len(digests) == 1


def test_a_model_name_cannot_command_a_terminal(tmp_path):
    path = rewritten(
        ROOT / "edge" / "data" / "probe-llama.gguf",
        tmp_path / "a.gguf",
        {"general.name": "a\x1b[31mb\nc" * 30},
    )
    write_tokens(path)
    name = open_artifact(path).manifest.model_id
    assert name.startswith("a[31mbc")
    assert len(name) == 80


def test_a_chat_template_from_a_file_runs_in_the_sandbox(tmp_path):
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    path = rewritten(
        ROOT / "edge" / "data" / "probe-llama.gguf", tmp_path / "a.gguf", {"tokenizer.chat_template": evil}
    )
    write_tokens(path)
    with pytest.raises(UserError, match="the chat template fails"):
        Prompter(open_artifact(path)).prompt("t1")


# Making files that are not as they should be


def rewritten(source, target, changes):
    """A copy of a GGUF file with keys replaced, added, or left out (None)."""
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, changes.get("general.architecture", arch))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in changes:
            continue
        kind = field.types[0]
        writer.add_key_value(
            key, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        )
    for key, value in changes.items():
        if value is not None and key != "general.architecture":
            kind = gguf.GGUFValueType.get_type(value)
            if isinstance(value, int):
                kind = gguf.GGUFValueType.UINT32
            writer.add_key_value(key, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def write_tokens(path, size=32):
    """tokenizer.json of so many words beside a file that has no tokenizer."""
    vocabulary = {f"t{i}": i for i in range(size)}
    raw = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"},
    }
    path.with_name("tokenizer.json").write_text(json.dumps(raw))
    rewritten(path, path.with_name("new.gguf"), {"tokenizer.ggml.eos_token_id": 1})
    path.with_name("new.gguf").rename(path)


@pytest.fixture
def world(artifacts, tmp_path):
    """Everything that the commands below name."""
    good = artifacts("nano-llama", "gguf-q8_0") / "model.gguf"

    def folder(name):
        (tmp_path / name).mkdir()
        return tmp_path / name / "m.gguf"

    write_questions(tmp_path / "q.csv", ["Why?"])
    shutil.copyfile(good, folder("good"))
    content = good.read_bytes()
    folder("cut").write_bytes(content[: len(content) // 2])
    folder("head").write_bytes(content[:200])
    folder("foreign").write_bytes(b"PK\x03\x04" + bytes(500))
    folder("empty").write_bytes(b"")
    folder("garbage").write_bytes(b"GGUF" + bytes(range(256)) * 8)
    probe = ROOT / "edge" / "data" / "probe-llama.gguf"
    rewritten(probe, folder("phi"), {"general.architecture": "phi3"})
    rewritten(probe, folder("split"), {"split.count": 3})
    shutil.copyfile(probe, folder("wordless"))
    rewritten(good, folder("shapeless"), {"llama.attention.head_count": "many"})
    words = gguf.GGUFReader(good).fields["tokenizer.ggml.tokens"].contents()
    rewritten(good, folder("twins"), {"tokenizer.ggml.tokens": [*words[:-1], words[0]]})
    shutil.copyfile(good, folder("other-tokenizer"))
    vocabulary = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": {"x": 0}, "unk_token": "x"},
    }
    (tmp_path / "other-tokenizer" / "tokenizer.json").write_text(json.dumps(vocabulary))
    shutil.copytree(artifacts("odd", "onnx-fp32"), tmp_path / "onnx")
    shutil.copytree(artifacts("odd", "gguf-q8_0"), tmp_path / "artifact")
    shutil.copytree(artifacts("odd", "gguf-q8_0"), tmp_path / "cut-artifact")
    with (tmp_path / "cut-artifact" / "model.gguf").open("r+b") as stream:
        stream.truncate(3000)
    return tmp_path


def asking(path, *more):
    return ["run", f"{{{path}}}", "--questions", "{q.csv}", "--out", "{new}", *more]


REFUSED = [
    (asking("cut/m.gguf"), "bytes of the"),
    (asking("head/m.gguf"), "{head/m.gguf} is a damaged GGUF file"),
    (asking("garbage/m.gguf"), "{garbage/m.gguf} is a damaged GGUF file"),
    (asking("foreign/m.gguf"), "{foreign/m.gguf} is not a GGUF file (it does not begin with GGUF)"),
    (asking("empty/m.gguf"), "{empty/m.gguf} is not a GGUF file"),
    (
        asking("phi/m.gguf"),
        "holds the architecture 'phi3', which is not traced; those traced: llama, qwen2, qwen3, gemma3",
    ),
    (asking("split/m.gguf"), "is one part of 3 of a split model: merge all parts with llama.cpp's"),
    (asking("wordless/m.gguf"), "holds no tokenizer: put the model's tokenizer.json beside it"),
    (asking("shapeless/m.gguf"), "does not describe a model (llama.attention.head_count is 'many')"),
    (asking("twins/m.gguf"), "{twins/m.gguf} has two tokens with the same text"),
    (asking("other-tokenizer/m.gguf"), "tokenizer.json} is not the tokenizer of m.gguf"),
    (asking("cut-artifact"), "model.gguf has 3000 bytes instead of"),
    (asking("artifact", "--kv-cache", "q8"), "--kv-cache is 'q8': choose from f16, f32"),
    (asking("artifact", "--taps", "all"), "--taps is 'all': choose from auto, rows, none"),
    (asking("artifact", "--gpu-layers", "-1"), "--gpu-layers is -1"),
    (asking("onnx", "--kv-cache", "f16"), "--kv-cache is llama.cpp's and"),
    (asking("onnx", "--low-memory"), "--low-memory is llama.cpp's and"),
    (asking("onnx", "--gpu-layers", "2"), "--gpu-layers is llama.cpp's and"),
    (asking("onnx", "--taps", "none"), "has its taps built in"),
    (["ask", "{artifact}", "the " * 3000], "tokens, the artifact was built for 1024: ask a shorter one"),
]


@pytest.mark.parametrize(
    ("arguments", "words"), REFUSED, ids=[case[0][1] + " ".join(case[0][6:]) for case in REFUSED]
)
def test_bad_files_and_options_are_one_sentence_and_nothing_written(arguments, words, world, capsys):
    capsys.readouterr()
    before = tree(world)
    code = call(edge.cli.app.main, arguments, world)
    captured = capsys.readouterr()
    if "{" not in words and "}" in words:
        words = words.replace("}", "")
    assert_refused(code, captured.out, captured.err, words, world, before)


def test_every_truncation_of_a_file_is_refused(artifacts, tmp_path):
    """Wherever a download broke off."""
    content = (ROOT / "edge" / "data" / "probe-llama.gguf").read_bytes()
    path = tmp_path / "m.gguf"
    for size in [*range(64), *range(64, len(content), 997), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"not a GGUF file|damaged|bytes of the"), Header(path):
            pass


def test_a_question_that_does_not_fit_the_context_is_an_answer_without_tokens(artifacts, tmp_path):
    write_questions(tmp_path / "q.csv", ["Why?", "the " * 3000])
    arguments = [
        "run",
        str(artifacts("odd", "gguf-q8_0")),
        "--questions",
        "{q.csv}",
        "--out",
        "{run}",
        "--max-new-tokens",
        "4",
    ]
    assert call(edge.cli.app.main, [*arguments, "--quiet"], tmp_path) == 0
    answers = Run.open(tmp_path / "run").answers()
    assert answers.column("stop_reason").to_pylist()[1] == "context"
    assert answers.column("tokens").to_pylist()[1] == 0


def test_an_answer_ends_where_the_context_does(tmp_path):
    build = ["build", "nano-llama", "--to", "gguf-q8_0", "--out", "{short}", "--context", "30"]
    assert call(export.cli.main, build, tmp_path) == 0
    write_questions(tmp_path / "q.csv", ["Do bats see?"])
    arguments = ["run", "{short/gguf-q8_0}", "--questions", "{q.csv}", "--out", "{run}", "--quiet"]
    assert call(edge.cli.app.main, arguments, tmp_path) == 0
    (row,) = (
        Run.open(tmp_path / "run")
        .answers(["question_index", "prompt_ids", "tokens", "stop_reason"])
        .to_pylist()
    )
    assert row["stop_reason"] == "context"
    assert len(row["prompt_ids"]) + row["tokens"] - 1 == 30


def test_without_the_binding_a_gguf_file_is_refused_in_one_sentence(
    artifacts, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", None)
    assert call(edge.cli.app.main, ["ask", str(artifacts("odd", "gguf-q8_0")), "Why?"], tmp_path) == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    assert "GGUF models need llama-cpp-python" in line
    assert "edgetrace[llama]" in line


def test_values_of_every_type_are_read(tmp_path):
    types = gguf.GGUFValueType
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    cases = {
        "u8": (200, types.UINT8),
        "i8": (-3, types.INT8),
        "u16": (60000, types.UINT16),
        "i16": (-9, types.INT16),
        "u32": (4_000_000_000, types.UINT32),
        "i32": (-5, types.INT32),
        "f32": (0.5, types.FLOAT32),
        "bool": (True, types.BOOL),
        "u64": (1 << 60, types.UINT64),
        "i64": (-(1 << 60), types.INT64),
        "f64": (0.1, types.FLOAT64),
        "str": ("héllo", types.STRING),
    }
    for name, (value, kind) in cases.items():
        writer.add_key_value(name, value, kind)
    writer.add_array("words", ["a", "", "ü"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("flags", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with Header(tmp_path / "m.gguf") as header:
        for name, (value, _) in cases.items():
            assert header.value(name) == value, name
        assert header.value("words") == ["a", "", "ü"]
        assert header.value("numbers") == [1, -2, 3]
        assert header.value("flags") == [True, False]
        assert header.value("absent") is None
        assert set(cases) < set(header.keys())
