"""Forcing with the full model at hand, on pairs whose difference is planted in the weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

import edge.cli.app
from edge.analysis.divergence import compare
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import open_backend
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.runs.run_directory import Run
from edge.signals.comparison import hidden_distance, kl_exact
from export.build import build
from tests import reference
from tests.conftest import ONE_THREAD
from tests.models import SHAPES, config_of, tensors, write_checkpoint
from tests.test_cli_errors import call

DAY = "2026-01-01"
NAME, SEED = "odd", 3


def changed(folder, change, precision="onnx-fp32"):
    """An artifact of the shape whose weights went through `change`."""
    weights = tensors(config_of(**SHAPES[NAME]), SEED)
    change(weights)
    source = write_checkpoint(folder / "source", config_of(**SHAPES[NAME]), weights=weights)
    return build(str(source), [precision], folder)[0].artifact


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return changed(tmp_path_factory.mktemp("exact"), lambda weights: None)


@pytest.fixture(scope="module")
def full(base, questions_file, tmp_path_factory):
    """A run of the unchanged model, its 16 most likely tokens kept."""
    out = tmp_path_factory.mktemp("exact-run") / "full"
    run(
        base,
        read_questions(questions_file),
        out,
        DecodeSettings(25, 0.8, reference_k=16),
        date=DAY,
        runtime=ONE_THREAD,
    )
    return Run.open(out)


def forced(artifact, full, folder, base, **settings):
    force(artifact, full.folder, folder, exact=base, runtime=ONE_THREAD, **settings)
    return Run.open(folder)


def column(run, name):
    return (
        np.stack(run.steps().column(name).to_pylist()) if run.steps().column(name).null_count == 0 else None
    )


def test_a_model_against_itself_is_exactly_the_same(base, full, tmp_path):
    own = forced(base, full, tmp_path / "own", base)
    assert own.steps().column("kl").to_pylist() == [0.0] * own.steps().num_rows
    np.testing.assert_array_equal(column(own, "hidden_error"), 0.0)
    np.testing.assert_allclose(column(own, "hidden_similarity"), 1.0, atol=1e-6)
    assert all(own.steps().column("same_top1").to_pylist())
    found = compare(full, own)
    assert found.forced is not None
    assert found.forced.exact
    assert found.forced.reference_k == base.manifest.model.vocabulary
    by_name = {line.name: line for line in found.forced.statistics}
    assert [
        by_name[name].value for name in ("Mean KLD", "Maximum KLD", "Mean PPL(Q)-PPL(base)", "RMS Δp")
    ] == [0.0] * 4
    assert all(change.change.value == 0.0 for change in found.changes)
    assert found.full_class == found.quantised_class
    assert max(found.forced.hidden_error.mean) == 0.0
    assert found.same_class is None  # seven answers are too few for a class
    assert found.to_json()["same_class"] is None
    known = [c.change for c in found.summaries if not np.isnan(c.full.value)]
    assert len(known) > 150
    assert all(change[:3] == (0.0, 0.0, 0.0) for change in known)
    for place in (*found.heads, *found.layers):
        np.testing.assert_array_equal(place.mean, 0.0)
        np.testing.assert_array_equal(place.rms, 0.0)
        for correlation in (place.pearson, place.spearman):  # none where all is constant
            np.testing.assert_allclose(correlation[~np.isnan(correlation)], 1.0, atol=1e-9)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_noise_in_one_layer_starts_there(layer, base, full, tmp_path):
    def noise(weights):
        weights[f"model.layers.{layer}.mlp.down_proj.weight"] += np.random.default_rng(1).normal(
            0, 0.02, (48, 72)
        )

    found = compare(full, forced(changed(tmp_path, noise), full, tmp_path / "run", base))
    error, similarity = found.forced.hidden_error.mean, found.forced.hidden_similarity.mean
    assert (error[: layer + 1] == 0.0).all()  # the embedding and every layer before
    assert (error[layer + 1 :] > 1e-3).all()
    assert (similarity[layer + 1 :] < 1.0).all()
    assert found.forced.kl.mean > 1e-5
    entropy = next(c for c in found.layers if c.metric == "attention_entropy_layer")
    assert (entropy.rms[: layer + 1] == 0.0).all()  # attention of a layer comes before its noise
    assert (entropy.rms[layer + 1 :] > 0.0).all()
    heads = next(c for c in found.heads if c.metric == "attention_entropy")
    assert (heads.rms[: layer + 1] == 0.0).all()
    assert (heads.rms[layer + 1 :] > 0.0).all()
    assert (np.abs(heads.spearman[layer + 1 :]) < 1.0).all()


def test_scaled_logits_change_distributions_and_nothing_inside(base, full, tmp_path):
    scale = 1.3

    def sharpen(weights):
        weights["model.norm.weight"] *= scale

    run_of = forced(changed(tmp_path, sharpen), full, tmp_path / "run", base)
    np.testing.assert_array_equal(column(run_of, "hidden_error"), 0.0)
    found = compare(full, run_of)
    assert all((c.mean == 0.0).all() for c in found.heads)
    assert all((c.rms == 0.0).all() for c in (*found.heads, *found.layers))
    assert found.forced.same_top1.value == 1.0
    # The twin: the full model's own logits, and those times the scale, in float64.
    backend, rows = open_backend(base, ONE_THREAD, 300, print), run_of.steps().to_pylist()
    expected_kl, expected_entropy = [], []
    for answer in full.answers().to_pylist():
        tokens = [row["token_id"] for row in rows if row["question_index"] == answer["question_index"]]
        backend.rewind(0)
        for t in range(len(tokens)):
            taps = backend.step(tokens[t - 1]) if t else backend.prefill(answer["prompt_ids"])
            logits = taps.logits.astype(float).tolist()
            expected_kl.append(reference.kl(logits, [scale * z for z in logits]))
            expected_entropy.append(reference.output_entropy([scale * z for z in logits]))
    backend.close()
    np.testing.assert_allclose(run_of.steps().column("kl").to_numpy(), expected_kl, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        run_of.steps().column("output_entropy").to_numpy(), expected_entropy, rtol=1e-4, atol=1e-5
    )
    assert np.mean(expected_kl) > 0.01


def test_the_kept_tokens_bound_the_exact_divergence_from_below(base, full, tmp_path):
    int4 = changed(tmp_path, lambda weights: None, "onnx-int4")
    exact = forced(int4, full, tmp_path / "exact", base)
    kept = forced(int4, full, tmp_path / "kept", None)
    kl, bound = (r.steps().column("kl").to_numpy().astype(float) for r in (exact, kept))
    assert (bound <= kl + 1e-5).all()
    assert 0.0 < (kl - bound).mean() < kl.mean()
    for name in ("output_entropy", "attention_entropy", "hidden_norm", "surprisal"):
        assert exact.steps().column(name).equals(kept.steps().column(name)), name
    np.testing.assert_allclose(
        *(r.steps().column("reference_surprisal").to_numpy() for r in (exact, kept)), atol=1e-5
    )
    assert compare(full, kept).forced.hidden_error is None
    assert not compare(full, kept).forced.exact


def test_both_backends_can_be_stepped_together(artifacts, questions_file, tmp_path):
    """gguf-f32 beside onnx-fp32 of the same checkpoint: as far apart as rounding."""
    onnx, gguf = (Artifact.open(artifacts("odd", precision)) for precision in ("onnx-fp32", "gguf-f32"))
    questions = read_questions(questions_file)[:3]
    for one, other, name in ((onnx, gguf, "a"), (gguf, onnx, "b")):
        run(one, questions, tmp_path / name, DecodeSettings(10), date=DAY, runtime=Runtime(1))
        force(other, tmp_path / name, tmp_path / f"{name}-forced", exact=one, runtime=Runtime(1))
        made = Run.open(tmp_path / f"{name}-forced")
        assert made.steps().column("kl").to_numpy().max() < 1e-6
        assert column(made, "hidden_error").max() < 1e-3


def test_without_taps_there_is_a_whole_divergence_and_no_hidden_error(
    artifacts, base, questions_file, tmp_path
):
    blind = Artifact.open(artifacts("odd", "onnx-fp32", "none"))
    tapped = Artifact.open(artifacts("odd", "onnx-int4"))
    run(
        blind,
        read_questions(questions_file)[:2],
        tmp_path / "blind",
        DecodeSettings(6),
        date=DAY,
        runtime=ONE_THREAD,
    )
    force(tapped, tmp_path / "blind", tmp_path / "forced", exact=blind, runtime=ONE_THREAD)
    made = Run.open(tmp_path / "forced")
    assert made.steps().column("hidden_error").null_count == made.steps().num_rows
    assert made.steps().column("kl").null_count == 0
    assert compare(Run.open(tmp_path / "blind"), made).forced.hidden_error is None


def test_another_full_artifact_is_refused_and_nothing_written(artifacts, base, full, tmp_path):
    with pytest.raises(UserError, match=r"is not the artifact that made .*give that one with --exact"):
        force(base, full.folder, tmp_path / "out", exact=Artifact.open(artifacts("odd")), runtime=ONE_THREAD)
    assert not (tmp_path / "out").exists()


def test_an_exact_run_is_not_continued_as_another(base, full, tmp_path):
    forced(base, full, tmp_path / "out", base)
    with pytest.raises(UserError, match=r"like\.exact"):
        force(base, full.folder, tmp_path / "out", runtime=ONE_THREAD)


def test_compare_prints_the_list_and_the_hidden_states(base, full, tmp_path, capsys):
    int4 = changed(tmp_path, lambda weights: None, "onnx-int4")
    arguments = [
        "force",
        str(int4.path),
        "--like",
        str(full.folder),
        "--exact",
        str(base.path),
        "--out",
        "{forced}",
        "--quiet",
    ]
    assert call(edge.cli.app.main, arguments, tmp_path) == 0
    capsys.readouterr()
    assert (
        call(edge.cli.app.main, ["compare", str(full.folder), "{forced}", "--json", "{c.json}"], tmp_path)
        == 0
    )
    shown = capsys.readouterr().out
    for words in (
        "whole vocabulary",
        "Mean PPL(Q)",
        "99.9% KLD",
        "RMS Δp",
        "Same top p",
        "Residual stream against",
    ):
        assert words in shown, words
    said = json.loads((tmp_path / "c.json").read_text())
    assert said["forced"]["exact"] is True
    assert len(said["forced"]["hidden_error"]["mean"]) == 4
    assert {line["name"] for line in said["forced"]["statistics"]} >= {"Mean KLD", "Mean Δp"}


# The functions


def test_divergence_over_the_whole_vocabulary_is_the_slow_twins():
    rng = np.random.default_rng(1)
    for scale in (0.1, 3.0, 30.0):
        p, q = (rng.normal(0, scale, 200).astype(np.float32) for _ in range(2))
        normalisers = [reference.log_normaliser(z.astype(float).tolist()) for z in (p, q)]
        found = kl_exact(p, normalisers[0], q, normalisers[1])
        assert found == pytest.approx(
            reference.kl(p.astype(float).tolist(), q.astype(float).tolist()), rel=1e-9, abs=1e-12
        )


def test_impossible_tokens_add_nothing_and_ruled_out_ones_everything():
    p, q = np.array([0.0, -np.inf, 0.0], np.float32), np.array([0.0, 5.0, 0.0], np.float32)
    log_two, other = np.log(2.0), reference.log_normaliser([0.0, 5.0, 0.0])
    assert kl_exact(p, log_two, q, other) == pytest.approx(other - log_two)
    assert kl_exact(q, other, p, log_two) == np.inf


def test_distance_of_residual_streams():
    full = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], np.float32)
    found = hidden_distance(full, np.array([[3.0, 4.5], [0.0, 0.0], [0.0, 2.0]], np.float32))
    assert found.hidden_error.tolist() == pytest.approx([0.1, 0.0, np.sqrt(5.0)])
    assert found.hidden_similarity.tolist() == pytest.approx([27 / (5 * np.hypot(3, 4.5)), 0.0, 0.0])
    assert hidden_distance(full[1:2], full[:1]).hidden_error[0] == np.inf
