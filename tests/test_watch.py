"""Following a run: what stands on disk is what is told, damage is one sentence, and nothing is ever
written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edge.artifact import Artifact
from edge.cli.app import app
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.interrupt import Interrupted
from edge.jobs.run import run
from edge.jobs.session import Progress
from edge.machine import telemetry
from edge.questions.question import read_questions
from edge.runs.run_directory import Run, RunWriter
from edge.runs.watch import Follower
from tests.boards import make_board
from tests.conftest import ONE_THREAD, tree

FLAT = {"COLUMNS": "100"}


@pytest.fixture(scope="module")
def finished(artifacts, questions_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    run(
        Artifact.open(artifacts("odd")),
        read_questions(questions_file),
        out,
        DecodeSettings(12),
        date="2026-01-01",
        runtime=ONE_THREAD,
    )
    return out


def half(artifact: Path, questions: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ended after three questions, a part each."""
    monkeypatch.setattr("edge.jobs.session.FLUSH_SECONDS", 0.0)

    def stop(progress: Progress) -> None:
        if progress.done == 3:
            raise Interrupted(130)

    with pytest.raises(Interrupted):
        run(
            Artifact.open(artifact),
            read_questions(questions),
            out,
            DecodeSettings(12),
            date="2026-01-01",
            runtime=ONE_THREAD,
            on_progress=stop,
        )


def told(out: Path, *more: str) -> str:
    done = CliRunner().invoke(app, ["watch", str(out), *more], env=FLAT, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_a_finished_run_is_told_as_its_tables_say_and_left_as_it_was(finished):
    before = tree(finished)
    shown = told(finished)
    assert tree(finished) == before
    rows = Run.open(finished).answers()
    entropies = rows.column("output_entropy_mean").to_pylist()
    assert any(line.startswith("finished · ") for line in shown.splitlines())
    assert "7/7 questions" in shown
    assert f"mean {sum(entropies) / 7:.3f} nats" in shown
    assert f"6: {rows.column('question')[6]}" in shown
    seen = Follower(finished).look()
    assert seen.tokens == sum(rows.column("tokens").to_pylist())
    spent = sum(rows.column("prefill_ms").to_pylist()) + sum(rows.column("decode_ms").to_pylist())
    assert seen.tokens_per_second == pytest.approx(1e3 * seen.tokens / spent)
    assert seen.left is None
    assert seen.over


def test_json_to_a_file_and_to_standard_output(finished, tmp_path):
    told(finished, "--json", str(tmp_path / "seen.json"))
    (line,) = told(finished, "--json", "-").splitlines()
    once = told(finished, "--once", "--json", "-")
    for text in ((tmp_path / "seen.json").read_text(), line, once):
        value = json.loads(text)
        assert (value["state"], value["done"], value["total"], value["problems"]) == ("finished", 7, 7, [])
        assert [a["question_index"] for a in value["last_answers"]] == [3, 4, 5, 6]


def test_a_run_that_nobody_writes_is_unfinished_and_its_time_left_is_the_mean_of_what_is_done(
    artifacts, questions_file, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    half(artifacts("odd"), questions_file, out, monkeypatch)
    newest = max(path.stat().st_mtime for path in out.glob("answers/*"))
    seen = Follower(out, wall=lambda: newest + 7200).look()
    assert (seen.state, seen.done, seen.total) == ("running", 3, 7)
    assert seen.left == pytest.approx(sum(a.seconds for a in seen.answers) / 3 * 4)
    assert seen.quiet == pytest.approx(7200)
    assert [a.question_index for a in seen.answers] == [0, 1, 2]
    for path in (out / "run.json", *out.glob("answers/*")):
        os.utime(path, (0, 0))
    assert "unfinished, nothing written for" in told(out, "--once")
    with RunWriter(out, Run.open(out, unfinished=True).manifest):  # a long answer on a slow board
        assert "running, nothing written for" in told(out, "--once")
    assert "3/7 questions" in told(out, "--once")


def test_a_lock_that_was_seen_to_go_means_stopped_and_a_watcher_never_takes_one(
    artifacts, questions_file, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    half(artifacts("odd"), questions_file, out, monkeypatch)
    follower = Follower(out)
    assert follower.look().state == "running"  # a writer on another machine would look the same
    with RunWriter(out, Run.open(out, unfinished=True).manifest):
        assert follower.look().state == "running"
        with pytest.raises(UserError, match="being written by another process"):
            RunWriter(out, Run.open(out, unfinished=True).manifest)
    assert follower.look().state == "stopped"
    assert Follower(out, root=tmp_path).look().state == "running"  # where there is no list of locks


def test_parts_are_read_once_and_those_that_went_are_forgotten(
    artifacts, questions_file, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    half(artifacts("odd"), questions_file, out, monkeypatch)
    follower, read = Follower(out), []
    from edge.runs import watch

    whole = watch.read_answers
    monkeypatch.setattr(watch, "read_answers", lambda path: read.append(path) or whole(path))
    assert follower.look().done == 3
    assert follower.look().done == 3
    assert len(read) == 3
    next(out.glob("answers/part-*-000001.*")).unlink()
    assert [a.question_index for a in follower.look().answers] == [0, 2]


def test_damage_is_one_sentence_and_the_rest_is_told(artifacts, questions_file, tmp_path, monkeypatch):
    out = tmp_path / "run"
    half(artifacts("odd"), questions_file, out, monkeypatch)
    part = next(out.glob("answers/part-*-000001.*"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    next(out.glob("steps/part-*-000002.*")).unlink()
    (out / "device.parquet").write_bytes(b"PAR1")
    before = tree(out)
    seen = Follower(out).look()
    assert [a.question_index for a in seen.answers] == [0]
    damaged, missing, device = sorted(seen.problems, key=lambda text: ("machine" in text, "missing" in text))
    assert damaged.startswith(f"{part} is damaged")
    assert missing.startswith("the steps of ")
    assert "000002" in missing
    assert device.startswith(f"the machine's state is not known: {out / 'device.parquet'} cannot be read")
    assert "1/7 questions" in told(out, "--once")
    assert tree(out) == before


@pytest.mark.parametrize("content", ["", "{", "{}", '{"schema_version": 99}'])
def test_a_run_json_that_cannot_be_read_is_refused_in_one_sentence(content, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        Follower(tmp_path / "run").look()
    with pytest.raises(UserError, match="is no run directory"):
        Follower(tmp_path / "absent").look()


def test_names_in_a_run_are_shown_and_not_obeyed(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    manifest = json.loads((finished / "run.json").read_text())
    manifest["artifact"] |= {"model_id": "a\x1b[2J[bold]b", "notice": "\x1b]0;owned\x07[red]"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest))
    for command in (["watch", "run"], ["compare", "run", "run"], ["paper", "run"]):
        words = [str(tmp_path / word) if word == "run" else word for word in command]
        shown = CliRunner().invoke(app, words, env=FLAT, catch_exceptions=False).stdout
        assert "\x1b" not in shown
        assert r"a\x1b[2J[bold]b" in shown
        assert r"\x1b]0;owned\x07[red]" in shown


def test_a_run_that_has_not_answered_yet(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("part-*", "device.parquet"))
    manifest = json.loads((finished / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(manifest | {"state": "running"}))
    seen = Follower(tmp_path / "run").look()
    assert (seen.done, seen.total, seen.left, seen.tokens_per_second, seen.machine) == (
        0,
        7,
        None,
        None,
        None,
    )
    assert "0/7 questions" in told(tmp_path / "run", "--once")


def test_the_machine_is_told(artifacts, questions_file, tmp_path, monkeypatch):
    root = make_board(tmp_path, "pi5")
    monkeypatch.setattr(telemetry.Sensors.__init__, "__defaults__", (root, str(root / "bin")))
    out = tmp_path / "run"
    run(
        Artifact.open(artifacts("odd")),
        read_questions(questions_file),
        out,
        DecodeSettings(4),
        date="2026-01-01",
        runtime=ONE_THREAD,
    )
    expected = telemetry.Sensors(root, str(root / "bin")).temperature()
    assert f"{expected:.1f} °C" in told(out)


def test_an_interval_that_is_none_is_refused(finished):
    for every in ("0", "-1", "nan", "1e9"):
        with pytest.raises(UserError, match="--every is"):
            CliRunner().invoke(app, ["watch", str(finished), "--every", every], catch_exceptions=False)
