"""Values that JSON can hold and no model or run has: each is refused by its field, in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge.artifact import LARGEST_SIZE, Artifact, ModelSpec
from edge.backends.onnx import OnnxBackend
from edge.errors import UserError
from edge.fields import DEEPEST, FieldError, number, parse_json, shown, text
from export.build import build
from export.checkpoint import read_json
from export.graph.architectures import read_config
from tests import models

HUGE = 10**30


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    return opening * levels + "1" + closing * levels


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("levels", [DEEPEST + 1, 900, 100_000])
def test_values_nested_too_deep_are_refused(levels, opening, closing):
    with pytest.raises(ValueError, match="more than 100 levels"):
        parse_json(nested(levels, opening, closing))


def test_values_nested_less_are_read():
    assert json.dumps(parse_json(nested(DEEPEST))) == nested(DEEPEST)
    assert parse_json('{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_a_number_is_finite(value):
    with pytest.raises(FieldError, match="no finite number"):
        number(value)


@pytest.mark.parametrize("value", [0, -1.5, 1e308, 2**63])
def test_other_numbers_stay_as_they_are(value):
    assert number(value) is value


def test_half_a_character_is_no_text():
    with pytest.raises(FieldError, match="half a character"):
        text("a\ud800")
    assert text("😀") == "😀"
    assert text("name-\udcff.gguf")  # how Python names a file that is not UTF-8


def test_a_message_shows_little_of_a_value():
    assert len(shown("x" * 10**6)) == 80
    assert len(shown(10**5000)) <= 80


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": HUGE},
        {"num_hidden_layers": 10**6},
        {"hidden_size": HUGE},
        {"head_dim": HUGE},
        {"vocab_size": 2**31},
        {"intermediate_size": "x" * 10**5},
        {"rope_theta": float("inf")},
        {"rope_theta": 1e39},
        {"rms_norm_eps": 10**400},
        {"model_type": "x" * 10**5},
        {"hidden_act": ["x" * 10**5]},
        {"tie_word_embeddings": "x" * 10**5},
        {"layer_types": ["x" * 10**5], "model_type": "qwen2", "use_sliding_window": True},
        {"rope_scaling": {"rope_type": "x" * 10**5}},
        {"max_window_layers": -1, "model_type": "qwen2", "use_sliding_window": True},
        {"max_window_layers": "28", "model_type": "qwen2", "use_sliding_window": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_config_of_no_model_is_refused_by_its_key(change):
    key = "rope type" if "rope_scaling" in change else next(iter(change))
    with pytest.raises(UserError, match=key) as refused:
        read_config(models.BASE | change, 64)
    assert len(str(refused.value)) < 300


def test_zero_window_layers_are_read():
    config = models.config_of(**models.SHAPES["qwen2-window"]) | {"max_window_layers": 0}
    assert set(read_config(config, 64).windows) == {config["sliding_window"]}


@pytest.mark.parametrize("content", ['{"a": "\\ud800"}', '{"a": "\\udcff"}', nested(500), "1" * 5000, "[1]"])
def test_a_damaged_file_of_a_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        read_json(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vocab_size": 2**31 - 1}, "embed_tokens.weight has shape"),
        ({"num_hidden_layers": 9999}, "has no tensor model.layers.1.self_attn"),
        ({"head_dim": 2**20}, "q_proj.weight has shape"),
        ({"tie_word_embeddings": False}, "has no tensor lm_head.weight"),
    ],
)
def test_sizes_that_no_tensor_has_are_refused_before_anything_is_written(change, told, tmp_path):
    folder = models.write_checkpoint(tmp_path / "one", models.config_of(num_hidden_layers=1))
    config = json.loads((folder / "config.json").read_text()) | change
    models.write_json(folder / "config.json", config)
    with pytest.raises(UserError, match=told):
        build(str(folder), ["onnx-fp32"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_is_no_larger_than_its_libraries_count():
    sizes = {
        "layers": 1,
        "hidden": 8,
        "heads": 1,
        "kv_heads": 1,
        "head_dim": 8,
        "vocabulary": 9,
        "context": 4,
    }
    fields = sizes | {"architecture": "llama", "windows": [0], "stop_ids": [1]}
    assert ModelSpec.from_json(fields | {"context": LARGEST_SIZE}).context == LARGEST_SIZE
    for name in sizes.keys() - {"layers"}:
        with pytest.raises(ValueError, match="larger than any"):
            ModelSpec.from_json(fields | {name: LARGEST_SIZE + 1})


@pytest.mark.parametrize("taps", ["rows", "none"])
@pytest.mark.parametrize(
    "change",
    [
        {"head_dim": 65536},
        {"kv_heads": 4, "heads": 4},
        {"vocabulary": 5},
        {"layers": 1, "windows": (0,)},
    ],
)
def test_a_manifest_of_another_shape_than_its_graph_is_refused(change, taps, artifacts):
    artifact = Artifact.open(artifacts("narrow", taps=taps))
    other = replace(artifact.manifest, model=replace(artifact.manifest.model, **change))
    with pytest.raises(UserError, match="has another shape than its manifest says"):
        OnnxBackend(Artifact(artifact.path, other), capacity=8, threads=1)
    OnnxBackend(artifact, capacity=8, threads=1).close()
