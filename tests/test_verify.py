"""edge-export verify: whole artifacts pass, damaged ones fail with the place named, and the verdict is
kept."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import export.cli
from edge.artifact import Artifact, record_file
from edge.errors import UserError
from edge.precision import PRECISIONS
from edge.runs.provenance import ArtifactIdentity
from export.build import build
from export.checks import kl
from export.stored import Stored, put
from export.values import eager_values
from export.verdict import Check, Distance, Probe, Verification
from export.verify import VERIFIED
from export.verify import verify as verify_job
from tests import models, oracle
from tests.conftest import tree

pytestmark = pytest.mark.slow

pytest.importorskip("transformers")

QUANTISED = ("onnx-int8", "onnx-int4")


def verify(folder, **settings) -> list[Verification]:
    """On one thread: two pools of threads on shared cores take ten times as long for models of this size."""
    return verify_job(folder, threads=1, **settings)


@pytest.fixture
def copied(artifacts, tmp_path):
    """A copy of an artifact of one's own, since a verdict is written into it."""

    def get(shape: str, precision: str = "onnx-fp32", taps: str = "rows"):
        return shutil.copytree(artifacts(shape, precision, taps), tmp_path / f"{shape}-{taps}" / precision)

    return get


def damage(folder, tensor: str, change) -> None:
    """Alters one tensor inside model.onnx.data and records the new checksum, as a faulty builder would."""
    array = Stored(Artifact.open(folder)).array(tensor)
    where, shape, kind = array.offset, array.shape, array.dtype
    altered = np.memmap(folder / "model.onnx.data", kind, "r+", where, shape)
    change(altered)
    altered.flush()
    manifest = Artifact.open(folder, verify=False).manifest
    files = {**manifest.files, "model.onnx.data": record_file(folder / "model.onnx.data")}
    (folder / "manifest.json").write_text(type(manifest)(**{**vars(manifest), "files": files}).to_json())


def failing(result: Verification) -> dict[str, Check]:
    return {f"{check.number}, {check.against}": check for check in result.checks if not check.passed}


def run(*arguments: object) -> int:
    """Exit code of `edge-export`."""
    before = sys.argv
    sys.argv = [
        "edge-export",
        *map(str, arguments),
        *(("--threads", "1") if arguments[0] == "verify" else ()),
    ]
    try:
        export.cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


# What passes


@pytest.mark.parametrize("shape", models.SHAPES)
def test_full_precision_passes_for_every_shape(shape, checkpoints, copied):
    (result,) = verify(copied(shape), source=str(checkpoints(shape)))
    assert failing(result) == {}
    layers = models.config_of(**models.SHAPES[shape])["num_hidden_layers"]
    has_template = shape in models.WITH_TEMPLATE
    assert [(c.number, len(c.layers)) for c in result.checks] == [
        ("weights", 0),
        ("logits", 0),
        ("attention entropy", layers),
        ("hidden states", layers + 1),
        *((f"{style} ids", 0) for style in ("chat", "qa", "raw") if has_template or style != "chat"),
    ]
    assert result.checks[0].value == 0.0
    assert 0.0 <= result.kl.largest < 1e-8


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("shape", ["odd", "narrow", "qwen2", "qwen3", "gemma3-odd", "nano-llama"])
def test_quantised_artifacts_compute_what_their_weights_say(shape, precision, checkpoints, copied):
    (result,) = verify(copied(shape, precision), source=str(checkpoints(shape)))
    assert failing(result) == {}
    assert 0.4 < result.checks[0].value <= 1.01  # steps: rounding was there, and no more than rounding
    exact, rounded = (next(c for c in result.checks[i:] if c.number == "hidden states") for i in (1, 4))
    assert (
        exact.value < 1e-4 < rounded.value
    )  # the noise of rounded activations is told apart from the weights
    low, high = (1e-3, 0.1) if precision == "onnx-int8" else (0.05, 5.0)
    assert low < result.kl.mean < high


def test_the_probes_reach_what_could_go_wrong(checkpoints, copied):
    (result,) = verify(copied("gemma3"), source=str(checkpoints("gemma3")))
    spans = [(probe.prefill, len(probe.ids)) for probe in result.probes]
    assert any(prefill == 1 for prefill, _ in spans)
    assert any(prefill > 2 * 128 and end == 300 for prefill, end in spans)
    assert any(90 < prefill < 128 for prefill, _ in spans)  # beyond the window in one chunk
    assert any(prefill < 90 < end - 1 for prefill, end in spans)  # decode crosses it
    assert result.probes[-1].name == "text"


def test_an_artifact_without_taps_is_judged_by_its_logits(checkpoints, copied):
    (result,) = verify(copied("odd", taps="none"), source=str(checkpoints("odd")))
    assert result.passed
    assert [check.number for check in result.checks] == ["weights", "logits", "qa ids", "raw ids"]


def test_prompts_other_than_transformers_fail_in_a_check_of_their_own(checkpoints, tmp_path):
    """A checkpoint whose tokenizer_config.json has changed since the artifact was built."""
    folder = shutil.copytree(checkpoints("nano-llama"), tmp_path / "checkpoint")
    artifact = build(str(folder), ["onnx-fp32"], tmp_path / "out")[0].artifact
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8"))
    settings |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False}
    path.write_text(json.dumps(settings), encoding="utf-8")
    (result,) = verify(artifact.path, source=str(folder))
    assert not result.passed
    assert set(failing(result)) == {
        f"{style} ids, transformers, prompts of texts" for style in ("qa", "raw")
    }
    assert failing(result)["raw ids, transformers, prompts of texts"].where == "first in 'Do bats see?'"


@pytest.mark.parametrize("template", ["chatml", "{{ messages | length"])
def test_a_template_that_one_side_alone_refuses_fails(template, checkpoints, tmp_path):
    """transformers writes chatml as the prompt; both refuse the other, which does not compile."""
    folder = shutil.copytree(checkpoints("nano-llama"), tmp_path / "checkpoint")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text("utf-8")) | {"chat_template": template}
    path.write_text(json.dumps(settings), encoding="utf-8")
    artifact = build(str(folder), ["onnx-fp32"], tmp_path / "out")[0].artifact
    (result,) = verify(artifact.path, source=str(folder))
    name = "chat ids, transformers, prompts of texts"
    assert set(failing(result)) == ({name} if template == "chatml" else set())


def test_a_short_context_cuts_the_probes(tmp_path):
    source = models.write_checkpoint(tmp_path / "tiny", models.config_of(num_hidden_layers=1))
    build(str(source), ["onnx-fp32"], tmp_path / "out", context=12)
    (result,) = verify(tmp_path / "out", source=str(source))
    assert result.passed
    assert max(len(probe.ids) for probe in result.probes) == 12


# What fails


@pytest.mark.parametrize("layer", [1, 3])
def test_a_damaged_block_fails_with_its_layer_named(layer, checkpoints, copied):
    folder = copied("untied")
    tensor = f"model.layers.{layer - 1}.mlp.down_proj.weight"

    def change(matrix) -> None:
        matrix[:32, 5] *= -1  # one block of one output

    damage(folder, tensor, change)
    (result,) = verify(folder, source=str(checkpoints("untied")))
    found = failing(result)
    assert not result.passed
    assert found["weights, checkpoint"].where == tensor
    assert found["hidden states, transformers"].first == f"layer {layer}"
    assert found["logits, transformers"].value > 1e-3


def test_a_damaged_query_projection_shows_in_its_layers_attention(checkpoints, copied):
    folder = copied("qwen3")

    def change(matrix) -> None:
        matrix[:, :8] *= 1.05

    damage(folder, "model.layers.1.self_attn.q_proj.weight", change)
    (result,) = verify(folder, source=str(checkpoints("qwen3")))
    assert failing(result)["attention entropy, transformers"].first == "layer 2"


@pytest.mark.parametrize("part", ["q4", "scales"])
def test_a_damaged_quantised_block_fails_with_its_matrix_named(part, checkpoints, copied):
    """The yardstick holds the artifact's own weights, damage and all: only the checkpoint can tell."""
    folder = copied("untied", "onnx-int4")

    def change(tensor) -> None:
        tensor[3, 0] = tensor[3, 0] ^ 0x88 if part == "q4" else tensor[3, 0] * 3

    tensor = "model.layers.1.mlp.up_proj.weight"
    damage(folder, f"{tensor}.{part}", change)
    (result,) = verify(folder, source=str(checkpoints("untied")))
    assert set(failing(result)) == {"weights, checkpoint"}
    assert failing(result)["weights, checkpoint"].first == tensor


def test_a_wrong_norm_of_a_quantised_artifact_fails(checkpoints, copied):
    folder = copied("gemma3-odd", "onnx-int8")
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False)
    (norm,) = (t for t in graph.graph.initializer if t.name == "model.layers.1.self_attn.k_norm.weight")
    weight = onnx.numpy_helper.to_array(norm) * np.float32(1.02)
    norm.CopyFrom(onnx.numpy_helper.from_array(weight, norm.name))
    onnx.save(graph, str(folder / "model.onnx"))
    manifest = Artifact.open(folder, verify=False).manifest
    files = {**manifest.files, "model.onnx": record_file(folder / "model.onnx")}
    (folder / "manifest.json").write_text(type(manifest)(**{**vars(manifest), "files": files}).to_json())
    (result,) = verify(folder, source=str(checkpoints("gemma3-odd")))
    found = failing(result)
    assert found["weights, checkpoint"].value == math.inf
    exact = found["attention entropy, transformers, dequantised weights, float activations"]
    assert exact.first == "layer 2"
    assert json.loads(result_json(folder))["passed"] is False


def result_json(folder) -> str:
    return json.dumps(Artifact.open(folder).manifest.verification, allow_nan=False)


def test_a_number_that_is_nan_fails():
    check = Check("logits", "transformers", math.nan, 1e-4, "short, prefill", "")
    kept = Verification(Path(), "a", "", (check,), Distance(math.nan, math.nan, 0.0, 1), (), {}, "")
    assert not check.passed
    assert not kept.passed
    assert kept.record()["checks"][0]["value"] is None
    json.dumps(kept.record(), allow_nan=False)


# Refusals


def test_another_checkpoint_is_refused(checkpoints, copied, tmp_path):
    folder = copied("odd")
    other = models.write_checkpoint(tmp_path / "other", models.config_of(), seed=99)
    before = tree(folder)
    with pytest.raises(UserError, match="built from another checkpoint"):
        verify(folder, source=str(other))
    assert tree(folder) == before


def test_bad_input_ends_with_code_2_and_one_sentence(copied, tmp_path, capsys):
    folder = copied("odd")
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((tmp_path / "empty",), "holds no artifact to verify"),
        ((tmp_path / "nothing",), "holds no artifact to verify"),
        ((folder,), "give that checkpoint with --source"),
        ((folder, "--source", "nonsense"), "neither a checkpoint folder, a GGUF file nor a known model"),
        ((folder, "--source", folder, "--reference", tmp_path / "empty"), "has no reference.json"),
    ):
        assert run("verify", *arguments) == 2, arguments
        said = capsys.readouterr().err
        assert words in " ".join(said.split())
        assert said.count("error:") == 1


def test_without_transformers_the_extra_is_named(copied, checkpoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"edgetrace\[reference\]"):
        verify(copied("odd"), source=str(checkpoints("odd")))


# What is kept and shown


def test_the_verdict_is_kept_and_changes_neither_identity_nor_files(checkpoints, copied, tmp_path):
    folder = copied("odd")
    before, files = ArtifactIdentity.of(Artifact.open(folder)), tree(folder)
    (result,) = verify(folder, source=str(checkpoints("odd")))
    after = Artifact.open(folder)
    assert after.manifest.verification == result.record()
    assert after.manifest.verification["passed"] is True
    assert ArtifactIdentity.of(after) == before
    assert {name for name, content in tree(folder).items() if files.get(name) != content} == {
        "manifest.json"
    }
    assert [path.name for path in folder.parent.iterdir()] == ["onnx-fp32"]


def test_a_verified_artifact_is_reused_by_the_next_build(tmp_path):
    source = models.write_checkpoint(tmp_path / "tiny", models.config_of(num_hidden_layers=1))
    build(str(source), ["onnx-int4"], tmp_path / "out")
    verify(tmp_path / "out", source=str(source))
    assert build(str(source), ["onnx-int4"], tmp_path / "out")[0].reused


def test_a_folder_of_precisions_gives_a_verdict_for_each(tmp_path, capsys):
    build("nano-llama", list(PRECISIONS), tmp_path / "out", wide=["embedding", "layers.1.mlp"])
    assert run("verify", tmp_path / "out", "--json", tmp_path / "verdict.json") == 0
    said = json.loads((tmp_path / "verdict.json").read_text())
    assert [entry["label"] for entry in said] == [
        f"nano-llama {name}" for name in VERIFIED
    ]  # GGUF files are left alone
    assert all(entry["passed"] for entry in said)
    shown = capsys.readouterr().out
    assert shown.count("verified") == 4
    assert "KL(full || this)" in shown


def test_a_failing_verdict_exits_with_1_and_shows_the_number(checkpoints, copied, capsys):
    folder = copied("odd")

    def change(matrix) -> None:
        matrix[:32, 5] *= -1

    damage(folder, "model.layers.0.mlp.down_proj.weight", change)
    assert run("verify", folder, "--source", checkpoints("odd"), "--json", "-") == 1
    (said,) = json.loads(capsys.readouterr().out)
    assert {c["number"] for c in said["checks"] if not c["passed"]} >= {"weights", "hidden states"}
    assert run("verify", folder, "--source", checkpoints("odd")) == 1
    shown = capsys.readouterr().out
    assert "FAILED" in shown
    assert "layer 1" in shown


# The pieces


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize("shape", ["odd", "qwen2"])
def test_dequantised_rows_equal_the_slow_twin(shape, precision, artifacts):
    folder = artifacts(shape, precision)
    stored = Stored(Artifact.open(folder))
    twin = oracle.dequantise(folder)
    assert set(stored.matrices) == set(twin)
    for name, matrix in twin.items():
        rows, width = matrix.shape
        whole = np.concatenate(
            [stored.rows(name, start, min(start + 50, rows), width) for start in range(0, rows, 50)]
        )
        np.testing.assert_allclose(whole, matrix, rtol=1e-6, err_msg=name)


def test_the_yardstick_equals_the_oracle_of_the_tests(checkpoints, artifacts):
    """Hooks on modules against transformers' own outputs, with dequantised weights."""
    probe = Probe("one", tuple(np.random.default_rng(1).integers(0, 307, 40).tolist()), 37)
    stored = Stored(Artifact.open(artifacts("qwen3", "onnx-int4")))
    (found,) = eager_values(checkpoints("qwen3"), [probe], stored, threads=1)
    model = oracle.load(checkpoints("qwen3"))
    with torch.no_grad():
        put(torch, dict(model.named_parameters()), stored)
    out = oracle.forward(model, list(probe.ids))
    np.testing.assert_allclose(found.logits, out.logits[-4:], atol=1e-5)
    np.testing.assert_allclose(found.hidden, np.swapaxes(out.hidden[:, -4:], 0, 1), atol=1e-5)
    rows = out.attention[:, :, -4:].astype(np.float64)
    entropy = -np.sum(rows * np.log(np.maximum(rows, 1e-300)), axis=3)
    np.testing.assert_allclose(found.entropy, np.moveaxis(entropy, 2, 0), atol=1e-5)


def test_kl_is_that_of_the_definition():
    a, b = (
        np.log(np.array([[0.5, 0.25, 0.25]], np.float32)),
        np.log(np.array([[0.25, 0.25, 0.5]], np.float32)),
    )
    assert kl(a + 7, b - 3)[0] == pytest.approx(0.25 * math.log(2), rel=1e-5)
    assert kl(a, a)[0] == 0.0
