"""Classes: which answers decide them, when there are too few, and what is said of it wherever they stand."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.coverage import false_classes
from edge.analysis.artifacts import compare_artifacts
from edge.analysis.classes import classify
from edge.analysis.divergence import compare
from edge.analysis.dynamics import describe
from edge.analysis.paper import analyse_paper
from edge.analysis.scores import scores_of
from edge.analysis.tokens import read_tokens
from edge.cli.app import app
from edge.cli.artifact_table import artifact_table
from edge.errors import UserError
from edge.report.paper import class_table, diffusion_text, paper_notes
from edge.report.write import write_report
from edge.runs.run_directory import Run
from tests.test_analysis import make_run, manifest, series


def falling(count: int, length: int = 40) -> list[np.ndarray]:
    return series(np.random.default_rng(count), count, -0.5, length)


def short(count: int, tokens: int = 1) -> list[np.ndarray]:
    return [np.full(tokens, 1.0) for _ in range(count)]


def pair(folder: Path, entropies: list[np.ndarray]) -> tuple[Run, Run]:
    """A run and the same answers from another precision."""
    full = make_run(folder / "full", entropies, manifest())
    return full, make_run(folder / "int4", entropies, manifest("onnx-int4"))


def words(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def compared(*runs: Run) -> str:
    result = CliRunner().invoke(app, ["compare", *(str(run.folder) for run in runs)])
    assert result.exit_code == 0, result.output
    return words(result.output)


def test_the_class_needs_the_whole_interval_beyond_delta() -> None:
    shifts = np.array([0.06, 0.08] * 50)
    assert classify(shifts, 0.05).label == "exploratory"
    assert classify(-shifts, 0.05).label == "deterministic"
    assert classify(shifts, 0.07).label == "balanced"
    with pytest.raises(UserError, match="--delta"):
        classify(shifts, -1)


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_fewer_than_ten_answers_have_no_class_however_clear_they_are(count: int) -> None:
    found = classify(np.full(count, -3.0))
    assert (found.label, found.answers, found.left_out, found.defined) == ("undefined", count, 0, False)
    assert classify([*np.full(count, -3.0), *[math.nan] * 20]).label == "undefined"
    assert classify(np.full(10, -3.0)).label == "deterministic"


@pytest.mark.parametrize("count", [2, 5, 10, 20])
def test_a_model_without_a_shift_seldom_has_another_class_than_balanced(count: int) -> None:
    assert false_classes(count, 600) <= (0.0 if count < 10 else 0.05)


def test_short_answers_have_no_say(tmp_path: Path) -> None:
    """Ten answers fall; to a run of earlier versions thirty of one to nine tokens add a shift of nought."""
    answers = falling(10) + [answer for tokens in (1, 5, 9) for answer in short(10, tokens)]
    alone = describe(make_run(tmp_path / "alone", answers[:10], manifest())).model_class
    for name, old_shift in (("new", None), ("old", 0.0)):
        run = make_run(tmp_path / name, answers, manifest(), old_shift=old_shift)
        found = describe(run)
        assert found.model_class == alone._replace(left_out=30)
        assert found.model_class.label == "deterministic"
        rows = analyse_paper(run).rows
        early, late, shift = (
            next(row.questions.value for row in rows if row.measure == f"output_{part}")
            for part in ("early", "late", "shift")
        )
        assert shift == pytest.approx(late - early) == pytest.approx(alone.shift.value)
        scores = scores_of(run, read_tokens(run))
        values = scores.values[:, scores.names.index(("output_entropy", "shift"))]
        assert np.isnan(values[10:]).all() and not np.isnan(values[:10]).any()


def test_a_run_with_too_few_answers_is_not_called_the_same(tmp_path: Path) -> None:
    full, int4 = pair(tmp_path, falling(3) + short(2))
    text = compared(full, int4)
    assert "class: too few answers for a class, early/late shift" in text
    assert "the same" not in text and "undefined" not in text
    assert "3 answers have a shift, at least 10 are needed; 2 under 10 tokens left out" in text
    assert "~[" in text and "~ before an interval: fewer than 10 answers" in text
    found = compare(full, int4).to_json()
    assert found["same_class"] is None and found["full_class"]["shift"]["few"] is True
    line = compare_artifacts(full, [int4, int4]).lines[0]
    assert (line.same_class, line.left_out) == (None, 2)


def test_one_answer_has_no_interval_and_no_mark(tmp_path: Path) -> None:
    text = compared(*pair(tmp_path, falling(1)))
    assert "1 answer has a shift, at least 10 are needed" in text and "~" not in text


def test_one_class_against_none_is_no_change(tmp_path: Path) -> None:
    full, _ = pair(tmp_path, falling(20))
    cut = make_run(tmp_path / "cut", [entropies[:5] for entropies in falling(20)], manifest("onnx-int4"))
    text = compared(full, cut)
    assert "class: deterministic" in text and "too few answers for a class" in text
    assert "changed" not in text and "the same" not in text
    assert "20 answers have a shift -> 0 answers have a shift" in text


def test_classes_of_enough_answers_are_compared(tmp_path: Path) -> None:
    full, int4 = pair(tmp_path, falling(12) + short(3))
    text = compared(full, int4)
    assert "nats: the same 12 answers have a shift; 3 under 10 tokens left out" in text
    assert "~" not in text
    assert compare(full, int4).to_json()["same_class"] is True
    console = Console(file=io.StringIO(), width=200)
    console.print(artifact_table(compare_artifacts(full, [int4, full])))
    assert "same (3 left out)" in console.file.getvalue()


def test_answers_of_one_token_leave_dashes_with_a_reason(tmp_path: Path) -> None:
    full, int4 = pair(tmp_path, short(24))
    text = compared(full, int4)
    assert "-: not defined. An answer under 10 tokens has no first and last 20% and no shift" in text
    assert "class: too few answers for a class 0 answers have a shift, at least 10 are needed" in text
    assert "24 under 10 tokens left out" in text
    assert "nan" not in text.replace("nan", "", text.count("nano"))
    paper = analyse_paper(full)
    assert any(note.startswith("– over questions: not defined") for note in paper_notes(paper))
    assert paper.diffusion is not None and "no answer has two tokens" in diffusion_text(paper.diffusion)
    table = dict(row[:2] for row in class_table(paper).rows)
    assert table["Our class"] == "undefined: too few answers for a class"
    assert "24 under 10 tokens left out" in table["Answers that decide"]
    result = CliRunner().invoke(app, ["paper", str(full.folder), "--json", str(tmp_path / "p.json")])
    assert result.exit_code == 0 and "nan" not in result.output.lower()
    assert "NaN" not in (tmp_path / "p.json").read_text()


def test_nothing_answered_has_no_class(tmp_path: Path) -> None:
    full, int4 = pair(tmp_path, [np.empty(0)] * 12)
    text = compared(full, int4)
    assert "0 answers have a shift, at least 10 are needed; 12 under 10 tokens left out" in text
    assert "nan" not in text


@pytest.mark.parametrize("count", [3, 12])
def test_the_report_says_which_answers_decide(tmp_path: Path, count: int) -> None:
    full, int4 = pair(tmp_path, falling(count) + short(2))
    write_report([full, int4], tmp_path / "r.html")
    page = words((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "2 of " in page and "they have no shift and no say in the class." in page
    if count == 3:
        assert (
            "Undefined. Too few answers for a class: 3 answers have a shift, at least 10 are needed" in page
        )
        assert "too few answers for a class (2 left out)" in page
        assert "~ before an interval: fewer than 10 answers" in page
    else:
        assert "(12 answers have a shift; 2 under 10 tokens left out)" in page
        assert "deterministic (2 left out)" in page


def test_the_files_of_edge_paper_mark_few_answers(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", falling(4) + short(2), manifest())
    result = CliRunner().invoke(
        app, ["paper", str(run.folder), "--csv", str(tmp_path / "t"), "--json", str(tmp_path / "p.json")]
    )
    assert result.exit_code == 0, result.output
    head, row = (tmp_path / "t" / "classes.csv").read_text().splitlines()
    values = dict(zip(head.replace('"', "").split(","), row.replace('"', "").split(","), strict=True))
    assert (values["class"], values["answers"], values["left_out"]) == ("undefined", "4", "2")
    assert values["shift_few"] == "true"
    paper = json.loads((tmp_path / "p.json").read_text())["runs"][0]["paper"]
    assert paper["model_class"]["left_out"] == 2 and paper["layers"][0]["few"] is True
