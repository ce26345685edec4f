"""`make study`: the commands, the kinds of answers, the tables and the page, on an embedded model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edge.analysis.divergence import compare
from edge.analysis.dynamics import describe, numbers
from edge.errors import UserError
from edge.precision import FULL
from edge.registry import read_registry
from edge.runs.parts import part_stem, write_part
from edge.runs.run_directory import Run
from tests.conftest import ROOT, tree
from tools.study import page
from tools.study.results import ALL, CUT, FINISHED, LOOPING, kinds_of, read_study
from tools.study.steps import PUBLISHED, Plan, commands

TOKENS = 24


def plan_of(folder: Path) -> Plan:
    return Plan(
        "nano-llama", ("onnx-int4",), folder / "models", folder / "study", TOKENS, limit=12, threads=1
    )


def call(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The study of an embedded model and its questions, as `make study` calls it."""
    few = ["--limit", "12", "--tokens", str(TOKENS), "--threads", "1"]
    command = [sys.executable, "-m", "tools.study", "--model", "nano-llama", "--to", "onnx-int4", *few]
    folders = ["--models", str(folder / "models"), "--out", str(folder / "study")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [*command, *folders, *more], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """The folder of a study that has run."""
    folder = tmp_path_factory.mktemp("study")
    done = call(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_artifact_is_traced_labelled_forced_and_scored(tmp_path):
    smol = read_registry()["smollm2-135m-instruct"]
    plan = Plan(smol.model_id, ("onnx-int4", "gguf-q8_0"), tmp_path, tmp_path, 320, limit=5)
    assert list(plan.artifacts) == [FULL, "onnx-int4", "gguf-q8_0", PUBLISHED]
    assert plan.artifacts[PUBLISHED] == str(smol.published_file)
    lines = list(commands(plan))
    done = {verb: [line for line in lines if line[1] == verb] for verb in ("run", "label", "force", "score")}
    assert [len(done[verb]) for verb in done] == [4, 4, 3, 4]
    assert [line[2] for line in done["run"]] == list(plan.artifacts.values())
    assert all("--exact" in line and plan.artifacts[FULL] not in line[2] for line in done["force"])
    assert ["--reference" in line for line in done["run"]] == [True, False, False, False]
    assert all("--limit" in line for line in (*done["run"], *done["score"]))


@pytest.mark.slow
def test_the_page_has_every_table_and_figure(studied):
    text = (studied / "study" / "study.md").read_text()
    for title in page.TITLES.values():
        assert f"## {title}\n" in text
    for figure in ("shifts", "trajectories", "damage", "layers"):
        assert f"]({figure}.svg)" in text
        assert (studied / "study" / f"{figure}.svg").read_text().rstrip().endswith("</svg>")
    assert (studied / "study" / "report.html").is_file()
    assert "stand-in" in text  # the model's notice


@pytest.mark.slow
def test_a_second_call_runs_nothing_again(studied):
    parts = [
        path for path in tree(studied / "study") if path.endswith(".parquet") and "outcomes" not in path
    ]
    before = {path: (studied / "study" / path).stat().st_mtime_ns for path in parts}
    figures = {path: (studied / "study" / path).read_bytes() for path in ("shifts.svg", "layers.svg")}
    assert call(studied).returncode == 0
    assert {path: (studied / "study" / path).stat().st_mtime_ns for path in parts} == before
    assert {path: (studied / "study" / path).read_bytes() for path in figures} == figures


@pytest.mark.slow
def test_the_figures_are_those_of_the_analysis(studied):
    plan = plan_of(studied)
    results = read_study(plan)
    full, forced = Run.open(plan.run(FULL)), Run.open(plan.forced("onnx-int4"))
    divergence = compare(full, forced, outcomes=False)
    (damage,) = results.damages
    assert divergence.forced is not None
    assert divergence.forced.kl_by_question is not None
    assert damage.kl[ALL][:3] == pytest.approx(divergence.forced.kl_by_question[:3], rel=1e-6)
    assert damage.layers is not None
    assert damage.layers.error == pytest.approx(divergence.forced.hidden_error.mean)
    assert results.full.groups[ALL].model_class == describe(full).model_class
    assert sum(results.full.groups[kind].answers for kind in (FINISHED, CUT, LOOPING)) == 12
    attention = next(change for change in divergence.layers if change.metric == "attention_entropy_layer")
    assert damage.layers.change == pytest.approx(attention.mean)
    assert np.sign(damage.layers.effect) == pytest.approx(np.sign(attention.mean))
    along = results.along["sink_mass"][ALL]
    answers = full.answers()
    assert along.early.value == pytest.approx(numbers(answers, "sink_mass_early").mean())
    assert along.trajectory is not None
    # Weighted by bins of equal length, a trajectory's mean is the answer's: its bins cover the whole answer.
    assert along.trajectory.mean.mean() == pytest.approx(numbers(answers, "sink_mass_mean").mean(), rel=1e-5)


@pytest.mark.slow
def test_an_answer_is_finished_cut_or_looping(studied):
    run = Run.open(plan_of(studied).run(FULL))
    masks = kinds_of(run)
    reasons = run.answers(["question_index", "stop_reason"]).column("stop_reason").to_pylist()
    assert "length" in reasons
    assert "stop_token" in reasons
    for i, reason in enumerate(reasons):
        assert sum(masks[kind][i] for kind in (FINISHED, CUT, LOOPING)) == 1
        assert masks[FINISHED][i] <= (reason == "stop_token")
        assert masks[CUT][i] <= (reason == "length")


@pytest.mark.slow
def test_a_repeated_token_is_a_loop_and_no_answer_is_of_no_kind(studied, tmp_path):
    """Stop reasons that an embedded model's answers do not have, written into a copy."""
    shutil.copytree(studied / "study" / FULL, tmp_path / "run")
    (path, *_) = sorted((tmp_path / "run" / "answers").glob("*.parquet"))
    table = pq.read_table(path)
    reasons, tokens = (table.column(name).to_pylist() for name in ("stop_reason", "tokens"))
    reasons[0], reasons[1], tokens[1] = "repetition", "refused", 0
    for name, values in (("stop_reason", reasons), ("tokens", tokens)):
        kind = table.schema.field(name).type
        table = table.set_column(table.column_names.index(name), name, pa.array(values, kind))
    path.unlink()
    write_part(path.parent, part_stem(path.name), table)
    masks = kinds_of(Run.open(tmp_path / "run"))
    assert [kind for kind in masks if masks[kind][0]] == [ALL, LOOPING]
    assert not any(mask[1] for mask in masks.values())


@pytest.mark.slow
def test_a_page_is_filled_between_its_marks(studied, tmp_path):
    results = read_study(plan_of(studied))
    text = "Before.\n\n<!-- study: classes -->\nold\n<!-- study: end -->\n\nAfter.\n"
    filled = page.fill(text, results)
    assert filled.startswith("Before.\n\n<!-- study: classes -->\n| artifact |")
    assert filled.endswith("<!-- study: end -->\n\nAfter.\n")
    assert "old" not in filled
    assert page.fill(filled, results) == filled
    with pytest.raises(UserError, match=r"a mark of 'figures': choose from answers, classes"):
        page.fill(text.replace("classes", "figures"), results)
    with pytest.raises(UserError, match="opens 1 blocks and closes 0"):
        page.fill("<!-- study: classes -->\nold\n", results)


def test_the_page_of_the_documentation_has_marks_of_known_blocks():
    text = (ROOT / "docs" / "study-smollm2.md").read_text()
    assert {name for name in page.BLOCKS if f"<!-- study: {name} -->" in text} == set(page.BLOCKS)


def test_a_page_that_is_not_there_is_refused_before_anything_runs(tmp_path):
    done = call(tmp_path, "--page", str(tmp_path / "none.md"))
    assert done.returncode == 2
    assert "which is no file" in done.stderr
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_bad_input_is_one_sentence(tmp_path):
    done = call(tmp_path, "--limit", "0", "--questions", str(tmp_path / "none.csv"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
