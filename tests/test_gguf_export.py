"""GGUF files that `edge-export build` makes: every tensor, the keys, what is refused, what is left when a build fails."""

from __future__ import annotations

import shutil

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

import export.cli
from edge.artifact import Artifact
from edge.errors import UserError
from export import gguf_artifact, probe
from export.build import build
from export.gguf_model import ARCHITECTURES
from export.precision import PRECISIONS
from export.source import ignore
from tests import models
from tests.conftest import ROOT, tree
from tests.parity import NANO
from tests.test_cli_errors import call

SHAPES = [shape for shape in models.SHAPES if shape != "qwen2-window"]


def read(folder):
    """Tensors by name as float arrays [rows, columns], and the reader for its keys."""
    reader = gguf.GGUFReader(folder / "model.gguf")
    return {t.name: np.array(t.data).reshape(tuple(reversed(t.shape.tolist()))) for t in reader.tensors}, reader


def key(reader, name):
    return reader.fields[name].contents() if name in reader.fields else None


def pairs(matrix, heads):
    """A slow twin of the reordering: in each head, row i of the first half and row i of the second become neighbours."""
    size = len(matrix) // heads
    order = [h * size + i + half * (size // 2) for h in range(heads) for i in range(size // 2) for half in (0, 1)]
    return matrix[order]


def expected(folder, config):
    """Every tensor as llama.cpp wants it, from the checkpoint's file, name by name."""
    weights, kind = load_file(folder / "model.safetensors"), config["model_type"]
    gemma = kind == "gemma3_text"
    made = {"token_embd.weight": weights["model.embed_tokens.weight"], "output_norm.weight": weights["model.norm.weight"] + gemma}
    if not config["tie_word_embeddings"]:
        made["output.weight"] = weights["lm_head.weight"]
    names = {
        "input_layernorm": "attn_norm", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    if gemma:
        names |= {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
                  "post_feedforward_layernorm": "post_ffw_norm"}  # fmt: skip
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
                    value = pairs(value, config["num_attention_heads" if "q_proj" in ours else "num_key_value_heads"])
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


def test_llama3_factors_stretch_long_wavelengths(artifacts):
    """transformers' frequencies divided out again, number by number."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    factors = read(artifacts("llama3", "gguf-f32"))[0]["rope_freqs.weight"]
    config = models.config_of(**models.SHAPES["llama3"])
    kept = {name: config[name] for name in ("head_dim", "rope_theta", "rope_scaling", "max_position_embeddings")}
    scaled = LlamaRotaryEmbedding(transformers.LlamaConfig(**kept)).inv_freq.numpy()
    plain = LlamaRotaryEmbedding(transformers.LlamaConfig(**kept | {"rope_scaling": None})).inv_freq.numpy()
    np.testing.assert_allclose(factors, plain / scaled, rtol=1e-5)
    assert factors[0] == 1.0
    assert factors[-1] == models.LLAMA3["factor"]


def test_the_keys_are_the_models(artifacts):
    _, reader = read(artifacts("gemma3-odd", "gguf-f32"))
    config = models.config_of(**models.SHAPES["gemma3-odd"])
    for name, value in {
        "general.architecture": "gemma3", "gemma3.block_count": 4, "gemma3.embedding_length": 48,
        "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 2, "gemma3.attention.key_length": 40, "gemma3.attention.value_length": 40,
        "gemma3.rope.dimension_count": 40, "gemma3.feed_forward_length": 72, "gemma3.context_length": 1024,
        "gemma3.vocab_size": config["vocab_size"], "gemma3.attention.sliding_window": 140, "gemma3.rope.freq_base": 1e6,
        "gemma3.rope.freq_base_swa": 1e4, "gemma3.attention.sliding_window_pattern": [False, True, True, False],
    }.items():  # fmt: skip
        assert key(reader, name) == value, name
    assert key(reader, "gemma3.attention.layer_norm_rms_epsilon") == pytest.approx(1e-5)
    seven = models.SHAPES["gemma3"]
    assert seven["num_hidden_layers"] == 7
    assert key(read(artifacts("gemma3", "gguf-f32"))[1], "gemma3.attention.sliding_window_pattern") is None  # every sixth


# Quantised


@pytest.mark.parametrize("model", NANO)
def test_the_manifest_counts_the_types_that_are_in_the_file(model, artifacts):
    for precision, wanted in {"gguf-q8_0": {"Q8_0"}, "gguf-q4_0": {"Q4_0", "Q6_K"}, "gguf-q4_k_m": {"Q4_K", "Q6_K"}}.items():
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
    folder = models.write_checkpoint(tmp_path / "model", models.config_of(hidden_size=64, intermediate_size=64), dtype=dtype)
    kinds, write = [], gguf_artifact.write

    def watched(checkpoint, config, vocabulary, kind, *rest, **more):
        if more.get("weights", True):
            kinds.append(kind.name)
        write(checkpoint, config, vocabulary, kind, *rest, **more)

    monkeypatch.setattr(gguf_artifact, "write", watched)
    (made,) = build(str(folder), ["gguf-q8_0"], tmp_path / "out")
    assert kinds == [dtype]
    names = {path.name for path in made.artifact.path.iterdir()}
    assert names == {"model.gguf", "tokenizer.json", "manifest.json"}


def test_a_shape_that_llama_cpp_quantises_answers_in_every_precision(checkpoints, tmp_path):
    made = build(str(checkpoints("qwen3")), [name for name in PRECISIONS if name.startswith("gguf-")], tmp_path / "out")
    sizes = [result.artifact.weights.stat().st_size for result in made]
    assert sizes[0] > sizes[1] > sizes[-1]


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
    assert not build(source, ["gguf-f16"], tmp_path, force=True)[0].reused
    assert (tmp_path / "gguf-f16" / "model.gguf").read_bytes() == before["gguf-f16/model.gguf"]  # the same bytes every time


def test_onnx_and_gguf_of_one_checkpoint_stand_side_by_side(checkpoints, tmp_path):
    onnx, llama = build(str(checkpoints("odd")), ["onnx-fp32", "gguf-f32"], tmp_path)
    a, b = onnx.artifact.manifest, llama.artifact.manifest
    assert (a.checkpoint_sha256, a.tokenizer_sha256, a.model) == (b.checkpoint_sha256, b.tokenizer_sha256, b.model)
    assert "onnx" in a.versions
    assert "gguf" not in a.versions
    assert "llama-cpp-python" in b.versions
    assert "onnx" not in b.versions


@pytest.mark.parametrize("precision", ["gguf-f32", "gguf-q8_0"])
@pytest.mark.parametrize("step", ["write", "quantise", "prove", "Header"])
def test_a_build_that_fails_leaves_nothing(step, precision, checkpoints, tmp_path, monkeypatch):
    if step == "quantise" and precision == "gguf-f32":
        return

    def fail(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_artifact, step, fail)
    with pytest.raises(UserError, match="No space left"):
        build(str(checkpoints("odd")), [precision], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_quantiser_that_fails_says_why(checkpoints, tmp_path):
    with pytest.raises(
        UserError, match=r"llama.cpp cannot make gguf-q8_0 \(.*absent.gguf.*\): free space, or build another precision"
    ):
        gguf_artifact.quantise(tmp_path / "absent.gguf", tmp_path / "model.gguf", PRECISIONS["gguf-q8_0"], ignore)


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
        ("rope type 'llama3', which llama.cpp does not give qwen3", {"model_type": "qwen3", "rope_scaling": models.LLAMA3}),
        ("4 heads of 40 beside a width of 48, which llama.cpp does not give qwen2", {"model_type": "qwen2"}),
    ]
    for i, (words, changes) in enumerate(cases):
        (tmp_path / str(i)).mkdir()
        refused(tmp_path / str(i), words, **changes)


def test_raw_taps_are_for_onnx(tmp_path):
    refused(tmp_path, "--taps raw is for ONNX graphs", more={"taps": "raw"})


def test_a_weight_that_half_precision_cannot_hold_is_refused(tmp_path):
    shape = {"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64}
    config = models.config_of(**shape)
    weights = models.tensors(config)
    weights["model.layers.0.mlp.up_proj.weight"][3, 5] = 70000.0
    refused(tmp_path, "up_proj.weight has weights beyond 65504", precision="gguf-f16", weights=weights, **shape)
    shutil.rmtree(tmp_path / "model")
    folder = models.write_checkpoint(tmp_path / "model", config, weights=weights)
    assert build(str(folder), ["gguf-q8_0"], tmp_path / "out")


def test_without_the_gguf_package_the_extra_is_named(checkpoints, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "gguf", None)
    arguments = ["build", str(checkpoints("odd")), "--to", "gguf-f32", "--out", "{out}"]
    assert call(export.cli.main, arguments, tmp_path) == 2
    assert "edgetrace[llama]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert call(export.cli.main, [*arguments[:3], "onnx-fp32", *arguments[4:]], tmp_path) == 0


def test_the_probes_of_edge_doctor_are_what_their_command_makes(tmp_path):
    made = probe.make(tmp_path)
    assert {path.name for path in made} == {f"probe-{architecture}.gguf" for architecture in ARCHITECTURES}
    for path in made:
        assert path.read_bytes() == (ROOT / "edge" / "data" / path.name).read_bytes()
