"""edge-export build: what an artifact holds, what is reused, what is refused, and that nothing is left
half-done."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import export.cli
from edge.artifact import Artifact
from edge.backends.onnx import OnnxBackend
from edge.errors import UserError
from export.build import build
from export.checkpoint import Checkpoint
from export.graph.architectures import read_config
from tests import models
from tests.conftest import ROOT, tree
from tests.test_cli_errors import call

IDS = np.random.default_rng(0).integers(4, 290, 30).tolist()


def logits(artifact: Artifact) -> np.ndarray:
    return np.copy(OnnxBackend(artifact, threads=1).prefill(IDS).logits)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A checkpoint of one's own to damage."""
    return models.write_checkpoint(tmp_path / "tiny", models.config_of(num_hidden_layers=1))


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    models.write_json(
        folder / "config.json", {key: value for key, value in config.items() if value != "absent"}
    )


def edit_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def refused(folder: Path, out: Path, words: str, precision: str = "onnx-int4") -> None:
    """The build fails with these words and leaves nothing behind."""
    before = tree(out.parent)
    with pytest.raises(UserError) as caught:
        build(str(folder), [precision], out)
    assert words in str(caught.value)
    assert tree(out.parent) == before


# What is built


def test_the_manifest_says_what_the_artifact_is(checkpoints, artifacts):
    manifest = Artifact.open(artifacts("untied", "onnx-int4")).manifest
    spec = manifest.model
    assert (manifest.model_id, manifest.precision, manifest.taps, spec.architecture) == (
        "untied",
        "onnx-int4",
        "rows",
        "llama",
    )
    assert (spec.layers, spec.hidden, spec.heads, spec.kv_heads, spec.head_dim) == (3, 48, 4, 2, 32)
    assert (spec.vocabulary, spec.context, spec.windows) == (models.VOCABULARY, 1024, (0, 0, 0))
    assert spec.stop_ids == (1, 3)  # config.json, generation_config.json and </s>
    assert manifest.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert manifest.quantization == {"bits": 4, "block_size": 32, "accuracy_level": 4}
    assert manifest.tensor_types["int4"] == 2 + 3 * 5  # embedding, lm_head; qkv, o, gate, up, down
    assert manifest.notice == ""
    with Checkpoint(checkpoints("untied")) as checkpoint:
        assert manifest.checkpoint_sha256 == checkpoint.sha256()


def test_the_manifest_lists_every_file_with_its_checksum(artifacts):
    folder = artifacts("untied")
    manifest = Artifact.open(folder).manifest
    assert {p.name for p in folder.iterdir()} == {*manifest.files, "manifest.json"}
    assert set(manifest.files) == {"model.onnx", "model.onnx.data", "tokenizer.json", "chat_template.jinja"}
    for name, record in manifest.files.items():
        content = (folder / name).read_bytes()
        assert (record.size, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert "chat_template.jinja" not in Artifact.open(artifacts("odd")).manifest.files


def test_the_kv_sizes_of_the_paper_come_out():
    from edge.artifact import ModelSpec

    llama = ModelSpec("llama", 16, 2048, 32, 8, 64, 128256, 4096, (0,) * 16, (1,))
    assert llama.kv_bytes(100) == 2 * 16 * 8 * 64 * 4 * 100
    assert llama.kv_bytes(0) == 0


def test_two_builds_of_one_checkpoint_are_the_same_bytes(checkpoint, tmp_path):
    for precision in ("onnx-fp32", "onnx-int8", "onnx-int4"):
        first, second = (
            build(str(checkpoint), [precision], tmp_path / name)[0].artifact.path for name in "ab"
        )
        assert tree(first) == tree(second)


def test_a_tied_embedding_is_stored_once(tmp_path):
    sizes = {}
    for tied in (True, False):
        folder = models.write_checkpoint(
            tmp_path / str(tied), models.config_of(num_hidden_layers=1, tie_word_embeddings=tied)
        )
        built = build(str(folder), ["onnx-int8", "onnx-fp32"], tmp_path / f"{tied}-out")
        sizes[tied] = [b.artifact.manifest.files["model.onnx.data"].size for b in built]
    assert sizes[False][1] - sizes[True][1] >= models.VOCABULARY * 48 * 4
    assert sizes[False][0] - sizes[True][0] >= models.VOCABULARY * 48


@pytest.mark.parametrize("precision", ["onnx-fp32", "onnx-int4"])
def test_shards_with_an_index_give_the_artifact_of_one_file(precision, tmp_path):
    config = models.config_of(num_hidden_layers=1)
    whole = models.write_checkpoint(tmp_path / "whole", config)
    sharded = models.write_checkpoint(tmp_path / "sharded", config, shards=3)
    a, b = (
        build(str(folder), [precision], tmp_path / f"{folder.name}-out")[0].artifact
        for folder in (whole, sharded)
    )
    assert (a.path / "model.onnx.data").read_bytes() == (b.path / "model.onnx.data").read_bytes()
    assert a.manifest.checkpoint_sha256 != b.manifest.checkpoint_sha256
    np.testing.assert_array_equal(logits(a), logits(b))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_half_precision_weights_are_widened_exactly(dtype, tmp_path):
    config = models.config_of(num_hidden_layers=1)
    half = models.write_checkpoint(tmp_path / "half", config, dtype=dtype)
    with Checkpoint(half) as checkpoint:
        widened = {name: checkpoint.tensor(name, checkpoint.shape(name)) for name in checkpoint.names()}
    full = models.write_checkpoint(tmp_path / "full", config, weights=widened)
    original = models.tensors(config)["model.embed_tokens.weight"]
    error = np.abs(widened["model.embed_tokens.weight"] - original).max()
    assert 0 < error < 0.01
    a, b = (
        build(str(folder), ["onnx-fp32"], tmp_path / f"{folder.name}-out")[0].artifact
        for folder in (half, full)
    )
    assert (a.path / "model.onnx.data").read_bytes() == (b.path / "model.onnx.data").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {
            "rope_scaling": "absent",
            "rope_theta": "absent",
            "rope_parameters": models.LLAMA3 | {"rope_theta": 500000.0},
        },
        {
            "rope_scaling": {
                ("type" if key == "rope_type" else key): value for key, value in models.LLAMA3.items()
            }
        },
        {"rope_scaling": None, "rope_parameters": models.LLAMA3 | {"rope_theta": 500000.0}},
    ],
)
def test_rope_settings_of_transformers_5_and_of_older_files_mean_the_same(
    changes, checkpoints, artifacts, tmp_path
):
    folder = tmp_path / "llama3"
    shutil.copytree(checkpoints("llama3"), folder)
    edit_config(folder, **changes)
    built = build(str(folder), ["onnx-fp32"], tmp_path / "out")[0].artifact
    assert (built.path / "model.onnx.data").read_bytes() == (
        artifacts("llama3") / "model.onnx.data"
    ).read_bytes()
    edit_config(folder, rope_scaling=None, rope_parameters=None)
    plain = build(str(folder), ["onnx-fp32"], tmp_path / "plain")[0].artifact
    assert np.abs(logits(plain) - logits(built)).max() > 1e-3  # the scaling does count


def test_the_context_bounds_the_artifact(checkpoint, tmp_path):
    built = build(str(checkpoint), ["onnx-fp32"], tmp_path / "out", context=64)[0].artifact
    assert built.manifest.model.context == 64
    assert OnnxBackend(built, threads=1).capacity == 64


# What is there already


def test_an_identical_artifact_is_reused_untouched(checkpoint, tmp_path):
    first = build(str(checkpoint), ["onnx-int4"], tmp_path / "out")[0]
    stamps = {p.name: p.stat().st_mtime_ns for p in first.artifact.path.iterdir()}
    again = build(str(checkpoint), ["onnx-int4"], tmp_path / "out")[0]
    assert (first.reused, again.reused) == (False, True)
    assert again.artifact == first.artifact
    assert {p.name: p.stat().st_mtime_ns for p in first.artifact.path.iterdir()} == stamps


@pytest.mark.parametrize("change", ["weights", "taps", "context", "tokenizer", "template", "stop"])
def test_another_artifact_in_the_same_place_is_replaced_by_force_alone(change, checkpoint, tmp_path):
    out = tmp_path / "out"
    build(str(checkpoint), ["onnx-int4"], out)
    options: dict = {}
    if change == "weights":
        edit_weights(checkpoint, lambda w: w["model.norm.weight"].__imul__(2))
    elif change in ("taps", "context"):
        options = {"taps": "none"} if change == "taps" else {"context": 32}
    elif change == "tokenizer":
        models.tokenizer(bos=False).save(str(checkpoint / "tokenizer.json"))
    elif change == "template":
        (checkpoint / "chat_template.jinja").write_text("{{ messages[0].content }}")
    else:
        models.write_json(checkpoint / "generation_config.json", {"eos_token_id": [1, 2]})
    before = tree(out)
    with pytest.raises(UserError, match=r"holds another artifact .* --force"):
        build(str(checkpoint), ["onnx-int4"], out, **options)
    assert tree(out) == before
    assert build(str(checkpoint), ["onnx-int4"], out, overwrite=True, **options)[0].reused is False
    assert tree(out) != before
    assert build(str(checkpoint), ["onnx-int4"], out, **options)[0].reused is True


def test_a_damaged_artifact_is_named_and_force_mends_it(checkpoint, tmp_path):
    out = tmp_path / "out"
    path = build(str(checkpoint), ["onnx-int4"], out)[0].artifact.path
    whole = tree(out)
    with (path / "model.onnx.data").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(UserError, match=r"model\.onnx\.data has 1000 bytes .* --force"):
        build(str(checkpoint), ["onnx-int4"], out)
    build(str(checkpoint), ["onnx-int4"], out, overwrite=True)
    assert tree(out) == whole


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_artifact_is_never_replaced(force, checkpoint, tmp_path):
    precious = tmp_path / "out" / "onnx-int4" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    with pytest.raises(UserError, match="is no artifact"):
        build(str(checkpoint), ["onnx-int4"], tmp_path / "out", overwrite=force)
    assert precious.read_text() == "years of work"


# What is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "'gpt2', an architecture that is not built; those built: llama"),
        ({"model_type": "absent"}, "those built: llama"),
        ({"attention_bias": True}, "attention_bias=True, which is not built"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope type 'yarn', which is not built; the types built are",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope type 'linear'"),
        ({"rope_scaling": "llama3"}, "rope_scaling is 'llama3', an object is needed"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"hidden_size": "absent"}, "hidden_size is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "many"}, "vocab_size is 'many'"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 key/value heads"),
        ({"head_dim": 12}, "head_dim is 12, which is not built"),
        ({"num_hidden_layers": 2}, "has no tensor model.layers.1."),
        ({"tie_word_embeddings": False}, "has no tensor lm_head.weight"),
        ({"intermediate_size": 80}, "has shape (72, 48) where config.json asks for (80, 48)"),
    ],
)
def test_a_config_that_is_not_built_is_refused_by_its_key(changes, words, checkpoint, tmp_path):
    edit_config(checkpoint, **changes)
    refused(checkpoint, tmp_path / "out", words)


def set_nan(weights):
    weights["model.layers.0.mlp.down_proj.weight"][5, 7] = np.nan


def set_infinite(weights):
    weights["model.norm.weight"][3] = np.inf


def drop(weights):
    del weights["model.layers.0.self_attn.o_proj.weight"]


def transpose(weights):
    name = "model.layers.0.mlp.gate_proj.weight"
    weights[name] = np.ascontiguousarray(weights[name].T)


def integers(weights):
    weights["model.norm.weight"] = weights["model.norm.weight"].astype(np.int32)


@pytest.mark.parametrize("precision", ["onnx-fp32", "onnx-int8"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_nan, "model.layers.0.mlp.down_proj.weight has NaN or infinite weights"),
        (set_infinite, "model.norm.weight has NaN or infinite weights"),
        (drop, "has no tensor model.layers.0.self_attn.o_proj.weight"),
        (
            transpose,
            "model.layers.0.mlp.gate_proj.weight has shape (48, 72) where config.json asks for (72, 48)",
        ),
        (integers, "model.norm.weight has type I32; the types read are BF16, F16, F32"),
    ],
)
def test_damaged_weights_are_refused_by_the_tensors_name(change, words, precision, checkpoint, tmp_path):
    edit_weights(checkpoint, change)
    refused(checkpoint, tmp_path / "out", words, precision)


@pytest.mark.parametrize("keep", [0, 5, 400, 100_000])
def test_a_truncated_weight_file_is_refused(keep, checkpoint, tmp_path):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(checkpoint, tmp_path / "out", "model.safetensors is not a whole safetensors file")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer.json", None, "tokenizer.json is missing"),
        ("tokenizer.json", "{", "tokenizer.json is not a tokenizer"),
        ("config.json", None, "config.json is missing"),
        ("config.json", "[]", "config.json does not hold a JSON object"),
        ("config.json", "{'a': 1}", "config.json cannot be read as JSON"),
        ("tokenizer_config.json", b"\xff\xfe", "tokenizer_config.json cannot be read as JSON"),
        ("chat_template.jinja", b"caf\xe9", "chat_template.jinja is not UTF-8"),
        ("model.safetensors", None, "has no *.safetensors file"),
        (
            "model.safetensors",
            {"index": {"a": "gone.safetensors"}},
            "gone.safetensors is missing though model.safetensors.index.json",
        ),
        ("model.safetensors", {"index": None}, "has no weight_map"),
    ],
)
def test_missing_and_unreadable_files_are_refused_by_name(name, content, words, checkpoint, tmp_path):
    path = checkpoint / name
    if isinstance(content, dict):
        path.unlink()
        models.write_json(checkpoint / "model.safetensors.index.json", {"weight_map": content["index"]})
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(checkpoint, tmp_path / "out", words)


def test_a_checkpoint_that_never_ends_an_answer_is_refused(checkpoint, tmp_path):
    edit_config(checkpoint, eos_token_id=None)
    models.write_json(checkpoint / "generation_config.json", {})
    models.write_json(checkpoint / "tokenizer_config.json", {})
    text = (checkpoint / "tokenizer.json").read_text().replace('"</s>"', '"<z>"')
    (checkpoint / "tokenizer.json").write_text(text.replace('"<|end|>"', '"<|fin|>"'))
    refused(checkpoint, tmp_path / "out", "names no end-of-text token")


def test_a_source_that_is_nothing_is_refused_with_those_there_are(tmp_path):
    refused(
        Path("no-such-model"),
        tmp_path / "out",
        "'no-such-model' is neither a checkpoint folder, a GGUF file nor a known model: choose from",
    )


def test_bad_numbers_are_refused_before_anything_is_read(checkpoint, tmp_path):
    for options, words in (({"taps": "all"}, "unknown taps 'all'"), ({"context": 0}, "--context is 0")):
        with pytest.raises(UserError, match=words):
            build(str(checkpoint), ["onnx-fp32"], tmp_path / "out", **options)
    with pytest.raises(UserError, match="choose from onnx-fp32, onnx-int8, onnx-int4"):
        build(str(checkpoint), ["onnx-fp32", "int3"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_raw_taps_are_rows_by_another_name_and_a_note_says_that_it_will_go(checkpoint, tmp_path, capsys):
    arguments = ["build", str(checkpoint), "--to", "onnx-int4", "--out", "{out}"]
    for name in ("raw", "rows"):
        out = tmp_path / name
        assert call(export.cli.main, [*arguments[:-1], str(out), "--taps", name], tmp_path) == 0
        said = capsys.readouterr().err.strip()
        note = "note: --taps raw is another name for --taps rows and will go: leave --taps out"
        assert said == (note if name == "raw" else "")
        assert Artifact.open(out / "onnx-int4").manifest.taps == name
    raw, rows = (tmp_path / name / "onnx-int4" / "model.onnx" for name in ("raw", "rows"))
    assert raw.read_bytes() == rows.read_bytes()
    backend = OnnxBackend(Artifact.open(raw.parent), threads=1)
    assert backend.prefill([5, 6, 7]).attention is not None


# Killed builds


def test_a_killed_build_leaves_no_artifact_and_the_next_one_is_whole(tmp_path):
    config = models.config_of(hidden_size=512, intermediate_size=2048, num_hidden_layers=8, head_dim=64)
    folder, out = models.write_checkpoint(tmp_path / "large", config), tmp_path / "out"
    program = (
        "import sys, pathlib, export.build as b; "
        "b.build(sys.argv[1], ['onnx-int4'], pathlib.Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(folder), str(out)], cwd=ROOT)
    try:
        data = out / ".onnx-int4.building" / "model.onnx.data"
        deadline = time.monotonic() + 60
        while not (data.is_file() and data.stat().st_size > 100_000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [p.name for p in out.iterdir()] == [".onnx-int4.building"]
    built = build(str(folder), ["onnx-int4"], out)[0]
    assert not built.reused
    assert [p.name for p in out.iterdir()] == ["onnx-int4"]
    Artifact.open(built.artifact.path)


def test_an_artifact_is_checked_when_it_is_opened(artifacts, tmp_path):
    def damaged(change, words):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(artifacts("odd"), folder)
        change(folder)
        with pytest.raises(UserError) as caught:
            Artifact.open(folder)
        assert words in str(caught.value)
        return folder

    def flip(folder):
        content = bytearray((folder / "model.onnx.data").read_bytes())
        content[5000] ^= 1
        (folder / "model.onnx.data").write_bytes(content)

    def manifest(**changes):
        def change(folder):
            raw = json.loads((folder / "manifest.json").read_text()) | changes
            models.write_json(folder / "manifest.json", raw)

        return change

    damaged(lambda f: f.rename(tmp_path / "moved"), "no artifact at")
    damaged(lambda f: (f / "manifest.json").unlink(), "has no manifest.json")
    damaged(lambda f: (f / "manifest.json").write_text("{"), "manifest.json cannot be read")
    damaged(lambda f: (f / "manifest.json").write_bytes(b"\xff"), "manifest.json cannot be read (")
    damaged(manifest(schema_version=99), "schema_version is 99, this Edgetrace reads 1")
    damaged(manifest(surprise=1), "manifest.json cannot be read (")
    damaged(
        manifest(files={name: {"size": 1, "sha256": ""} for name in ("../secret", "tokenizer.json")}),
        "which is not a plain name",
    )
    damaged(manifest(files={}), "lists no tokenizer.json")
    damaged(lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing")
    folder = damaged(flip, "model.onnx.data does not match its checksum")
    assert Artifact.open(folder, verify=False).manifest.model_id == "odd"


def test_a_disk_too_small_is_refused_before_anything_is_written(checkpoint, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000_000))
    with pytest.raises(UserError, match=r"needs 0\.1 GB and its disk has 0\.1 GB free"):
        build(str(checkpoint), ["onnx-fp32"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_progress_counts_the_bytes_of_the_weights(checkpoint, tmp_path):
    heard = []
    built = build(
        str(checkpoint),
        ["onnx-int4"],
        tmp_path / "out",
        on_bytes=lambda done, total: heard.append((done, total)),
    )
    done, totals = zip(*heard, strict=True)
    assert list(done) == sorted(done)
    assert len(set(totals)) == 1
    assert done[-1] == totals[0]
    assert built[0].artifact.manifest.files["model.onnx.data"].size >= done[-1]


def decoder(**changes):
    """The graph's settings for one of models.SHAPES with changes."""
    shape = changes.pop("shape")
    return read_config(models.config_of(**(models.SHAPES[shape] | changes)), 512)


def test_gemmas_two_rope_bases_are_read_in_both_forms():
    nested = {
        "full_attention": {"rope_type": "default", "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    flat = decoder(shape="gemma3", rope_theta=5e5, rope_local_base_freq=2e4)
    assert (
        decoder(shape="gemma3", rope_parameters=nested, rope_theta=None, rope_local_base_freq=None) == flat
    )
    assert (flat.rope.theta, flat.local_rope.theta) == (5e5, 2e4)
    assert flat.windows == (90, 90, 90, 90, 90, 0, 90)
    assert decoder(shape="gemma3", sliding_window_pattern=3).windows == (90, 90, 0, 90, 90, 0, 90)
    assert flat.embedding_scale == math.sqrt(48)
    assert flat.query_scale == 20**-0.5


def test_a_qwen_window_counts_only_where_it_is_switched_on():
    assert decoder(shape="qwen2-window").windows == (0, 90, 90)
    assert decoder(shape="qwen2-window", use_sliding_window=False).windows == (0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": "gemma3", "final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ({"shape": "gemma3", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ({"shape": "gemma3", "use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({"shape": "gemma3", "hidden_activation": "silu"}, "hidden_activation='silu'"),
        ({"shape": "gemma3", "layer_types": ["full_attention"]}, "one entry for each of 7 layers"),
        (
            {"shape": "gemma3", "layer_types": ["chunked_attention"] * 7},
            "the layer type 'chunked_attention'",
        ),
        ({"shape": "gemma3", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "rope type 'linear'"),
        ({"shape": "qwen3", "attention_bias": True}, "attention_bias=True"),
        ({"shape": "qwen2", "hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"shape": "qwen2", "tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    ],
)
def test_what_an_architecture_does_not_build_is_refused_by_name(changes, words):
    with pytest.raises(UserError, match=re.escape(words)):
        decoder(**changes)


def test_too_little_memory_is_refused_before_anything_is_written(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("export.space.available_memory", lambda: 100_000_000)
    with pytest.raises(UserError, match=r"about 0\.6 GB of memory and 0\.1 GB are available"):
        build(str(checkpoint), ["onnx-fp32"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
