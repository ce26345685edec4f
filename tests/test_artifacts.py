"""Several artifacts against one run: a line for each, what fits, what is refused; whether entropy still
warns."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import edge.cli.app
from edge.analysis.artifacts import Cost, Damage, best_fit, compare_artifacts
from edge.analysis.auroc_change import compare_truth
from edge.analysis.divergence import compare
from edge.analysis.scores import scores_of
from edge.analysis.truth_change import truth_change
from edge.artifact import Artifact
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.runs.provenance import FollowedRun
from edge.runs.run_directory import Run
from tests.conftest import ONE_THREAD
from tests.planted import Planted, write_run
from tests.test_analysis import make_run, manifest
from tests.test_cli_errors import call

pytestmark = pytest.mark.slow  # many runs of models

DAY = "2026-01-01"
MODEL = "nano-llama"
QUANTISED = ("onnx-int4", "gguf-q4_k_m")


@pytest.fixture(scope="module")
def runs(artifacts, questions_file, tmp_path_factory):
    """full, and of each quantised artifact NAME (alone), NAME-forced and NAME-exact."""
    base, questions = tmp_path_factory.mktemp("many"), read_questions(questions_file)
    full = Artifact.open(artifacts(MODEL))
    run(full, questions, base / "full", DecodeSettings(20, reference_k=64), date=DAY, runtime=ONE_THREAD)
    for name in QUANTISED:
        opened = Artifact.open(artifacts(MODEL, name))
        run(opened, questions, base / name, DecodeSettings(20), date=DAY, runtime=ONE_THREAD)
        force(opened, base / "full", base / f"{name}-forced", runtime=ONE_THREAD)
        force(opened, base / "full", base / f"{name}-exact", exact=full, runtime=ONE_THREAD)
    return base


def opened(folder: Path, *names: str) -> list[Run]:
    return [Run.open(folder / name) for name in names]


def test_telemetry_that_cannot_be_read_is_none(runs, tmp_path):
    shutil.copytree(runs / "onnx-int4", tmp_path / "damaged")
    (tmp_path / "damaged" / "device.parquet").write_bytes(b"not parquet")
    (line,) = compare_artifacts(Run.open(runs / "full"), [Run.open(tmp_path / "damaged")]).lines
    assert line.cost.rss_bytes is None
    assert line.cost.tokens_per_second is not None


def test_lines_of_several_models_carry_their_names(runs, tmp_path, capsys):
    shutil.copytree(runs / "onnx-int4", tmp_path / "other")
    raw = json.loads((tmp_path / "other" / "run.json").read_text())
    raw["artifact"]["model_id"] = "another"
    (tmp_path / "other" / "run.json").write_text(json.dumps(raw))
    names = [str(runs / "full"), str(runs / "onnx-int4"), str(tmp_path / "other")]
    assert call(edge.cli.app.main, ["compare", *names], tmp_path) == 0
    shown = capsys.readouterr().out
    assert "another" in shown
    assert "nano-llama" in shown.split("Cost and damage")[1]


def test_runs_of_one_artifact_share_a_line_of_either_backend(runs):
    names = [f"{name}{kind}" for name in QUANTISED for kind in ("", "-forced", "-exact")]
    full, *others = opened(runs, "full", *names)
    found = compare_artifacts(full, others)
    assert [line.precision for line in found.lines] == list(QUANTISED)
    assert len(found.runs) == 6
    for line, name in zip(found.lines, QUANTISED, strict=True):
        exact, alone = (compare(full, Run.open(runs / f"{name}{kind}")) for kind in ("-exact", ""))
        assert (
            line.damage is not None
            and exact.forced is not None
            and exact.forced.kl is not None
            and alone.free is not None
        )
        assert line.damage.exact
        assert (line.damage.kl, line.damage.kl_error) == (exact.forced.kl.mean, exact.forced.kl.error)
        assert line.damage.kl > 0.0
        assert line.damage.hidden_error.value == exact.forced.hidden_error.mean[-1]
        assert line.entropy_change == next(c.change for c in exact.changes if c.metric == "output_entropy")
        assert line.identical == alone.free.identical
        assert line.same_class == alone.same_class
        assert len(line.folders) == 3


def test_costs_are_what_the_artifacts_own_runs_measured(runs):
    full, *others = opened(runs, "full", "onnx-int4", "onnx-int4-exact", "onnx-int4-forced")
    (line,) = compare_artifacts(full, others).lines
    alone = others[0]
    rows = pq.read_table(alone.folder / "device.parquet").column("rss_bytes").to_pylist()
    answers = alone.answers().to_pylist()
    seconds = sum(row["decode_ms"] for row in answers) / 1e3
    assert line.cost.rss_bytes == max(rows)
    assert line.cost.tokens_per_second == pytest.approx(sum(row["tokens"] - 1 for row in answers) / seconds)
    (only,) = compare_artifacts(full, others[2:]).lines
    assert only.cost.rss_bytes == max(
        pq.read_table(others[2].folder / "device.parquet").column("rss_bytes").to_pylist()
    )
    assert line.cost.bytes == alone.manifest.artifact.bytes > 0


def test_a_run_with_the_full_model_beside_it_says_nothing_of_memory_and_speed(runs):
    full, exact = opened(runs, "full", "onnx-int4-exact")
    (line,) = compare_artifacts(full, [exact]).lines
    assert line.cost[1:] == (None, None)
    assert line.identical is None
    assert not line.alone


def test_without_kept_distributions_or_forcing_there_is_no_divergence_to_judge_by(runs):
    full, alone = opened(runs, "full", "onnx-int4")
    found = compare_artifacts(full, [alone])
    assert found.lines[0].damage is None
    text = best_fit(found, 1000.0).text
    assert text.startswith("Best that fits in 1000 GB: full precision itself, onnx-fp32")


def many_of(runs, costs: list[tuple[int | None, float]]):
    """A comparison whose reference takes 9 GB and whose lines take so many bytes and have such a KL."""
    found = compare_artifacts(*(lambda full, *rest: (full, rest))(*opened(runs, "full", "onnx-int4-forced")))
    line = found.lines[0]
    assert line.damage is not None
    lines = [
        dataclasses.replace(
            line,
            precision=f"p{i}",
            cost=Cost(1, size, 1.0),
            damage=line.damage._replace(kl=kl, kl_error=0.001, exact=True),
        )
        for i, (size, kl) in enumerate(costs)
    ]
    full = dataclasses.replace(found.full, cost=Cost(1, 9_000_000_000, 1.0))
    return dataclasses.replace(found, full=full, lines=tuple(lines))


@pytest.mark.parametrize(
    ("gigabytes", "text"),
    [
        (1.5, "Best that fits in 1.5 GB: p0, which took 1 GB, mean KL 0.3 ± 0.001 nats."),
        (2.0, "Best that fits in 2 GB: p2, which took 2 GB, mean KL 0.1 ± 0.001 nats."),  # just fits
        (
            8.0,
            "Best that fits in 8 GB: p2, which took 2 GB, mean KL 0.1 ± 0.001 nats.",
        ),  # p1 is larger and worse, p3 unknown
        (9.0, "Best that fits in 9 GB: full precision itself, onnx-fp32, which took 9 GB."),
        (0.5, "Nothing fits in 0.5 GB: the least is p0 with 1 GB."),
    ],
)
def test_the_best_that_fits_has_the_least_divergence_of_those_that_do(runs, gigabytes, text):
    found = many_of(runs, [(10**9, 0.3), (3 * 10**9, 0.2), (2 * 10**9, 0.1), (None, 0.0)])
    assert best_fit(found, gigabytes).text == text


def test_a_lower_bound_is_called_one_and_no_measured_memory_is_an_error(runs):
    found = many_of(runs, [(10**9, 0.3)])
    bound = dataclasses.replace(found.lines[0], damage=Damage(*found.lines[0].damage)._replace(exact=False))
    assert "mean KL at least 0.3" in best_fit(dataclasses.replace(found, lines=(bound,)), 2.0).text
    unknown = dataclasses.replace(
        found, full=dataclasses.replace(found.full, cost=Cost(1, None, None)), lines=()
    )
    with pytest.raises(UserError, match="--fits needs runs whose memory and KL were measured"):
        best_fit(unknown, 2.0)
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="--fits is"):
            best_fit(found, bad)


def test_the_command_prints_both_tables_and_writes_everything(runs, tmp_path, capsys):
    words = [
        "compare",
        *(str(runs / name) for name in ("full", "onnx-int4", "onnx-int4-forced", "gguf-q4_k_m-forced")),
    ]
    assert call(edge.cli.app.main, [*words, "--fits", "100", "--json", "{many.json}"], tmp_path) == 0
    shown = capsys.readouterr().out
    for text in (
        "2 artifacts against nano-llama onnx-fp32",
        "gguf-q4_k_m",
        "≥ ",
        "≥: a lower bound, from full precision's most likely tokens",
        "tokens/s",
        "ln PPL",
        "Best that fits in 100 GB",
    ):
        assert text in shown, text
    said = json.loads((tmp_path / "many.json").read_text())
    assert [line["precision"] for line in said["lines"]] == list(QUANTISED)
    assert [bool(one["forced"]) for one in said["runs"]] == [False, True, True]
    assert said["fits"]["best"]["precision"] == "onnx-fp32"
    assert said["full"]["damage"] is None
    assert (
        call(
            edge.cli.app.main,
            ["compare", str(runs / "full"), str(runs / "onnx-int4"), "--json", "-"],
            tmp_path,
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out)["free"]["identical"]["value"] <= 1.0


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("model", "vocabulary"), 2049, "different vocabularies"),
        (("questions", "sha256"), "0" * 64, "different questions"),
        (("settings", "prompt"), "qa", "different prompts"),
    ],
)
def test_one_run_of_many_that_does_not_belong_is_refused_in_a_sentence(
    runs, tmp_path, capsys, path, value, words
):
    shutil.copytree(runs / "gguf-q4_k_m", tmp_path / "other")
    raw = json.loads((tmp_path / "other" / "run.json").read_text())
    raw[path[0]][path[1]] = value
    (tmp_path / "other" / "run.json").write_text(json.dumps(raw))
    arguments = ["compare", str(runs / "full"), str(runs / "onnx-int4"), "{other}", "--json", "{out.json}"]
    assert call(edge.cli.app.main, arguments, tmp_path) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_prompts_of_another_day_are_refused(artifacts, questions_file, tmp_path):
    """The template shows the day."""
    for name, day in (("full", DAY), ("same", DAY), ("other", "2026-01-02")):
        run(
            Artifact.open(artifacts("untied")),
            read_questions(questions_file)[:2],
            tmp_path / name,
            DecodeSettings(3),
            date=day,
            runtime=ONE_THREAD,
        )
    full, same, other = opened(tmp_path, "full", "same", "other")
    assert compare_artifacts(full, [same]).lines[0].identical.value == 1.0
    with pytest.raises(
        UserError, match="different prompts: use the same --prompt, --date and --control-tokens"
    ):
        compare_artifacts(full, [same, other])


# Truth


def label(made: Run, untrue: np.ndarray, source: str = "hand") -> None:
    answers = made.answers(["question_index", "question_id"])
    outcome = ["incorrect" if wrong else "best" for wrong in untrue]
    table = {"question_index": answers.column(0), "question_id": answers.column(1), "outcome": outcome}
    pq.write_table(pa.table(table | {"source": [source] * len(outcome)}), made.folder / "outcomes.parquet")


def test_a_forced_run_is_judged_by_the_full_models_outcomes(tmp_path):
    """Full entropy ranks every untrue answer above every true one; the forced model's the other way
    round."""
    untrue = np.arange(30) % 3 == 0
    lines = [np.full(8, 1.0 + wrong) + 0.01 * i for i, wrong in enumerate(untrue)]
    full = make_run(tmp_path / "full", lines, manifest())
    like = FollowedRun("r", full.manifest.artifact)
    turned = [4.0 - line for line in lines]
    forced = make_run(
        tmp_path / "forced", turned, manifest("onnx-int4", kind="force", like=like), reference=lines
    )
    assert truth_change(full, forced) is None
    label(full, untrue)
    found = compare(full, forced).truth
    assert found is not None
    assert found.outcomes is None
    warned = found.of("output_entropy", "mean")
    assert warned is not None
    assert (warned.first, warned.second, warned.difference.value) == (1.0, 0.0, -1.0)
    own = make_run(tmp_path / "same", lines, manifest(kind="force", like=like), reference=lines)
    same = truth_change(full, own)
    assert same is not None and {change.difference.value for change in same.auroc} == {0.0}
    assert compare(full, forced, outcomes=False).truth is None


def test_a_run_alone_is_judged_by_its_own_outcomes(tmp_path, capsys):
    full, untrue = write_run(tmp_path / "full", Planted(effect=0.6), 4, 120, 10)
    other, turned = write_run(tmp_path / "other", Planted(), 5, 120, 10, precision="onnx-int4")
    label(full, untrue)
    assert truth_change(full, other) is None  # nobody has judged the other
    label(other, turned, "automatic")
    found = truth_change(full, other)
    assert found is not None and found.outcomes is not None
    assert found.source == "hand; automatic"
    assert found.outcomes.change.value == pytest.approx(turned.mean() - untrue.mean())
    assert found.outcomes.became_untrue == int((turned & ~untrue).sum())
    assert found.outcomes.became_true == int((untrue & ~turned).sum())
    assert found.auroc[0].metric == "output_entropy"
    assert found.auroc[0].difference.high < 0  # its entropy does not warn any more
    assert call(edge.cli.app.main, ["compare", str(full.folder), str(other.folder)], tmp_path) == 0
    shown = capsys.readouterr().out
    for text in (
        "Truth of the answers (hand; automatic labels)",
        "share untrue",
        "AUROC of output_entropy mean",
    ):
        assert text in shown, text


def test_the_changes_of_auroc_are_those_of_edge_paper(tmp_path):
    from edge.analysis.labels import read_labels
    from edge.analysis.tokens import read_tokens

    made = [
        write_run(tmp_path / name, Planted(effect=0.3), seed, 60, 10) for name, seed in (("a", 1), ("b", 2))
    ]
    for one, untrue in made:
        label(one, untrue)
    pair = [(scores_of(one, read_tokens(one)), read_labels(one)) for one, _ in made]
    found = truth_change(made[0][0], made[1][0])
    assert found is not None and found.auroc == compare_truth(*pair)
