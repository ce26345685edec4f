"""Synthetic checkpoints: a real model's exact shape, nothing but random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from edge import registry
from edge.artifact import Artifact
from edge.backends.onnx import OnnxBackend
from edge.errors import UserError
from edge.questions.prompt import Prompter
from export import synth as module
from export.build import build
from export.checkpoint import Checkpoint
from export.facts import differences
from export.graph.architectures import read_config
from export.graph.tensors import layer_shapes
from export.synth import config_of, synth, tokenizer_of
from tests.conftest import tree

HUB_MODELS = [entry for entry in registry.read_registry().values() if entry.shape]
PARAMETERS = {  # as the models' pages give them, in millions
    "llama-3.2-1b-instruct": 1236,
    "gemma-3-1b-it": 1000,
    "deepseek-r1-distill-qwen-1.5b": 1777,
    "qwen3-1.7b": 1721,
    "smollm2-135m-instruct": 135,
}


def parameters(entry: registry.RegistryEntry) -> int:
    assert entry.shape is not None
    shape, config = entry.shape, read_config(config_of(entry, entry.shape), entry.shape.context)
    layer = sum(int(np.prod(size)) for size in layer_shapes(config).values())
    return shape.layers * layer + shape.vocabulary * shape.hidden * (1 if shape.tied else 2) + shape.hidden


@pytest.mark.parametrize("entry", HUB_MODELS, ids=lambda entry: entry.model_id)
def test_the_shape_is_the_real_models(entry: registry.RegistryEntry) -> None:
    assert entry.shape is not None
    assert differences(entry, config_of(entry, entry.shape), {"eos_token_id": list(entry.stop_ids)}) == []
    assert parameters(entry) / 1e6 == pytest.approx(PARAMETERS[entry.model_id], abs=1)


@pytest.mark.parametrize("entry", HUB_MODELS, ids=lambda entry: entry.model_id)
def test_a_small_one_of_each_architecture_is_built_and_answers(
    entry: registry.RegistryEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry's own entry with fewer, narrower layers: the real ones take gigabytes."""
    assert entry.shape is not None
    small = dataclasses.replace(
        entry.shape, layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, intermediate=96, vocabulary=600
    )
    known = {"small": dataclasses.replace(entry, model_id="small", shape=small, stop_ids=(7, 599))}
    monkeypatch.setattr(module, "read_registry", lambda: known)
    folder = synth("small", tmp_path / "made", seed=3)
    with Checkpoint(folder) as checkpoint, Checkpoint(synth("small", tmp_path / "again", seed=3)) as again:
        assert checkpoint.sha256() == again.sha256()
    with Checkpoint(synth("small", tmp_path / "other", seed=4)) as other:
        assert other.sha256() != again.sha256()
    artifact = build(str(folder), ["onnx-int4"], tmp_path / "out")[0].artifact
    assert artifact.manifest.model.stop_ids == (7, 599)
    backend = OnnxBackend(artifact)
    prompt = Prompter(artifact).prompt("What is 2 + 2?")
    assert np.isfinite(backend.prefill(prompt.ids).logits).all()
    assert Prompter(artifact, "raw").prompt("What is 2 + 2?").ids  # nothing goes around it
    assert Artifact.open(artifact.path).manifest.model.vocabulary == 600


def test_the_tokenizer_fills_the_vocabulary_and_keeps_every_text(tmp_path: Path) -> None:
    import json

    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizer_of(70_000, (5, 69_999))), encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(path))
    assert tokenizer.get_vocab_size() == 70_000
    assert tokenizer.token_to_id("<|stop_5|>") == 5
    for text in ("plain words, 1234567", "def f(x):\n\treturn x", "äö 漢字 🙂 \u202e"):
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids) == text
        assert len(ids) < len(text.encode())


def test_bad_input_is_refused_and_nothing_written(tmp_path: Path) -> None:
    for model_id, out, words in (
        ("no-such-model", tmp_path / "a", "choose from smollm2-135m-instruct"),
        ("nano-llama", tmp_path / "a", "is not a model whose shape is known"),
        ("qwen3-1.7b", tmp_path, "is there already"),
    ):
        with pytest.raises(UserError, match=words):
            synth(model_id, out)
    assert tree(tmp_path) == {}
