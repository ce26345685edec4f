"""Every traced column against transformers eager in float32 on the same tokens, for every architecture and
shape."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import edge.backends.onnx
from edge.artifact import Artifact, record_file
from edge.backends.base import CHUNK, Runtime
from edge.backends.onnx import OnnxBackend
from edge.backends.runtime import open_backend
from edge.errors import UserError
from edge.signals.groups import VECTORS
from export.graph.config import ConfigReader
from tests import models, oracle
from tests.conftest import assert_positions_are_bounded
from tests.noise import ACTIVATION_NOISE
from tests.parity import CONTEXT, NANO, OUTPUT, SHAPES, errors, expected, forward_of, rms, trace_of

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def trace(artifacts, tmp_path_factory):
    """Steps and prompt ids of one long question, sampled so that the answer does not fall into a loop."""
    made = {}

    def get(shape: str, precision: str = "onnx-fp32", taps: str = "rows") -> tuple[pa.Table, list[int]]:
        key = (shape, precision, taps)
        if key not in made:
            made[key] = trace_of(Artifact.open(artifacts(*key)), tmp_path_factory.mktemp("parity"))
        return made[key]

    return get


@pytest.mark.parametrize("shape", SHAPES)
def test_every_column_of_a_full_precision_run_equals_transformers(shape, checkpoints, trace):
    steps, prompt = trace(shape)
    out, tokens = forward_of(oracle.load(checkpoints(shape)), steps, prompt)
    assert len(prompt) > CHUNK
    assert len(tokens) >= 3
    wanted = expected(out, prompt, tokens)
    assert set(wanted) == {*OUTPUT, *VECTORS}
    worst = errors(steps, wanted)
    assert max(worst.values()) < 1e-3, worst
    assert steps.column("position").to_pylist() == [len(prompt) - 1 + i for i in range(len(tokens))]


def test_the_traces_are_long_and_their_attention_is_not_uniform(trace):
    """The comparison above would say little of short answers, or of heads that all look everywhere."""
    for shape in models.SHAPES:
        steps, _ = trace(shape)
        assert steps.num_rows >= 20, shape
        entropies = np.asarray(steps.column("attention_entropy").to_pylist())
        assert entropies.min() < 0.8 * np.log(CONTEXT), shape
        assert np.ptp(entropies) > 0.5, shape


@pytest.mark.parametrize("shape", ["odd", "narrow"])
def test_raw_taps_give_the_signals_of_rows_taps(shape, trace):
    rows, raw = trace(shape)[0], trace(shape, taps="raw")[0]
    assert rows.column("token_id").equals(raw.column("token_id"))
    for name in (*OUTPUT, *VECTORS):
        a, b = (pc.list_flatten(t.column(name)) if name in VECTORS else t.column(name) for t in (rows, raw))
        np.testing.assert_allclose(a.to_numpy(), b.to_numpy(), rtol=1e-5, atol=1e-5, err_msg=name)


def test_without_taps_attention_and_hidden_columns_are_null_and_the_others_stay(trace):
    rows, none = trace("odd")[0], trace("odd", taps="none")[0]
    for name in VECTORS:
        assert none.column(name).null_count == none.num_rows, name
        assert rows.column(name).null_count == (1 if name.startswith("token_") else 0), name
    for name in OUTPUT:
        np.testing.assert_allclose(
            none.column(name).to_numpy(), rows.column(name).to_numpy(), atol=1e-4, err_msg=name
        )


@pytest.mark.parametrize("head_dim", [8, 64, 128])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("original", [None, 64, 8192])
def test_rope_tables_equal_transformers(head_dim, theta, original):
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = (
        None
        if original is None
        else models.LLAMA3 | {"original_max_position_embeddings": original, "factor": 32.0}
    )
    config = {"head_dim": head_dim, "rope_theta": theta, "rope_scaling": scaling}
    cos, sin = ConfigReader(config).rope(1.0).tables(head_dim, 4096)
    theirs = LlamaRotaryEmbedding(LlamaConfig(**config, max_position_embeddings=4096))
    expected_cos, expected_sin = theirs(torch.zeros(1), torch.arange(4096)[None])
    half = head_dim // 2
    # A last bit of the frequency, 6e-8, times 4096 positions.
    np.testing.assert_allclose(cos, expected_cos[0, :, :half].numpy(), atol=5e-4)
    np.testing.assert_allclose(sin, expected_sin[0, :, :half].numpy(), atol=5e-4)


# Quantised artifacts are compared with the model whose weights are the dequantised ones.


def with_float_activations(folder, copy):
    """The same artifact with accuracy_level 0: its kernels then multiply in float32."""
    shutil.copytree(folder, copy)
    graph = onnx.load(str(copy / "model.onnx"), load_external_data=False)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = 0
    onnx.save(graph, str(copy / "model.onnx"))
    opened = Artifact.open(folder)
    files = {**opened.manifest.files, "model.onnx": record_file(copy / "model.onnx")}
    (copy / "manifest.json").write_text(
        type(opened.manifest)(**{**vars(opened.manifest), "files": files}).to_json()
    )
    return Artifact.open(copy)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["onnx-int8", "onnx-int4"])
@pytest.mark.parametrize("shape", ["odd", "untied", "narrow"])
def test_quantised_weights_are_the_blocks_that_were_written(
    shape, precision, checkpoints, artifacts, tmp_path
):
    folder = artifacts(shape, precision)
    steps, prompt = trace_of(with_float_activations(folder, tmp_path / "exact"), tmp_path)
    model = oracle.load(checkpoints(shape))
    before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    oracle.put(model, oracle.dequantise(folder))
    out, tokens = forward_of(model, steps, prompt)
    worst = errors(steps, expected(out, prompt, tokens))
    assert max(worst.values()) < 1e-3, worst
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            loss = rms(parameter.detach().numpy() - before[name]) / rms(before[name])
            low, high = {"onnx-int8": (0.002, 0.012), "onnx-int4": (0.04, 0.15)}[precision]
            assert low < loss < high, name  # every matrix was quantised, and to what it was


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["onnx-int8", "onnx-int4"])
@pytest.mark.parametrize("shape", ["odd", "llama3", *NANO])
def test_quantised_runs_stay_near_their_dequantised_model(shape, precision, checkpoints, artifacts, trace):
    steps, prompt = trace(shape, precision)
    model = oracle.load(checkpoints(shape))
    oracle.put(model, oracle.dequantise(artifacts(shape, precision)))
    out, tokens = forward_of(model, steps, prompt)
    wanted = expected(out, prompt, tokens)
    found = errors(steps, wanted, rms)
    beyond = {name: value for name, value in found.items() if value > ACTIVATION_NOISE[name]}
    assert not beyond


def copies(taps):
    return [np.copy(part) for part in (taps.logits, taps.attention, taps.hidden)]


def assert_identical(a, b):
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("precision", ["onnx-fp32", "onnx-int8", "onnx-int4"])
@pytest.mark.parametrize("length", [CHUNK, CHUNK + 1, 2 * CHUNK + 20])
def test_a_prompt_gives_the_same_bits_however_it_is_cut(length, precision, artifacts):
    """Causality: no position's numbers depend on what comes after it, whatever the quantisation of
    activations."""
    ids = np.random.default_rng(3).integers(4, 290, length).tolist()
    backend = OnnxBackend(Artifact.open(artifacts("untied", precision)), threads=1)
    whole = copies(backend.prefill(ids))
    for cut in (2, 50, length - 2):
        backend.rewind(0)
        backend.prefill(ids[:cut])
        assert_identical(copies(backend.prefill(ids[cut:])), whole)


@pytest.mark.parametrize("last", [2, 3, 7, 127])
@pytest.mark.parametrize("count", [2, 3, 4, CHUNK + 1, CHUNK + 2, CHUNK + 3, 2 * CHUNK + 1, 2 * CHUNK + 20])
def test_a_long_prompt_gives_the_same_bits_with_a_short_last_chunk(last, count, odd, monkeypatch):
    ids = np.random.default_rng(count).integers(4, 290, count).tolist()
    backend = OnnxBackend(odd, threads=1)
    whole = copies(backend.prefill(ids))
    spec = odd.manifest.model
    monkeypatch.setattr(edge.backends.onnx, "LAST_BYTES", last * 4 * spec.layers * spec.heads * count)
    sizes = edge.backends.onnx.chunks(count, last)
    assert sum(sizes) == count and min(sizes) >= 2 and max(sizes) <= CHUNK and sizes[-1] <= max(3, last)
    backend.rewind(0)
    assert_identical(copies(backend.prefill(ids)), whole)


@pytest.mark.parametrize("version", ["0.1.0", "0.1", "", "what"])
def test_a_tapped_graph_of_an_earlier_version_is_refused_before_anything_is_made_of_it(
    version, odd, tmp_path
):
    folder = shutil.copytree(odd.path, tmp_path / "old")
    old = Artifact(folder, replace(odd.manifest, versions={**odd.manifest.versions, "edgetrace": version}))
    before = sorted(folder.iterdir())
    with pytest.raises(
        UserError, match=r"whose graphs gave other outputs: build it again \(edge-export build --force\)"
    ):
        open_backend(old, Runtime(1), 10, print)
    with pytest.raises(UserError, match="build it again"):
        OnnxBackend(old, threads=1)
    assert sorted(folder.iterdir()) == before
    OnnxBackend(
        Artifact(folder, replace(old.manifest, taps="none")), threads=1
    ).close()  # a plain graph is what it was


@pytest.mark.parametrize("precision", ["onnx-fp32", "onnx-int8", "onnx-int4"])
def test_what_follows_changes_nothing_that_came_before(precision, artifacts):
    rng = np.random.default_rng(4)
    ids = rng.integers(4, 290, 100).tolist()
    backend = OnnxBackend(Artifact.open(artifacts("odd", precision)), threads=1)
    backend.prefill(ids + rng.integers(4, 290, 60).tolist())
    backend.rewind(100)
    after = copies(backend.step(7))
    backend.rewind(0)
    backend.prefill(ids)
    assert_identical(copies(backend.step(7)), after)


@pytest.mark.parametrize("precision", ["onnx-fp32", "onnx-int8", "onnx-int4"])
@pytest.mark.parametrize("shape", ["odd", "untied"])
def test_prefill_agrees_with_token_by_token(shape, precision, artifacts):
    """Decoding runs other kernels than prefill: float32 sums in another order, and an activation that lies
    near the edge between two of its 256 steps may fall to the other side."""
    ids = np.random.default_rng(3).integers(4, 290, 2 * CHUNK + 20).tolist()
    backend = OnnxBackend(Artifact.open(artifacts(shape, precision)), threads=1)
    whole = copies(backend.prefill(ids))
    backend.rewind(0)
    for token in ids:
        stepped = backend.step(token)
    tolerance = 1e-5 if precision == "onnx-fp32" else 0.03  # measured: 2e-6, and 0.011 at most
    for a, b in zip(copies(stepped), whole, strict=True):
        assert np.linalg.norm(a - b) < tolerance * np.linalg.norm(b)


def test_a_backend_refuses_what_does_not_fit(odd):
    backend = OnnxBackend(odd, capacity=10, threads=1)
    assert_positions_are_bounded(backend)
