"""edge-export reference: optimum's graph of all four architectures, and our artifacts against it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import export.reference
from edge.artifact import Artifact
from edge.errors import UserError
from export.build import build
from export.reference import reference
from export.reference_graph import AFTER, BEFORE, ReferenceGraph, open_reference
from export.verdict import OPTIMUM
from export.verify import verify
from tests import models, oracle
from tests.conftest import tree

ARCHITECTURES = {"odd": BEFORE, "qwen2": BEFORE, "qwen3": BEFORE, "gemma3-odd": AFTER}
PREFILL, STEPS = 150, 4  # beyond gemma3-odd's window of 140


@pytest.fixture(scope="module")
def references(checkpoints, tmp_path_factory):
    """Reference folder of a shape, made once."""
    pytest.importorskip(
        "optimum.exporters.onnx", reason="optimum is not installed: make setup EXTRAS=export,reference"
    )
    base, made = tmp_path_factory.mktemp("references"), {}

    def get(shape: str):
        if shape not in made:
            reference(str(checkpoints(shape)), base / shape)
            made[shape] = base / shape
        return made[shape]

    return get


@pytest.fixture(autouse=True)
def one_thread():
    """Two pools of threads on shared cores take ten times as long for models of this size."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ARCHITECTURES)
def test_the_reference_computes_what_transformers_does_and_says_where_its_last_hidden_state_is(
    shape, checkpoints, references
):
    folder = references(shape)
    said = open_reference(folder)
    assert said.last_hidden == ARCHITECTURES[shape]
    ids = np.random.default_rng(7).integers(0, models.VOCABULARY, PREFILL + STEPS).tolist()
    model = oracle.load(checkpoints(shape))
    wanted = oracle.forward(model, ids)
    found = ReferenceGraph(folder, 1).run(ids, len(ids))
    np.testing.assert_allclose(found.logits, wanted.logits, atol=2e-4)  # of logits up to 10
    np.testing.assert_allclose(found.attention, wanted.attention, atol=1e-4)
    errors = np.linalg.norm(found.hidden - wanted.hidden, axis=2) / np.linalg.norm(wanted.hidden, axis=2)
    assert errors[:-1].max() < 1e-4
    # The fact itself, from the model's own norm: which of the two the last output is, and that it is not the
    # other.
    import torch

    with torch.no_grad():
        after = model.model.norm(torch.from_numpy(wanted.hidden[-1])).numpy()
    sides = {BEFORE: wanted.hidden[-1], AFTER: after}
    distances = {
        side: np.linalg.norm(found.hidden[-1] - value) / np.linalg.norm(value)
        for side, value in sides.items()
    }
    assert distances.pop(said.last_hidden) < 1e-4
    assert min(distances.values()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["odd", "gemma3-odd"])
def test_the_reference_decodes_with_its_cache(shape, references):
    graph = ReferenceGraph(references(shape), 1)
    ids = np.random.default_rng(8).integers(0, models.VOCABULARY, PREFILL + STEPS).tolist()
    whole = graph.run(ids, STEPS)
    names = [name for name in graph.outputs if name.startswith("present.")]
    past, logits, read = {}, [], 0
    for part in (ids[:PREFILL], *([token] for token in ids[PREFILL:])):
        inputs = graph.feed(part) | past
        inputs["attention_mask"] = np.ones((1, read + len(part)), np.int64)
        if "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"] + read
        values = graph._session.run(["logits", *names], inputs)
        logits.append(values[0][0, -1])
        read += len(part)
        past = {
            name.replace("present.", "past_key_values."): value
            for name, value in zip(names, values[1:], strict=True)
        }
    np.testing.assert_allclose(logits[1:], whole.logits, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ARCHITECTURES)
def test_our_full_precision_artifact_agrees_with_optimums_graph(shape, checkpoints, references, tmp_path):
    build(str(checkpoints(shape)), ["onnx-fp32"], tmp_path)
    (result,) = verify(tmp_path, threads=1, source=str(checkpoints(shape)), reference=references(shape))
    checks = {check.number: check for check in result.checks if check.against == OPTIMUM}
    assert set(checks) == {"logits", "attention entropy", "hidden states"}
    for check in checks.values():
        assert check.value < 1e-4, check
        assert check.absolute is None or check.absolute < 3e-4, check


@pytest.mark.slow
def test_the_folder_holds_what_it_says(checkpoints, references):
    folder = references("qwen3")
    raw = json.loads((folder / "reference.json").read_text())
    assert (raw["source"], raw["revision"], raw["architecture"], raw["layers"]) == ("qwen3", "", "qwen3", 3)
    assert {"optimum", "optimum-onnx", "torch", "transformers", "edgetrace"} <= set(raw["versions"])
    assert {"model.onnx", "tokenizer.json", "config.json"} <= set(raw["files"])
    assert {path.name for path in folder.iterdir()} == {*raw["files"], "reference.json"}
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    names = set(ReferenceGraph(folder).outputs)
    assert {f"hidden_states.{i}" for i in range(4)} | {f"attentions.{i}" for i in range(3)} <= names


@pytest.mark.slow
def test_a_reference_of_another_checkpoint_or_a_cut_one_is_refused(
    artifacts, checkpoints, references, tmp_path
):
    with pytest.raises(UserError, match="reference was made from another checkpoint"):
        verify(artifacts("odd"), source=str(checkpoints("odd")), reference=references("qwen3"))
    folder = shutil.copytree(references("qwen3"), tmp_path / "cut")
    with (folder / "model.onnx").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(UserError, match="make the reference again"):
        open_reference(folder)


def test_an_existing_folder_is_refused(checkpoints, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="is there already"):
        reference(str(checkpoints("odd")), tmp_path / "mine")
    assert tree(tmp_path) == {"mine": None}


def test_without_optimum_the_extra_is_named(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optimum.exporters.onnx", None)
    with pytest.raises(UserError, match=r"edgetrace\[reference\]"):
        reference(str(checkpoints("odd")), tmp_path / "out")
    assert tree(tmp_path) == {}


def test_an_export_that_breaks_leaves_nothing(checkpoints, tmp_path, monkeypatch):
    pytest.importorskip(
        "optimum.exporters.onnx", reason="optimum is not installed: make setup EXTRAS=export,reference"
    )

    def breaks(exporters, folder, out, model_type):
        (Path(out) / "model.onnx").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.reference, "run_optimum", breaks)
    with pytest.raises(UserError, match="No space left"):
        reference(str(checkpoints("odd")), tmp_path / "out")
    assert tree(tmp_path) == {}


def test_an_architecture_that_is_not_built_is_refused_before_torch(tmp_path):
    pytest.importorskip(
        "optimum.exporters.onnx", reason="optimum is not installed: make setup EXTRAS=export,reference"
    )
    source = models.write_checkpoint(
        tmp_path / "gpt2", models.config_of(num_hidden_layers=1, model_type="gpt2")
    )
    with pytest.raises(UserError, match="architecture that is not built"):
        reference(str(source), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reference_and_verify_import_without_heavy_libraries():
    code = (
        "import sys, export.cli, export.verify, export.reference; "
        "print({'torch', 'transformers', 'optimum'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_artifacts_and_references_are_not_taken_for_each_other(artifacts):
    with pytest.raises(UserError, match=r"has no reference.json"):
        open_reference(Artifact.open(artifacts("odd")).path)
