"""onnx-int4-mixed: what a recipe does to an artifact, and a search that finds where 4 bits were made to
hurt."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import export.cli
from edge.analysis.intervals import Interval
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import open_backend
from edge.errors import UserError
from edge.precision import MIXED, PRECISIONS
from edge.questions.question import read_questions
from export.build import build
from export.mix import SEARCH_NAME, UNBUILT_NAME, Trial, find, prefixes
from export.precision import Target, group
from export.recipe import read_recipe
from export.stored import Stored
from tests.models import SHAPES, config_of, tensors, write_checkpoint
from tests.test_cli_errors import call

pytestmark = pytest.mark.slow

WIDE = ["layers.1.mlp", "embedding"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.12.self_attn.q_proj.weight", "layers.12.attention"),
        (
            "model.layers.0.self_attn.q_proj.weight+model.layers.0.self_attn.k_proj.weight",
            "layers.0.attention",
        ),
        ("model.layers.3.mlp.down_proj.weight", "layers.3.mlp"),
        ("model.layers.3.input_layernorm.weight", ""),
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "lm_head"),
        ("model.norm.weight", ""),
    ],
)
def test_every_matrix_belongs_to_a_group(name, expected):
    assert group(name) == expected


@pytest.mark.parametrize("shape", ["odd", "untied", "qwen2", "qwen3", "gemma3-odd"])
def test_the_recipe_decides_each_matrix(shape, checkpoints, tmp_path):
    (built,) = build(str(checkpoints(shape)), [MIXED], tmp_path, wide=WIDE)
    matrices = Stored(built.artifact).matrices
    assert {matrix.bits for matrix in matrices.values()} == {4, 8}
    assert all((matrix.bits == 8) == (group(name) in WIDE) for name, matrix in matrices.items())
    kept = built.artifact.manifest
    assert kept.quantization == {
        "bits": 4,
        "block_size": 32,
        "accuracy_level": 4,
        "embedding": 8,
        "layers.1.mlp": 8,
    }
    assert kept.tensor_types["int8"] + kept.tensor_types["int4"] == len(matrices)
    backend = open_backend(built.artifact, Runtime(1), 20, print)
    assert np.isfinite(backend.prefill([5, 6, 7]).logits).all()
    backend.close()


def test_all_groups_in_8_bits_are_int8_bit_for_bit(checkpoints, artifacts, tmp_path):
    groups = ["embedding", *(f"layers.{n}.{part}" for n in range(3) for part in ("attention", "mlp"))]
    (built,) = build(str(checkpoints("odd")), [MIXED], tmp_path, wide=groups)
    one, other = (
        open_backend(a, Runtime(1), 20, print)
        for a in (built.artifact, Artifact.open(artifacts("odd", "onnx-int8")))
    )
    np.testing.assert_array_equal(one.prefill([5, 6, 7]).logits, other.prefill([5, 6, 7]).logits)
    one.close(), other.close()


def test_another_recipe_is_another_artifact(checkpoints, tmp_path):
    first = build(str(checkpoints("odd")), [MIXED], tmp_path, wide=WIDE)
    assert build(str(checkpoints("odd")), [MIXED], tmp_path, wide=WIDE[::-1])[0].reused
    with pytest.raises(UserError, match=r"another artifact .*quantization"):
        build(str(checkpoints("odd")), [MIXED], tmp_path, wide=WIDE[:1])
    again = build(str(checkpoints("odd")), [MIXED], tmp_path, wide=WIDE[:1], overwrite=True)
    assert again[0].artifact.manifest.identity() != first[0].artifact.manifest.identity()


@pytest.mark.parametrize(
    ("precisions", "wide", "words"),
    [
        ([MIXED], [], "a recipe go together"),
        (["onnx-int4"], WIDE, "a recipe go together"),
        ([MIXED], ["layers.7.mlp"], "names layers.7.mlp, which this model has not"),
        ([MIXED], ["lm_head"], "names lm_head"),  # tied: there is none of its own
    ],
)
def test_what_is_no_recipe_for_this_model_is_refused(precisions, wide, words, checkpoints, tmp_path):
    with pytest.raises(UserError, match=words):
        build(str(checkpoints("odd")), precisions, tmp_path / "out", wide=wide)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """A checkpoint whose matrices are whole multiples of a 4-bit step, block by block, but for one MLP's,
    which are not."""
    weights, rng = tensors(config_of(**SHAPES["odd"]), 3), np.random.default_rng(1)
    for name, matrix in weights.items():
        if matrix.ndim == 2 and group(name) != "layers.1.mlp":
            steps = rng.integers(-7, 8, matrix.shape)
            steps[:, ::32] = -8  # the largest of each block, from which its step is taken
            weights[name] = (steps * 2.0**-5).astype(np.float32)
    return write_checkpoint(
        tmp_path_factory.mktemp("fragile") / "source", config_of(**SHAPES["odd"]), weights=weights
    )


def test_the_search_finds_the_group_that_was_made_fragile(fragile, questions_file, tmp_path):
    heard = []
    found = find(
        str(fragile),
        tmp_path / "out",
        read_questions(questions_file),
        max_new_tokens=12,
        budget=1.2,
        threads=1,
        on_trial=lambda name, trial: heard.append(name),
    )
    by_gain = sorted(found.alone, key=lambda name: found.alone[name].kl.value)
    assert by_gain[0] == "layers.1.mlp"
    assert found.path[0].wide == ("layers.1.mlp",)
    assert "layers.1.mlp" in found.chosen
    best = min(trial.kl.value for trial in found.path)
    assert best < 0.7 * found.base.kl.value
    assert all(found.base.bytes < trial.bytes <= 1.2 * found.base.bytes for trial in found.path)
    assert found.eight.kl == found.path[0].kl  # that one group is all that 8 bits have over 4 here
    assert len(heard) == 2 + 7 + len(found.path)
    built = Artifact.open(tmp_path / "out" / MIXED)
    assert {
        name for name, bits in built.manifest.quantization.items() if "." in name or name == "embedding"
    } == set(found.chosen)
    assert sum(record.size for record in built.manifest.files.values()) == next(
        trial.bytes for trial in found.path if trial.wide == found.chosen
    )
    # The log is the recipe, and nothing else is left.
    assert read_recipe(tmp_path / "out" / SEARCH_NAME).wide == found.chosen
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MIXED, SEARCH_NAME]
    again = build(
        str(fragile), [MIXED], tmp_path / "out", wide=read_recipe(tmp_path / "out" / SEARCH_NAME).wide
    )
    assert again[0].reused


def test_a_search_whose_artifact_cannot_be_built_is_kept(fragile, questions_file, tmp_path):
    out, search = tmp_path / "out", {"max_new_tokens": 4, "budget": 1.2, "threads": 1}
    build(str(fragile), [MIXED], out, wide=["embedding"])  # another mixture
    before = (out / MIXED / "manifest.json").read_bytes()
    with pytest.raises(
        UserError, match=r"what was found is in .*unbuilt\.json, for 'edge-export build --recipe'"
    ):
        find(str(fragile), out, read_questions(questions_file)[:2], **search)
    assert (out / MIXED / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == [MIXED, UNBUILT_NAME]
    (again,) = build(str(fragile), [MIXED], tmp_path / "second", wide=read_recipe(out / UNBUILT_NAME).wide)
    assert again.artifact.manifest.precision == MIXED


def test_one_command_searches_and_another_builds_what_was_found(fragile, questions_file, tmp_path, capsys):
    arguments = [
        "mix",
        str(fragile),
        "--out",
        "{out}",
        "--questions",
        str(questions_file),
        "--limit",
        "3",
        "--max-new-tokens",
        "6",
        "--budget",
        "1.2",
        "--threads",
        "1",
        "--json",
        "{log.json}",
    ]
    assert call(export.cli.main, arguments, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "nothing (onnx-int4)" in shown and "layers.1.mlp" in shown
    log = json.loads((tmp_path / "log.json").read_text())
    assert log["wide"] == log["chosen"] and log["questions"] == 3
    assert log == json.loads((tmp_path / "out" / SEARCH_NAME).read_text())
    arguments = [
        "build",
        str(fragile),
        "--to",
        MIXED,
        "--recipe",
        f"{{out}}/{SEARCH_NAME}",
        "--out",
        "{second}",
    ]
    assert call(export.cli.main, arguments, tmp_path) == 0
    one, two = (Artifact.open(tmp_path / name / MIXED).manifest for name in ("out", "second"))
    assert one.identity() == two.identity()
    assert "another checkpoint" not in "".join(capsys.readouterr())
    (tmp_path / "foreign.json").write_text(
        json.dumps(log | {"checkpoint_sha256": "0" * 64, "model_id": "<other>"})
    )
    arguments = ["build", str(fragile), "--to", MIXED, "--recipe", "{foreign.json}", "--out", "{third}"]
    assert call(export.cli.main, arguments, tmp_path) == 0
    assert "was found for another checkpoint (<other>)" in " ".join(capsys.readouterr().err.split())


def test_a_budget_without_room_says_so_and_leaves_nothing(fragile, questions_file, tmp_path):
    with pytest.raises(UserError, match="give a larger --budget"):
        find(
            str(fragile),
            tmp_path / "out",
            read_questions(questions_file)[:2],
            max_new_tokens=4,
            budget=1.0001,
            threads=1,
        )
    assert list((tmp_path / "out").iterdir()) == []
    for budget in (0.9, math.nan, math.inf):
        with pytest.raises(UserError, match=f"--budget is {budget}"):
            find(str(fragile), tmp_path / "none", read_questions(questions_file), budget=budget)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file"):
        find(str(fragile), tmp_path / "file", read_questions(questions_file))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"wide": []}', '{"wide": "embedding"}', '{"wide": [1]}'])
def test_a_file_that_is_no_recipe_is_refused(text, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is no recipe"):
        read_recipe(path)
    with pytest.raises(UserError, match="is no recipe"):
        read_recipe(tmp_path / "absent.json")


def test_groups_are_taken_by_gain_for_each_byte_and_those_that_harm_are_left():
    def trial(size, kl):
        return Trial((), size, Interval(kl, kl, kl))

    alone = {
        "small": trial(110, 0.8),
        "large": trial(200, 0.5),
        "harms": trial(101, 1.1),
        "best": trial(110, 0.5),
    }
    assert prefixes(trial(100, 1.0), alone) == [("best",), ("best", "small"), ("best", "small", "large")]
    assert Target(PRECISIONS[MIXED]).wide == ()
