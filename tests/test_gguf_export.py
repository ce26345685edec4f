"""GGUF files that `edge-export build` makes: every tensor, the keys, what is refused, what is left when a
build fails."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

import export.cli
from edge.architectures import ARCHITECTURES
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.llamacpp import LlamaBackend
from edge.errors import UserError, ignore
from edge.precision import PRECISIONS
from export import gguf_artifact, probe
from export.build import build
from export.source import Source
from export.verify import verify
from tests import models
from tests.conftest import ROOT, tree
from tests.parity import NANO
from tests.test_cli_errors import call

pytestmark = pytest.mark.slow

SHAPES = [shape for shape in models.SHAPES if shape != "qwen2-window"]


def read(folder):
    """Tensors by name as float arrays [rows, columns], and the reader for its keys."""
    reader = gguf.GGUFReader(folder / "model.gguf")
    return {
        t.name: np.array(t.data).reshape(tuple(reversed(t.shape.tolist()))) for t in reader.tensors
    }, reader


def key(reader, name):
    return reader.fields[name].contents() if name in reader.fields else None


def pairs(matrix, heads):
    """A slow twin of the reordering: in each head, row i of the first half and row i of the second become
    neighbours."""
    size = len(matrix) // heads
    order = [
        h * size + i + half * (size // 2) for h in range(heads) for i in range(size // 2) for half in (0, 1)
    ]
    return matrix[order]


def expected(folder, config):
    """Every tensor as llama.cpp wants it, from the checkpoint's file, name by name."""
    weights, kind = load_file(folder / "model.safetensors"), config["model_type"]
    gemma = kind == "gemma3_text"
    made = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"] + gemma,
    }
    if not config["tie_word_embeddings"]:
        made["output.weight"] = weights["lm_head.weight"]
    names = {
        "input_layernorm": "attn_norm",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    if gemma:
        names |= {
            "post_attention_layernorm": "post_attention_norm",
            "pre_feedforward_layernorm": "ffn_norm",
            "post_feedforward_layernorm": "post_ffw_norm",
        }
    for layer in range(config["num_hidden_layers"]):
        for ours, theirs in names.items():
            for part in ("weight", "bias"):
                value = weights.get(f"model.layers.{layer}.{ours}.{part}")
                if value is None:
                    continue
                if "norm" in ours and gemma:
                    value = value + np.float32(1)
                if ours == "self_attn.q_norm" and gemma:
                    value = value * np.float32((config["head_dim"] / config["query_pre_attn_scalar"]) ** 0.5)
                if kind == "llama" and ours in ("self_attn.q_proj", "self_attn.k_proj"):
                    value = pairs(
                        value, config["num_attention_heads" if "q_proj" in ours else "num_key_value_heads"]
                    )
                made[f"blk.{layer}.{theirs}.{part}"] = value
    return made


@pytest.mark.parametrize("precision", ["gguf-f32", "gguf-f16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tensor_is_the_checkpoints(shape, precision, checkpoints, artifacts):
    tensors, _ = read(artifacts(shape, precision))
    factors = tensors.pop("rope_freqs.weight", None)
    assert (factors is not None) == (shape == "llama3")
    config = models.config_of(**models.SHAPES[shape])
    wanted = expected(checkpoints(shape), config)
    assert tensors.keys() == wanted.keys()
    for name, value in wanted.items():
        stored = np.float16 if precision == "gguf-f16" and value.ndim == 2 else np.float32
        assert tensors[name].dtype == stored, name
        if "attn_q_norm" in name and config["model_type"] == "gemma3_text":
            np.testing.assert_allclose(tensors[name], value, rtol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(tensors[name], value.astype(stored), err_msg=name)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_weights_and_shards_are_widened_exactly(dtype, tmp_path):
    config = models.config_of(**models.SHAPES["gemma3-odd"])
    folder = models.write_checkpoint(tmp_path / "model", config, dtype=dtype)
    cut = models.write_checkpoint(tmp_path / "cut" / "model", config, dtype=dtype, shards=3)
    whole, parts = (
        build(str(f), ["gguf-f32"], tmp_path / f"out{i}")[0].artifact for i, f in enumerate((folder, cut))
    )
    assert whole.weights.read_bytes() == parts.weights.read_bytes()
    stored = {
        name: value.astype(np.float32) for name, value in load_file(folder / "model.safetensors").items()
    }
    tensors, _ = read(whole.path)
    np.testing.assert_array_equal(tensors["token_embd.weight"], stored["model.embed_tokens.weight"])
    np.testing.assert_array_equal(
        tensors["blk.3.ffn_down.weight"], stored["model.layers.3.mlp.down_proj.weight"]
    )
    # 1 + w in float32, as transformers adds it: float16 would round
    np.testing.assert_array_equal(tensors["output_norm.weight"], stored["model.norm.weight"] + np.float32(1))


@pytest.mark.parametrize(("layers", "width"), [(61, 40), (62, 12)])
def test_the_queries_norm_takes_over_what_llama_cpp_scales_otherwise(layers, width, tmp_path):
    """By head_dim^-0.5 = 40^-0.5, in the model of 62 layers by (hidden / heads)^-0.5 = (48 / 4)^-0.5."""
    config = models.config_of(model_type="gemma3_text", num_hidden_layers=layers, query_pre_attn_scalar=24)
    folder = models.write_checkpoint(tmp_path / "model", config)
    stored = load_file(folder / "model.safetensors")
    tensors, _ = read(build(str(folder), ["gguf-f32"], tmp_path / "out")[0].artifact.path)
    for layer in (0, layers - 1):
        wanted = (1 + stored[f"model.layers.{layer}.self_attn.q_norm.weight"]) * (width / 24) ** 0.5
        np.testing.assert_allclose(tensors[f"blk.{layer}.attn_q_norm.weight"], wanted, rtol=1e-6)
        k_norm = stored[f"model.layers.{layer}.self_attn.k_norm.weight"]
        np.testing.assert_array_equal(tensors[f"blk.{layer}.attn_k_norm.weight"], k_norm + np.float32(1))


def test_llama3_factors_stretch_long_wavelengths(artifacts):
    """transformers' frequencies divided out again, number by number."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    factors = read(artifacts("llama3", "gguf-f32"))[0]["rope_freqs.weight"]
    config = models.config_of(**models.SHAPES["llama3"])
    kept = {
        name: config[name] for name in ("head_dim", "rope_theta", "rope_scaling", "max_position_embeddings")
    }
    scaled = LlamaRotaryEmbedding(transformers.LlamaConfig(**kept)).inv_freq.numpy()
    plain = LlamaRotaryEmbedding(transformers.LlamaConfig(**kept | {"rope_scaling": None})).inv_freq.numpy()
    np.testing.assert_allclose(factors, plain / scaled, rtol=1e-5)
    assert factors[0] == 1.0
    assert factors[-1] == models.LLAMA3["factor"]


def test_the_keys_are_the_models(artifacts):
    _, reader = read(artifacts("gemma3-odd", "gguf-f32"))
    config = models.config_of(**models.SHAPES["gemma3-odd"])
    for name, value in {
        "general.architecture": "gemma3",
        "gemma3.block_count": 4,
        "gemma3.embedding_length": 48,
        "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 2,
        "gemma3.attention.key_length": 40,
        "gemma3.attention.value_length": 40,
        "gemma3.rope.dimension_count": 40,
        "gemma3.feed_forward_length": 72,
        "gemma3.context_length": 1024,
        "gemma3.vocab_size": config["vocab_size"],
        "gemma3.attention.sliding_window": 140,
        "gemma3.rope.freq_base": 1e6,
        "gemma3.rope.freq_base_swa": 1e4,
        "gemma3.attention.sliding_window_pattern": [False, True, True, False],
    }.items():
        assert key(reader, name) == value, name
    assert key(reader, "gemma3.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    seven = models.SHAPES["gemma3"]
    assert seven["num_hidden_layers"] == 7
    assert (
        key(read(artifacts("gemma3", "gguf-f32"))[1], "gemma3.attention.sliding_window_pattern") is None
    )  # every sixth


def test_gemma_without_windows_has_none(tmp_path):
    shape = models.SHAPES["gemma3-odd"] | {"layer_types": ["full_attention"] * 4}
    folder = models.write_checkpoint(tmp_path / "model", models.config_of(**shape))
    artifact = build(str(folder), ["gguf-f32"], tmp_path / "out")[0].artifact
    assert [
        name for name in read(artifact.path)[1].fields if "sliding" in name or name.endswith("freq_base_swa")
    ] == []
    answer(artifact)


def test_the_file_has_the_models_name_and_not_its_folders(checkpoints, tmp_path, monkeypatch):
    """A hub model lies in a folder that is called by its commit."""
    monkeypatch.setattr(
        "export.build.resolve",
        lambda *a, **more: Source("some-model", checkpoints("odd"), "", "a/b", "c" * 40),
    )
    _, reader = read(build("some-model", ["gguf-f32"], tmp_path)[0].artifact.path)
    assert key(reader, "general.name") == "some-model"


# Quantised


def answer(artifact: Artifact) -> None:
    """llama.cpp loads the file and gives finite logits."""
    backend = LlamaBackend(artifact, capacity=8, runtime=Runtime(threads=1))
    try:
        backend.prefill([5, 6, 7])
        logits = backend.step(8).logits
        assert logits.shape == (artifact.manifest.model.vocabulary,)
        assert np.isfinite(logits).all()
        assert np.ptp(logits) > 0
    finally:
        backend.close()


@pytest.mark.parametrize("model", NANO)
def test_the_manifest_counts_the_types_that_are_in_the_file(model, artifacts):
    for precision, wanted in {
        "gguf-q8_0": {"Q8_0"},
        "gguf-q4_0": {"Q4_0", "Q6_K"},
        "gguf-q4_k_m": {"Q4_K", "Q6_K"},
    }.items():
        artifact = Artifact.open(artifacts(model, precision))
        counted: dict[str, int] = {}
        for tensor in gguf.GGUFReader(artifact.weights).tensors:
            counted[tensor.tensor_type.name] = counted.get(tensor.tensor_type.name, 0) + 1
        assert artifact.manifest.tensor_types == counted
        assert set(counted) - {"F32"} == wanted
        assert artifact.manifest.quantization == {"file_type": PRECISIONS[precision].file_type}


def test_rows_that_no_block_divides_fall_back_and_are_counted_as_what_they_are(artifacts):
    """Width 48 is a multiple of 16 alone: half precision; 64 and 96 of 32: the types with blocks of 32."""
    assert {"F32", "F16"} <= set(Artifact.open(artifacts("odd", "gguf-q4_k_m")).manifest.tensor_types)
    types = Artifact.open(artifacts("qwen2", "gguf-q4_k_m")).manifest.tensor_types
    assert {"Q5_0", "Q8_0"} <= set(types)
    assert "Q4_K" not in types


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_quantising_starts_from_the_checkpoints_own_type(dtype, tmp_path, monkeypatch):
    folder = models.write_checkpoint(
        tmp_path / "model", models.config_of(hidden_size=64, intermediate_size=64), dtype=dtype
    )
    quantise, matrices = gguf_artifact.quantise, []

    def watched(source, *rest):
        (tensor,) = (t for t in gguf.GGUFReader(source).tensors if t.name == "blk.1.ffn_up.weight")
        matrices.append((tensor.tensor_type.name, tensor.data.tobytes()))
        quantise(source, *rest)

    monkeypatch.setattr(gguf_artifact, "quantise", watched)
    (made,) = build(str(folder), ["gguf-q8_0"], tmp_path / "out")
    stored = load_file(folder / "model.safetensors")["model.layers.1.mlp.up_proj.weight"]
    assert matrices == [(dtype, stored.tobytes())]
    names = {path.name for path in made.artifact.path.iterdir()}
    assert names == {"model.gguf", "tokenizer.json", "manifest.json"}


@pytest.mark.parametrize("model", [*SHAPES, *NANO])
def test_every_precision_of_every_architecture_runs_in_llama_cpp(model, artifacts):
    sizes = {}
    for precision in PRECISIONS:
        if precision.startswith("gguf-"):
            artifact = Artifact.open(artifacts(model, precision))
            sizes[precision] = artifact.weights.stat().st_size
            answer(artifact)
    assert sizes["gguf-f32"] > sizes["gguf-f16"] > sizes["gguf-q4_0"]
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True) or model not in NANO


def test_progress_counts_both_files_and_never_goes_back(checkpoints, tmp_path):
    for precision in ("gguf-f16", "gguf-q4_0"):
        heard = []
        (made,) = build(
            str(checkpoints("qwen2")),
            [precision],
            tmp_path,
            on_bytes=lambda *said: heard.append(said),  # noqa: B023
        )
        done, totals = zip(*heard, strict=True)
        assert list(done) == sorted(done)
        assert len(set(totals)) == 1
        size = made.artifact.weights.stat().st_size
        assert totals[0] < 1.3 * size if precision == "gguf-f16" else totals[0] > 2 * size
        assert done[-1] > 0.9 * totals[0]


# Building again, failing


def test_what_is_built_is_used_again_and_another_is_not_overwritten(checkpoints, tmp_path):
    source = str(checkpoints("odd"))
    assert not build(source, ["gguf-f16"], tmp_path)[0].reused
    before = tree(tmp_path)
    assert build(source, ["gguf-f16"], tmp_path)[0].reused
    assert tree(tmp_path) == before
    with pytest.raises(UserError, match="holds another artifact"):
        build(str(checkpoints("untied")), ["gguf-f16"], tmp_path)
    assert tree(tmp_path) == before
    assert not build(source, ["gguf-f16"], tmp_path, overwrite=True)[0].reused
    assert (tmp_path / "gguf-f16" / "model.gguf").read_bytes() == before[
        "gguf-f16/model.gguf"
    ]  # the same bytes every time


def test_onnx_and_gguf_of_one_checkpoint_stand_side_by_side(checkpoints, tmp_path):
    onnx, llama = build(str(checkpoints("odd")), ["onnx-fp32", "gguf-f32"], tmp_path)
    a, b = onnx.artifact.manifest, llama.artifact.manifest
    assert (a.checkpoint_sha256, a.tokenizer_sha256, a.model) == (
        b.checkpoint_sha256,
        b.tokenizer_sha256,
        b.model,
    )
    assert "onnx" in a.versions
    assert "gguf" not in a.versions
    assert "llama-cpp-python" in b.versions
    assert "onnx" not in b.versions


@pytest.mark.parametrize(
    ("precision", "step"),
    [
        ("gguf-q8_0", "quantise"),
        *((p, step) for p in ("gguf-f32", "gguf-q8_0") for step in ("write", "prove", "Header")),
    ],
)
def test_a_build_that_fails_leaves_nothing(precision, step, checkpoints, tmp_path, monkeypatch):
    def fail(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_artifact, step, fail)
    with pytest.raises(UserError, match="No space left"):
        build(str(checkpoints("odd")), [precision], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["write", "quantise", "prove"])
def test_a_killed_build_leaves_no_artifact_and_the_next_one_is_whole(step, checkpoints, tmp_path):
    program = (
        "import os, signal, sys, pathlib, export.gguf_artifact as a, export.build as b\n"
        f"a.{step} = lambda *arguments, **more: os.kill(os.getpid(), signal.SIGKILL)\n"
        "b.build(sys.argv[1], ['gguf-q4_0'], pathlib.Path(sys.argv[2]))"
    )
    source, out = str(checkpoints("qwen3")), tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", program, source, str(out)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in out.iterdir()] == [".gguf-q4_0.building"]
    (made,) = build(source, ["gguf-q4_0"], out)
    assert not made.reused
    assert [path.name for path in out.iterdir()] == ["gguf-q4_0"]
    Artifact.open(made.artifact.path)


def test_a_quantiser_that_fails_says_why(checkpoints, tmp_path):
    with pytest.raises(
        UserError,
        match=r"llama.cpp cannot make gguf-q8_0 \(.*absent.gguf.*\): free space, or build another precision",
    ):
        gguf_artifact.quantise(
            tmp_path / "absent.gguf", tmp_path / "model.gguf", PRECISIONS["gguf-q8_0"], ignore
        )


# Refused


def refused(tmp_path, words, *, precision="gguf-f32", weights=None, more=(), **changes):
    folder = models.write_checkpoint(tmp_path / "model", models.config_of(**changes), weights=weights)
    before = tree(tmp_path)
    with pytest.raises(UserError, match=words):
        build(str(folder), [precision], tmp_path / "out", **dict(more))
    assert tree(tmp_path) == before


def test_what_llama_cpp_does_not_compute_is_refused_by_name(tmp_path):
    window = {"use_sliding_window": True, "sliding_window": 90, "max_window_layers": 1}
    cases = [
        (
            "sliding windows, which llama.cpp does not give qwen2",
            {"model_type": "qwen2", "head_dim": 16, "hidden_size": 64} | window,
        ),
        ("sliding windows, which llama.cpp does not give qwen3", {"model_type": "qwen3"} | window),
        (
            "rope type 'llama3', which llama.cpp does not give qwen3",
            {"model_type": "qwen3", "rope_scaling": models.LLAMA3},
        ),
        ("4 heads of 40 beside a width of 48, which llama.cpp does not give qwen2", {"model_type": "qwen2"}),
    ]
    for i, (words, changes) in enumerate(cases):
        (tmp_path / str(i)).mkdir()
        refused(tmp_path / str(i), words, **changes)


def test_raw_taps_are_for_onnx(tmp_path):
    refused(tmp_path, "--taps raw is for ONNX graphs", more={"taps": "raw"})


def test_an_artifact_without_taps_says_so_and_is_another_one(checkpoints, tmp_path):
    source = str(checkpoints("odd"))
    (made,) = build(source, ["gguf-f32"], tmp_path, taps="none")
    assert made.artifact.manifest.taps == "none"
    with pytest.raises(UserError, match="differs in taps"):
        build(source, ["gguf-f32"], tmp_path)


def test_a_gguf_artifact_is_not_verified(artifacts):
    with pytest.raises(UserError, match="is gguf-f32: those verified are onnx-fp32, onnx-int8, onnx-int4"):
        verify(artifacts("odd", "gguf-f32"))


def test_a_weight_that_half_precision_cannot_hold_is_refused(tmp_path):
    shape = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}
    config = models.config_of(**shape)
    weights = models.tensors(config)
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = 70000.0
    refused(
        tmp_path, "up_proj.weight has weights beyond 65504", precision="gguf-f16", weights=weights, **shape
    )
    shutil.rmtree(tmp_path / "model")
    folder = models.write_checkpoint(tmp_path / "model", config, weights=weights)
    assert build(str(folder), ["gguf-q8_0"], tmp_path / "out")


def test_weights_beyond_half_precision_whose_rows_no_block_divides_are_refused(tmp_path):
    """They stay in half precision, where llama.cpp's quantiser finds the infinity."""
    weights = models.tensors(models.config_of())
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = 70000.0
    refused(tmp_path, r"llama.cpp cannot make gguf-q8_0 \(", precision="gguf-q8_0", weights=weights)


def test_the_disk_has_to_hold_both_files_and_the_memory_the_tokenizer(checkpoints, tmp_path, monkeypatch):
    source, usage = str(checkpoints("nano-llama")), shutil.disk_usage(tmp_path)
    monkeypatch.setattr("export.space.DISK_MARGIN", 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7_000_000))
    with pytest.raises(UserError, match=r"needs 0\.0 GB and its disk has 0\.0 GB free"):
        build(source, ["gguf-q4_0"], tmp_path / "out")  # 2 MB, and 6 MB while it is made
    assert build(source, ["gguf-f16"], tmp_path / "out")  # 6 MB
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr("export.space.available_memory", lambda: 700_000_000)
    with pytest.raises(UserError, match=r"about 0\.8 GB of memory and 0\.7 GB are available"):
        build(source, ["gguf-q4_0"], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["gguf-f16"]


@pytest.mark.parametrize(("module", "extra"), [("gguf", "export"), ("llama_cpp.llama_cpp", "llama")])
def test_without_its_libraries_the_extra_is_named(module, extra, checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    arguments = ["build", str(checkpoints("odd")), "--to", "gguf-f32", "--out", "{out}"]
    assert call(export.cli.main, arguments, tmp_path) == 2
    assert f"edgetrace[{extra}]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert call(export.cli.main, [*arguments[:3], "onnx-fp32", *arguments[4:]], tmp_path) == 0


def test_the_probes_of_edge_doctor_are_what_their_command_makes(tmp_path):
    made = probe.make(tmp_path)
    assert {path.name for path in made} == {f"probe-{architecture}.gguf" for architecture in ARCHITECTURES}
    for path in made:
        assert path.read_bytes() == (ROOT / "edge" / "data" / path.name).read_bytes()
