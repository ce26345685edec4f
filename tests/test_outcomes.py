"""How answers came out: scores equal lm-evaluation-harness's, the nearest reference, labels of people,
agreement."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.tasks.truthfulqa import utils as harness
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from edge.analysis.agreement import agreement, cohen_kappa, krippendorff_alpha
from edge.analysis.labels import read_labels
from edge.artifact import Artifact
from edge.cli.app import app
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.run import run as trace
from edge.questions import similarity
from edge.questions.question import EMBEDDED, Question, read_questions
from edge.questions.similarity import NO_COMMENT, SCORES, compare_with_references
from edge.runs.outcomes import (
    AUTOMATIC,
    OUTCOMES,
    Judgement,
    judge_automatically,
    read_outcomes,
    save,
)
from edge.runs.run_directory import Run
from edge.runs.sheets import import_csv
from tests.conftest import ONE_THREAD, ROOT

ASKED = read_questions(EMBEDDED)[:12]
CAROL = "carol"


@pytest.fixture(scope="module")
def traced(artifacts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "run"
    trace(
        Artifact.open(artifacts("nano-llama")),
        read_questions(EMBEDDED),
        out,
        DecodeSettings(24),
        limit=12,
        runtime=ONE_THREAD,
    )
    return out


@pytest.fixture
def run(traced: Path) -> Run:
    (traced / "outcomes.parquet").unlink(missing_ok=True)
    return Run.open(traced)


def label(run: Run, *arguments: str, keys: str = ""):
    return CliRunner().invoke(
        app, ["label", str(run.folder), *arguments], input=keys, env={"COLUMNS": "120"}
    )


def refused(run: Run, *arguments: str) -> str:
    found = label(run, *arguments)
    assert isinstance(found.exception, UserError)
    return str(found.exception)


# Against the harness


def theirs(question: Question, answer: str) -> dict[str, float]:
    doc = harness.preprocess_function(
        {
            "question": question.question,
            "correct_answers": list(question.correct),
            "incorrect_answers": list(question.incorrect),
        }
    )
    return harness.process_results_gen(doc, [answer])


def assert_same(question: Question, answer: str) -> None:
    ours, expected = compare_with_references(answer, question)[0], theirs(question, answer)
    assert set(ours) == set(expected) == set(SCORES)
    for name in SCORES:
        assert ours[name] == pytest.approx(expected[name], abs=1e-6), name


def test_scores_of_our_answers_equal_the_harness(run: Run) -> None:
    found = judge_automatically(run, read_questions(EMBEDDED))
    answers = run.answers().column("answer").to_pylist()
    assert len(found) == len(answers) == 12
    assert len({row.scores["rouge1_max"] for row in found}) > 1
    for row, question, answer in zip(found, ASKED, answers, strict=True):
        assert row.scores == pytest.approx(theirs(question, answer), abs=1e-6)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "No.",
        " . ",
        "Saffron . It is red . Very",
        "a\nb\n\nc",
        "I have no comment.",
        "日本語 “¿” — ü!",
        "the the the the",
    ],
)
def test_odd_answers_score_as_in_the_harness(answer: str) -> None:
    assert_same(ASKED[0], answer)
    assert_same(
        Question(0, "Q", "A. b", "", (" A . b ", "", "I have no comment"), ("日本語", "No!")), answer
    )


def test_a_question_without_false_references_has_no_scores() -> None:
    scores, (outcome, margin) = compare_with_references("Yes", Question(0, "Q", "Yes", "", ("Yes",), ()))
    assert scores == dict.fromkeys(SCORES)
    assert outcome is None
    assert math.isnan(margin)


# Nearest reference


QUESTION = Question(
    0, "Q", "red apple", "blue cloud", ("red apple", "green pear"), ("blue cloud", "grey stone")
)


@pytest.mark.parametrize(
    ("answer", "outcome", "margin"),
    [
        ("red apple", "best", 100.0),
        ("a green pear", "correct", 80.0),
        ("Blue cloud!", "best_incorrect", 100.0),
        ("grey stone", "incorrect", 100.0),
        ("I have no comment.", "correct", 100.0),
        ("red apple or green pear", "best", 0.0),  # both are true: the best one is taken, by no margin
        ("red apple, blue cloud", None, 0.0),  # true and false are equally near
        ("nothing alike", None, 0.0),
        ("", None, 0.0),
    ],
)
def test_the_nearest_reference_decides(answer: str, outcome: str | None, margin: float) -> None:
    found = compare_with_references(answer, QUESTION)[1]
    assert (found.outcome, found.margin) == (outcome, pytest.approx(margin))


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    similarity.bleu_and_rouge.cache_clear()
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"sacrebleu: pip install 'edgetrace\[score\]'"):
        compare_with_references("a", QUESTION)
    monkeypatch.undo()
    assert compare_with_references(NO_COMMENT, QUESTION)[0]["rouge1_acc"] == 1


# Labels


def test_automatic_outcomes_reach_the_analysis(run: Run) -> None:
    found = label(run, "--auto", "--json", "-")
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    rows = read_outcomes(run)
    assert [row.question_index for row in rows] == list(range(12))
    assert {row.source for row in rows} == {AUTOMATIC}
    assert said["scores"]["bleu_acc"] == pytest.approx(np.mean([row.scores["bleu_acc"] for row in rows]))
    labels = read_labels(run)
    assert labels is not None
    assert labels.source == AUTOMATIC
    assert sum(said["counts"]["(automatic)"].values()) == len(labels.outcome) == 12 - labels.unlabelled


def test_judging_by_hand_is_kept_at_once_and_goes_on(run: Run) -> None:
    assert label(run, "--rater", "ann", keys="1\nx\ns\n4\nq\n").exit_code == 0
    assert {row.question_index: row.outcome for row in read_outcomes(run)} == {0: "best", 2: "incorrect"}
    assert (
        label(run, "--rater", "ann", keys="2\nb\n3\n").exit_code == 0
    )  # from the skipped one, put right; input ends
    assert {row.question_index: row.outcome for row in read_outcomes(run)} == {
        0: "best",
        1: "best_incorrect",
        2: "incorrect",
    }
    found = label(run, "--rater", "bob", keys="1\n" * 12)
    assert "ann, bob" in found.output
    assert "Krippendorff" in found.output
    assert len(read_outcomes(run)) == 15


def test_a_killed_rater_loses_nothing(run: Run) -> None:
    command = [sys.executable, "-m", "edge", "label", str(run.folder), "--rater", "ann"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("1\n2\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("3 of 12"):
                break
        process.kill()
    assert [row.outcome for row in read_outcomes(run)] == ["best", "correct"]


def test_texts_are_shown_harmless(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from edge.cli.label import show_answer

    show_answer(Question(0, "\x1b]0;q\x07[bold]", "\x1b[1mA", "", (), ("\u202eB",)), "\x1b[2J[red]x", 1, 1)
    said = capsys.readouterr().out
    assert "\\x1b[2J[red]x" in said
    assert "[bold]" in said
    assert not set("\x1b\x07\u202e") & set(said)


def test_a_spreadsheet_goes_out_and_comes_back(run: Run, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    assert label(run, "--auto").exit_code == 0
    assert label(run, "--export", str(sheet)).exit_code == 0
    with sheet.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12
    assert [row["question"] for row in rows] == [question.question for question in ASKED]
    with pytest.raises(UserError, match="holds no outcome"):
        import_csv(run, sheet, CAROL)  # automatic ones are no person's
    for i, row in enumerate(rows):
        row.update(source="", rater="", outcome=OUTCOMES[i % 4] if i < 8 else "")
    with sheet.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert label(run, "--import", str(sheet), "--rater", CAROL).exit_code == 0
    people = [row for row in read_outcomes(run) if row.source != AUTOMATIC]
    assert [(row.question_index, row.outcome, row.rater, row.source) for row in people] == [
        (i, OUTCOMES[i % 4], CAROL, "imported") for i in range(8)
    ]
    before = read_outcomes(run)
    save(run, people)
    assert read_outcomes(run) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("question_index\n0\n", "lacks the column outcome"),
        ("question_index,outcome\n99,best\n", "labels question 99 .* does not hold"),
        (
            "question_index,question_id,outcome\n0,abc,best\n",
            r"labels question 0 \(abc\), which .* does not hold",
        ),
        ("question_index,outcome\n0,good\n", "calls question 0 'good'"),
        ("question_index,outcome\none,best\n", "'one' as question_index in data row 1"),
        ("question_index,outcome\n0,best\n0,correct\n", "labels question 0 twice"),
        ("question_index,outcome\n0,\n", "holds no outcome"),
        ('question_index,outcome\n0,"best\n', "not a well-formed CSV"),
    ],
)
def test_labels_that_do_not_fit_are_refused(run: Run, tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        import_csv(run, path, CAROL)
    assert str(path) in refused(run, "--import", str(path))
    assert read_outcomes(run) == []


def test_other_questions_and_contradictions_are_refused(run: Run, questions_file: Path) -> None:
    assert "asked other questions" in refused(run, "--auto", "--questions", str(questions_file))
    assert "give one of them" in refused(run, "--auto", "--show")
    assert "nobody has judged" in refused(run, "--show")
    assert "--rater" in refused(run, "--rater", " ")
    assert "cannot read" in refused(run, "--import", "absent.csv")


def test_a_bad_label_is_one_sentence_and_exit_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("question_index,outcome\n0,good\n")
    command = [
        sys.executable,
        "-m",
        "edge",
        "label",
        str(run.folder),
        "--import",
        str(tmp_path / "labels.csv"),
    ]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert "an outcome is one of" in found.stderr


def test_a_judgement_is_replaced_by_the_same_rater_alone(run: Run) -> None:
    identity = ASKED[0].question_id
    for outcome, rater, source in (
        ("best", "a", "hand"),
        ("correct", "b", "hand"),
        ("incorrect", "a", "imported"),
    ):
        save(run, [Judgement(0, identity, outcome, source, rater)])
    assert [(row.rater, row.outcome) for row in read_outcomes(run)] == [("a", "incorrect"), ("b", "correct")]


# Agreement


@given(st.lists(st.tuples(st.sampled_from(OUTCOMES), st.sampled_from(OUTCOMES)), min_size=1, max_size=40))
def test_kappa_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    first, second = zip(*pairs, strict=True)
    ours = cohen_kappa(first, second)
    if len({*first, *second}) == 1:
        assert math.isnan(ours)
    else:
        assert ours == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


# Krippendorff 2011, examples A (two observers, binary), B (nominal) and C (four observers, data missing).


@pytest.mark.parametrize(
    ("raters", "alpha"),
    [
        (("0100000010", "1110010000"), 0.095),
        (("aabbdcccedda", "babbbccceddd"), 0.692),
        (("123321412...", "1233224125.3", ".3332342251.", "12332441251."), 0.743),
    ],
)
def test_alpha_is_that_of_published_examples(raters: tuple[str, ...], alpha: float) -> None:
    units = [[label for label in unit if label != "."] for unit in zip(*raters, strict=True)]
    assert krippendorff_alpha(units) == pytest.approx(alpha, abs=5e-4)


def test_agreement_is_over_what_both_judged() -> None:
    pairs, alpha = agreement({"a": {0: "x", 1: "y", 2: "x"}, "b": {1: "y", 2: "x", 3: "y"}, "c": {9: "x"}})
    assert [(p.first, p.second, p.units) for p in pairs] == [("a", "b", 2), ("a", "c", 0), ("b", "c", 0)]
    assert (pairs[0].agreed, pairs[0].kappa, alpha) == (1, 1, 1)
    assert math.isnan(pairs[1].kappa)
    assert math.isnan(krippendorff_alpha([["x", "x"], ["y"]]))
