"""edge score: log-likelihoods against whole passes and lm-evaluation-harness's functions, resuming,
refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from lm_eval.tasks.truthfulqa import utils as harness
from typer.testing import CliRunner

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import Loader, open_backend
from edge.cli.app import app
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.interrupt import Interrupted
from edge.jobs.multiple_choice import binary, choices, mc1, mc2
from edge.jobs.run import run
from edge.jobs.score import common_prefix, encode, log_softmax, score
from edge.questions.prompt import Prompter
from edge.questions.question import EMBEDDED, Question, read_questions
from edge.runs.score_directory import ScoreManifest, ScoreWriter
from tests.conftest import ONE_THREAD, tree
from tests.test_crash_run import drive

ASKED = read_questions(EMBEDDED)
LIMIT = 4


@pytest.fixture(scope="module")
def scored(artifacts, tmp_path_factory):
    """Artifact, folder and result of LIMIT questions."""
    artifact, out = Artifact.open(artifacts("nano-llama")), tmp_path_factory.mktemp("scored") / "scores"
    return artifact, out, score(artifact, ASKED, out, limit=LIMIT, runtime=ONE_THREAD)


def rows(out: Path, manifest: ScoreManifest) -> list[dict]:
    with ScoreWriter(out, manifest) as writer:
        return writer.rows().to_pylist()


def test_log_likelihoods_are_those_of_passes_over_the_whole_text(scored) -> None:
    """Each choice again, token by token from an empty cache: nothing is shared and nothing rewound."""
    artifact, out, made = scored
    prompter = Prompter(artifact, "qa")
    backend = open_backend(artifact, ONE_THREAD, artifact.manifest.model.context, lambda text: None)
    found = rows(out, made.manifest)
    for row in [found[0], found[5], found[-1]]:
        prompt = prompter.prompt(ASKED[row["question_index"]].question)
        ids = prompter.tokenizer.encode(f"{prompt.text} {row['text']}", special=True)
        backend.rewind(0)
        total, logits = 0.0, backend.prefill(ids[: len(prompt.ids)]).logits
        for token in ids[len(prompt.ids) :]:
            total += float(log_softmax(logits)[token])
            logits = backend.step(token).logits
        assert row["logprob"] == pytest.approx(total, abs=1e-4)
        assert row["tokens"] == len(ids) - len(prompt.ids)
    backend.close()


def test_tasks_equal_the_harness_on_our_log_likelihoods(scored) -> None:
    _, out, made = scored
    found = rows(out, made.manifest)
    for index in range(LIMIT):
        question = ASKED[index]
        by_text = {row["text"]: row["logprob"] for row in found if row["question_index"] == index}
        true, false = list(question.correct), list(question.incorrect)
        results = [(by_text[text], False) for text in true + false]
        doc = {"mc2_targets": {"labels": [1] * len(true) + [0] * len(false)}}
        assert made.values["mc2"][index] == pytest.approx(
            harness.process_results_mc2(doc, results)["acc"], abs=1e-6
        )
        # The harness's `acc` of a multiple choice with target 0.
        assert made.values["mc1"][index] == float(
            np.argmax([by_text[text] for text in [question.best, *false]]) == 0
        )
        assert made.values["binary"][index] == float(
            by_text[question.best] > by_text[question.best_incorrect]
        )


def test_what_is_shared_is_computed_once(artifacts, monkeypatch, tmp_path) -> None:
    artifact = Artifact.open(artifacts("nano-llama"))
    fed: list[int] = []

    class Counting:
        def __init__(self, backend) -> None:
            self._backend = backend

        def __getattr__(self, name):
            return getattr(self._backend, name)

        def prefill(self, ids):
            fed.append(len(ids))
            return self._backend.prefill(ids)

    load = Loader.load
    monkeypatch.setattr(Loader, "load", lambda *a: Counting(load(*a)))
    score(artifact, ASKED, tmp_path / "out", limit=LIMIT, runtime=ONE_THREAD)
    prompts = [len(encode(Prompter(artifact, "qa"), question).prompt) for question in ASKED[:LIMIT]]
    assert len(fed) == 1 + LIMIT  # the preset, and one for all choices of a question
    assert [fed[0] + own for own in fed[1:]] == prompts
    assert max(fed[1:]) < prompts[0] / 4  # without the preset


def test_gguf_scores_as_onnx_does(scored, artifacts, tmp_path) -> None:
    gguf = Artifact.open(artifacts("nano-llama", "gguf-f32"))
    made = score(gguf, ASKED, tmp_path / "out", limit=LIMIT, runtime=Runtime(threads=1, taps="none"))
    _, out, onnx = scored
    pairs = zip(rows(tmp_path / "out", made.manifest), rows(out, onnx.manifest), strict=True)
    assert max(abs(a["logprob"] - b["logprob"]) for a, b in pairs) < 1e-2
    assert made.values["mc2"] == pytest.approx(onnx.values["mc2"], abs=1e-3)


def test_tasks_on_numbers_known() -> None:
    log = [math.log(p) for p in (0.2, 0.1, 0.1)]
    assert mc2([True, False, False], log) == pytest.approx(0.5)
    assert mc2([True, False], [-2000.0, -2000.0]) == 0.5  # plain exponentials are 0 there
    assert (mc1([True, False], [-1.0, -1.0]), mc1([True, False], [-2.0, -1.0])) == (1, 0)
    assert (binary([True, False], [-1.0, -1.0]), binary([True, False], [-1.0, -2.0])) == (0, 1)


def test_a_task_needs_both_sides() -> None:
    assert {c.task for c in choices(Question(0, "Q", "a", "", ("a",), ("b", "c")))} == {"mc1", "mc2"}
    assert {c.task for c in choices(Question(0, "Q", "a", "b", (), ()))} == {"binary"}
    assert choices(Question(0, "Q", "a", "", ("a",), ())) == []


def test_an_interrupted_job_goes_on_and_ends_the_same(scored, tmp_path) -> None:
    artifact, whole, made = scored
    out = tmp_path / "out"

    def stop(progress) -> None:
        if progress.done == 2:
            raise Interrupted(130)

    with pytest.raises(Interrupted):
        score(artifact, ASKED, out, limit=LIMIT, runtime=ONE_THREAD, on_progress=stop)
    assert json.loads((out / "score.json").read_text())["state"] == "running"
    assert len(list((out / "choices").glob("part-*.parquet"))) == 1
    again = score(artifact, ASKED, out, limit=LIMIT, runtime=ONE_THREAD)
    for task, values in made.values.items():
        assert again.values[task] == values
    key = ("question_index", "task", "choice")
    both = [
        sorted(rows(o, m), key=lambda r: [r[k] for k in key])
        for o, m in ((out, again.manifest), (whole, made.manifest))
    ]
    for one, other in zip(*both, strict=True):
        assert one["logprob"] == other["logprob"]  # to the bit, whatever was scored before
    before = tree(out)
    score(artifact, ASKED, out, limit=LIMIT, runtime=ONE_THREAD)
    assert {n: d for n, d in tree(out).items() if n != "score.json"} == {
        n: d for n, d in before.items() if n != "score.json"
    }


@pytest.mark.slow
def test_scores_killed_at_any_moment_end_as_those_that_were_not(artifacts, tmp_path) -> None:
    artifact, key = (
        artifacts("nano-llama"),
        [(name, "ascending") for name in ("question_index", "task", "choice")],
    )
    folders = tmp_path / "random", tmp_path / "steps", tmp_path / "whole"
    command = ["score", str(artifact), "--limit", "14", "--threads", "1"]
    assert drive("random", "7", "5", str(folders[0]), "--", *command, "--out", str(folders[0])) >= 3
    assert drive("steps", "12", str(folders[1]), "--", *command, "--out", str(folders[1])) >= 10
    found = []
    for out in folders:
        made = score(Artifact.open(artifact), ASKED, out, limit=14, runtime=ONE_THREAD)
        with ScoreWriter(out, made.manifest) as writer:
            found.append(writer.rows().sort_by(key).combine_chunks())
    assert found[0].equals(found[2])
    assert found[1].equals(found[2])
    assert [path for out in folders for path in out.rglob("*.tmp")] == []


def test_a_job_that_cannot_begin_leaves_nothing(artifacts, monkeypatch, tmp_path) -> None:
    def fail(*arguments):
        raise UserError("no memory")

    monkeypatch.setattr(Loader, "load", fail)
    artifact = Artifact.open(artifacts("nano-llama"))
    (tmp_path / "there").mkdir()
    (tmp_path / "kept" / "choices").mkdir(parents=True)
    (tmp_path / "kept" / "choices" / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    for name in ("new", "there", "deep/er/new", "kept"):
        with pytest.raises(UserError, match="no memory"):
            score(artifact, ASKED, tmp_path / name, limit=1, runtime=ONE_THREAD)
        with pytest.raises(UserError, match="no memory"):
            run(artifact, ASKED, tmp_path / "run" / name, DecodeSettings(4), runtime=ONE_THREAD, limit=1)
    assert tree(tmp_path) == before


def test_a_question_that_cannot_be_asked_has_no_score_and_says_why(artifacts, tmp_path) -> None:
    artifact = Artifact.open(artifacts("nano-llama"))
    long = replace(ASKED[3], question="why " * 3000)
    broken = [*ASKED[:2], replace(ASKED[2], question="\ud800"), long]
    notes: list[str] = []
    made = score(artifact, broken, tmp_path / "out", runtime=ONE_THREAD, on_note=notes.append)
    assert made.values["mc2"].keys() == {0, 1}
    assert "2 of 4 questions cannot be scored" in notes[0]
    rows = pq.read_table(tmp_path / "out" / "choices").to_pylist()
    refused = {row["question_index"]: row["note"] for row in rows if row["logprob"] is None}
    assert refused.keys() == {2, 3}
    assert "is not UTF-8" in refused[2]
    assert "positions, more than the" in refused[3]
    alone = score(artifact, broken[:2], tmp_path / "alone", runtime=ONE_THREAD)
    assert alone.values["mc2"] == made.values["mc2"]
    with pytest.raises(UserError, match=r"no question can be scored: .* is not UTF-8"):
        score(artifact, [broken[2]], tmp_path / "none", runtime=ONE_THREAD)
    assert not (tmp_path / "none").exists()


def test_common_prefix() -> None:
    assert common_prefix([(1, 2, 3, 4), (1, 2, 5, 6), (1, 2, 3, 9)]) == 2
    assert common_prefix([(1, 2, 3), (1, 2, 3)]) == 1  # a pass of one token is another kernel's
    assert common_prefix([(1, 2, 3, 4), (1, 2, 3)]) == 1
    assert common_prefix([(1,), (1, 3)]) == 0
    assert common_prefix([(1, 2), (2, 3)]) == 0


def test_a_score_does_not_depend_on_its_list(artifacts, tmp_path) -> None:
    artifact = Artifact.open(artifacts("nano-llama", "onnx-int4"))
    alone = score(artifact, ASKED[:1], tmp_path / "alone", runtime=ONE_THREAD)
    among = score(artifact, ASKED, tmp_path / "among", limit=3, runtime=ONE_THREAD)
    assert alone.values["mc2"][0] == among.values["mc2"][0]


def test_a_damaged_part_is_scored_again(scored, tmp_path) -> None:
    artifact, _, made = scored
    out, notes = tmp_path / "out", []
    score(artifact, ASKED, out, limit=2, runtime=ONE_THREAD)
    (part,) = (out / "choices").glob("part-*")
    part.write_bytes(part.read_bytes()[:-9])
    again = score(artifact, ASKED, out, limit=2, runtime=ONE_THREAD, on_note=notes.append)
    assert "was damaged" in notes[0]
    assert again.values["mc2"] == pytest.approx({i: made.values["mc2"][i] for i in range(2)}, abs=1e-6)


def test_bad_input_is_refused(scored, artifacts, tmp_path, questions_file) -> None:
    artifact, out, _ = scored
    with pytest.raises(
        UserError, match=r"holds other scores \(they differ in questions.selected, settings.limit\)"
    ):
        score(artifact, ASKED, out, limit=LIMIT + 1, runtime=ONE_THREAD)
    with pytest.raises(UserError, match=r"differ in questions\.count, questions\.sha256"):
        score(artifact, read_questions(questions_file), out, limit=LIMIT, runtime=ONE_THREAD)
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is not empty and holds no scores"):
        score(artifact, ASKED, tmp_path, limit=1, runtime=ONE_THREAD)
    with pytest.raises(UserError, match="no question has a true and a false answer"):
        score(artifact, [Question(0, "Q", "a", "", ("a",), ())], tmp_path / "none", runtime=ONE_THREAD)
    with pytest.raises(UserError, match="build it with a larger --context"):
        score(
            artifact,
            [Question(0, "Q " * 9999, "a", "b", ("a",), ("b",))],
            tmp_path / "long",
            runtime=ONE_THREAD,
        )
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "long").exists()


def test_the_command_prints_and_writes_json(scored, tmp_path) -> None:
    artifact, out, made = scored
    arguments = ["score", str(artifact.path), "--out", str(out), "--limit", str(LIMIT), "--quiet"]
    found = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "s.json")])
    assert found.exit_code == 0, found.output
    assert "mc1" in found.output
    said = json.loads((tmp_path / "s.json").read_text())["tasks"]["mc2"]
    assert said["value"] == pytest.approx(np.mean(list(made.values["mc2"].values())))
    assert said["questions"] == LIMIT
