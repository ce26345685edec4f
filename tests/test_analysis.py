"""Analysis: planted truths come out, a run against itself shows nothing, intervals cover."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats

from edge.analysis import dynamics
from edge.analysis.divergence import compare
from edge.analysis.free import first_difference
from edge.analysis.intervals import cluster_error, distribution
from edge.analysis.layers import by_column
from edge.artifact import ModelSpec
from edge.errors import UserError
from edge.runs.columns import answers_schema, mean_column, steps_schema
from edge.runs.manifest import RunManifest
from edge.runs.provenance import ArtifactIdentity, FollowedRun, QuestionSet, RunSettings
from edge.runs.run_directory import Run, RunWriter
from edge.signals.groups import BY_NAME, SCALARS, VECTORS
from edge.signals.streaming import SHORTEST, AnswerStatistics

SPEC = ModelSpec("llama", 2, 8, 3, 1, 4, 50, 64, (0, 0), (1,))
WIDTHS = {name: BY_NAME[name].shape.size(SPEC) for name in VECTORS}


def manifest(precision: str = "onnx-fp32", **changes: object) -> RunManifest:
    artifact = ArtifactIdentity(model_id="m", precision=precision, taps="rows", tokenizer_sha256="t")
    settings = RunSettings(prompt="raw", shard="1/1", reference_k=4, temperature=0.0)
    base = RunManifest("run", artifact, SPEC, settings, QuestionSet("q", 0, 0), None)
    return dataclasses.replace(base, **changes)


def make_run(
    folder: Path,
    entropies: list[np.ndarray],
    made: RunManifest,
    *,
    tokens: list[list[int]] | None = None,
    layer_shift: np.ndarray | None = None,
    head_shift: np.ndarray | None = None,
    kl: list[np.ndarray] | None = None,
    reference: list[np.ndarray] | None = None,
    old_shift: float | None = None,
) -> Run:
    """A run directory whose output entropy (and surprisal) is `entropies`, with constant vectors plus the
    given shifts. `old_shift` is the shift of short answers, to which 0.2 gave one."""
    forced = made.kind == "force"
    rows: dict[str, list] = {field.name: [] for field in steps_schema(reference=False, forced=forced)}
    answers: dict[str, list] = {field.name: [] for field in answers_schema(forced=forced)}
    for index, series in enumerate(entropies):
        statistics = AnswerStatistics(tuple(SCALARS))
        cells = {name: np.arange(1, width + 1, dtype=np.float32) for name, width in WIDTHS.items()}
        if layer_shift is not None:
            cells["attention_entropy_layer"] = cells["attention_entropy_layer"] + layer_shift
        if head_shift is not None:
            cells["attention_entropy"] = cells["attention_entropy"] + head_shift
        for t, value in enumerate(series):
            known = {
                "question_index": index,
                "question_id": "q",
                "step": t,
                "phase": "prompt" if t == 0 else "generation",
                "position": 3 + t,
                "token_id": tokens[index][t] if tokens else t,
                "token": "x",
                "output_entropy": value,
                "varentropy": value,
                "top1_probability": math.exp(-value),
                "top1_top2_gap": 0.1,
                "surprisal": value,
                "step_ms": 1.0,
                **cells,
            }
            if forced:
                known |= {"kl": kl[index][t] if kl else None, "same_top1": t % 2 == 0}
                known["reference_surprisal"] = reference[index][t] if reference else 0.0
            for name, column in rows.items():
                column.append(known[name])
            statistics.add([value] * len(SCALARS))
        row = {
            "question_index": index,
            "question_id": "q",
            "question": f"Question {index}?",
            "category": "c",
            "prompt_ids": [1, 2, 3, 4],
            "prompt_text": "p",
            "answer": "a",
            "tokens": len(series),
            "stop_reason": "length",
            "kv_bytes": 0,
            "prefill_ms": 1.0,
            "decode_ms": 1.0,
        }
        for name, summary in statistics.summaries().items():
            row |= {f"{name}_{part}": v for part, v in summary._asdict().items()}
            if old_shift is not None and len(series) < SHORTEST:
                row |= {f"{name}_{part}": old_shift for part in ("early", "late", "shift")}
        row |= {mean_column(name): cells[name] for name in VECTORS}
        for name, column in answers.items():
            column.append(row.get(name))
    with RunWriter(folder, made) as writer:
        writer.write_part(
            pa.table(rows, schema=steps_schema(reference=False, forced=forced)),
            pa.table(answers, schema=answers_schema(forced=forced)),
        )
        writer.finish()
    return Run.open(folder)


def series(rng: np.random.Generator, questions: int, drift: float, length: int = 40) -> list[np.ndarray]:
    """Noisy straight lines that rise by `drift` nats over the answer."""
    return [1.5 + drift * np.arange(length) / length + rng.normal(0, 0.2, length) for _ in range(questions)]


@pytest.mark.parametrize(
    ("drift", "expected"), [(-0.5, "deterministic"), (0.5, "exploratory"), (0.0, "balanced")]
)
def test_a_planted_drift_gives_its_class_slope_and_shift(
    tmp_path: Path, drift: float, expected: str
) -> None:
    run = make_run(tmp_path / "run", series(np.random.default_rng(1), 60, drift), manifest())
    found = dynamics.describe(run)
    assert found.model_class.label == expected
    assert found.slope.value == pytest.approx(drift, abs=0.05)
    # Windows of 20% lie 0.8 of the answer apart.
    assert found.model_class.shift.value == pytest.approx(0.8 * drift, abs=0.05)
    assert found.model_class.shift.low < found.model_class.shift.value < found.model_class.shift.high


def test_means_over_questions_and_over_tokens_weigh_as_they_say(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [np.full(10, 1.0), np.full(30, 2.0)], manifest())
    line = dynamics.describe(run).lines[0]
    assert line.metric == "output_entropy"
    assert line.over_questions.value == pytest.approx(1.5)
    assert line.over_tokens.value == pytest.approx(1.75)
    assert line.token_sd == pytest.approx(np.std([1.0] * 10 + [2.0] * 30), rel=1e-6)


def test_standard_errors_count_answers_not_tokens() -> None:
    rng = np.random.default_rng(5)
    means = rng.normal(0, 1, 200)
    tokens = np.repeat(
        means, 50
    )  # every token of an answer is the same: 200 independent numbers, not 10,000
    assert cluster_error(tokens, np.repeat(np.arange(200), 50)) == pytest.approx(
        scipy.stats.sem(means), rel=0.01
    )
    assert distribution(tokens, np.repeat(np.arange(200), 50)).median == pytest.approx(
        np.median(means), abs=0.02
    )


def test_a_curve_follows_the_answer_whatever_its_length(tmp_path: Path) -> None:
    ramps = [np.repeat(np.arange(4.0), n) for n in (1, 5, 25)]  # 4, 20 and 100 tokens of the same trajectory
    found = dynamics.curves(make_run(tmp_path / "run", ramps, manifest()), bins=8)["output_entropy"]
    np.testing.assert_allclose(found.median, [0, 0, 1, 1, 2, 2, 3, 3], atol=1e-6)
    np.testing.assert_allclose(found.low, found.high, atol=1e-6)
    np.testing.assert_allclose(dynamics.trajectory(np.array([2.0, 4.0]), 4), [2, 2, 4, 4])
    np.testing.assert_allclose(dynamics.trajectory(np.array([1.0, 2.0, 6.0]), 1), [3.0])


def test_a_run_against_itself_shows_no_change(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", series(np.random.default_rng(2), 12, 0.2), manifest())
    found = compare(run, run)
    assert found.free is not None and found.free.identical.value == 1.0 and found.free.first == ()
    assert all(change.change[:3] == (0.0, 0.0, 0.0) for change in found.changes)
    assert all((layer.mean == 0).all() for layer in found.layers)
    assert found.full_class == found.quantised_class


def test_planted_changes_come_out_by_layer_and_head(tmp_path: Path) -> None:
    lines = series(np.random.default_rng(2), 12, 0.0)
    full = make_run(tmp_path / "full", lines, manifest())
    changed = make_run(
        tmp_path / "int4",
        [line + 0.25 for line in lines],
        manifest("onnx-int4"),
        layer_shift=np.array([0.0, 0.5], np.float32),
        head_shift=np.array([0, 0, 0, 0, 0, 0.75], np.float32),
    )
    found = compare(full, changed)
    by_metric = {change.metric: change.change for change in found.changes}
    assert by_metric["output_entropy"].value == pytest.approx(0.25, abs=1e-5)
    layers = {layer.metric: layer.mean for layer in found.layers}
    np.testing.assert_allclose(layers["attention_entropy_layer"], [0, 0.5], atol=1e-6)
    heads = {head.metric: head.mean for head in found.heads}
    np.testing.assert_allclose(heads["attention_entropy"], [[0, 0, 0], [0, 0, 0.75]], atol=1e-6)


def test_forced_statistics_are_those_of_the_planted_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    lines = series(rng, 9, 0.1)
    noisy = [line + rng.normal(0, 0.1, line.size) for line in lines]
    kl = [rng.exponential(0.05, line.size) for line in lines]
    full = make_run(tmp_path / "full", lines, manifest())
    like = FollowedRun("r", full.manifest.artifact)
    forced = make_run(
        tmp_path / "forced", noisy, manifest("onnx-int4", kind="force", like=like), kl=kl, reference=lines
    )
    part = compare(full, forced).forced
    assert part is not None and part.kl is not None
    one, other, values = (
        np.concatenate(x).astype(np.float32).astype(np.float64) for x in (lines, noisy, kl)
    )
    assert part.tokens == one.size
    assert part.kl.mean == pytest.approx(values.mean(), rel=1e-6)
    assert part.kl.p99 == pytest.approx(np.percentile(values, 99), rel=1e-6)
    assert part.same_top1.value == pytest.approx(0.5)
    assert part.perplexity.full == pytest.approx(np.exp(one.mean()), rel=1e-6)
    assert part.perplexity.log_ratio.value == pytest.approx((other - one).mean(), rel=1e-4)
    assert part.probability_change.rms == pytest.approx(
        np.sqrt(np.mean((np.exp(-other) - np.exp(-one)) ** 2)), rel=1e-5
    )
    entropy = part.changes[0]
    assert entropy.metric == "output_entropy"
    assert entropy.rms == pytest.approx(np.sqrt(np.mean((other - one) ** 2)), rel=1e-6)
    assert entropy.pearson == pytest.approx(scipy.stats.pearsonr(one, other)[0], rel=1e-9)
    assert entropy.spearman == pytest.approx(scipy.stats.spearmanr(one, other)[0], rel=1e-9)


def test_correlations_by_column_are_scipys() -> None:
    rng = np.random.default_rng(9)
    x = np.round(rng.normal(size=(80, 3)), 1)  # with ties
    y = x + rng.normal(0, 0.5, x.shape)
    found = by_column(x, y)
    for i in range(3):
        assert found.rms[i] == pytest.approx(np.sqrt(np.mean((y[:, i] - x[:, i]) ** 2)), rel=1e-12)
        assert found.pearson[i] == pytest.approx(scipy.stats.pearsonr(x[:, i], y[:, i])[0], rel=1e-9)
        assert found.spearman[i] == pytest.approx(scipy.stats.spearmanr(x[:, i], y[:, i])[0], rel=1e-9)


def test_a_planted_turn_of_the_course_comes_out_in_slope_shift_and_class(tmp_path: Path) -> None:
    """The same noise, but entropy rises where it fell."""
    falling, rising = (series(np.random.default_rng(4), 40, drift) for drift in (-0.5, 0.5))
    full = make_run(tmp_path / "full", falling, manifest())
    found = compare(full, make_run(tmp_path / "int4", rising, manifest("onnx-int4")))
    trajectory = {change.metric: change.change for change in found.trajectory}
    assert trajectory["output_entropy_slope"].value == pytest.approx(1.0, abs=1e-5)
    assert trajectory["output_entropy_shift"].value == pytest.approx(
        0.8, abs=1e-5
    )  # windows of 20% lie 0.8 of the answer apart
    assert trajectory["output_entropy_late"].value - trajectory[
        "output_entropy_early"
    ].value == pytest.approx(0.8, abs=1e-5)
    assert (found.full_class.label, found.quantised_class.label, found.same_class) == (
        "deterministic",
        "exploratory",
        False,
    )
    by_name = {change.metric: change for change in found.summaries}
    assert by_name["output_entropy_p90"].change.low <= by_name["output_entropy_p90"].change.value
    assert "output_entropy_mean" not in by_name  # that is in `changes`


def test_the_first_difference_is_where_tokens_part(tmp_path: Path) -> None:
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([], [1]) == 0
    line = [np.ones(4), np.ones(4)]
    full = make_run(tmp_path / "a", line, manifest(), tokens=[[1, 2, 3, 4], [5, 6, 7, 8]])
    other = make_run(tmp_path / "b", line, manifest("onnx-int8"), tokens=[[1, 2, 3, 4], [5, 6, 9, 8]])
    free = compare(full, other).free
    assert free is not None
    assert free.identical.value == 0.5 and free.common_prefix.value == 0.75
    assert [(d.question_index, d.step) for d in free.first] == [(1, 2)]
    assert free.first[0].full_probability == pytest.approx(math.exp(-1.0))
    short = make_run(
        tmp_path / "c", [np.ones(4), np.ones(2)], manifest("onnx-int4"), tokens=[[1, 2, 3, 4], [5, 6]]
    )
    ended = compare(full, short).free
    assert (
        ended is not None
        and ended.first[0].quantised_token == ""
        and math.isnan(ended.first[0].quantised_probability)
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"questions": QuestionSet("other", 0, 0)}, "different questions"),
        (
            {"settings": RunSettings(prompt="qa", shard="1/1", reference_k=0, temperature=0.0)},
            "different prompts",
        ),
        ({"model": dataclasses.replace(SPEC, layers=5, windows=(0,) * 5)}, "different layers"),
        ({"model": dataclasses.replace(SPEC, vocabulary=9)}, "different vocabularies"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path, change: dict, words: str) -> None:
    line = [np.ones(3)]
    full, other = (
        make_run(tmp_path / "a", line, manifest()),
        make_run(tmp_path / "b", line, manifest(**change)),
    )
    with pytest.raises(UserError, match=words):
        compare(full, other)


def test_a_forced_run_is_only_compared_with_the_run_it_was_forced_on(tmp_path: Path) -> None:
    line = [np.ones(3)]
    full = make_run(tmp_path / "a", line, manifest())
    like = FollowedRun("r", dataclasses.replace(full.manifest.artifact, precision="onnx-int8"))
    forced = make_run(tmp_path / "b", line, manifest("onnx-int4", kind="force", like=like))
    with pytest.raises(UserError, match="forced on another run"):
        compare(full, forced)
    with pytest.raises(UserError, match="is a forced run"):
        compare(forced, full)
