"""A run that another machine or other versions go on with: said, kept with its questions, and shown."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge.artifact import Artifact
from edge.cli.app import app
from edge.errors import UserError
from edge.jobs import score as score_job
from edge.jobs import session
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.jobs.score import score
from edge.machine.device import Device
from edge.questions.question import read_questions
from edge.report.write import write_report
from edge.runs.manifest import read_manifest
from edge.runs.merge import merge
from edge.runs.run_directory import Run
from edge.runs.score_directory import read_score_manifest
from edge.runs.sessions import Indices, Session, changes, compress, expanded, settled, together
from tests.conftest import ONE_THREAD
from tests.test_crash_run import arguments, drive

PI = {"board": "Raspberry Pi 5", "processor": "Cortex-A76", "machine": "aarch64", "simd": ["asimd"]}
SETTINGS = DecodeSettings(3, reference_k=4)


class Stopped(Exception):
    """Ends a job as a crash does."""


def stop_after(count: int) -> Callable[[Any], None]:
    def on_progress(progress: session.Progress) -> None:
        if progress.done >= count:
            raise Stopped

    return on_progress


def elsewhere(manifest: Path, versions: dict[str, str] | None = None, **device: object) -> None:
    """Makes a job's manifest say that it was begun elsewhere, or in other versions."""
    raw = json.loads(manifest.read_text())
    record = raw["sessions"][-1] if "sessions" in raw else raw
    record["device"] |= device
    record["versions"] |= versions or {}
    manifest.write_text(json.dumps(raw))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer is a part of its own."""
    monkeypatch.setattr(session, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(score_job, "FLUSH_ROWS", 1)


@pytest.fixture
def started(at_once: None, odd: Artifact, questions_file: Path, tmp_path: Path) -> Path:
    """A run whose first three of seven answers a Raspberry Pi made."""
    out = tmp_path / "run"
    with pytest.raises(Stopped):
        trace(odd, questions_file, out, stop_after(3))
    elsewhere(out / "run.json", {"onnxruntime": "1.20.0"}, **PI)
    return out


def trace(artifact: Artifact, questions: Path, out: Path, on_progress: Any = None, **more: Any) -> list[str]:
    notes: list[str] = []
    follow = on_progress or (lambda progress: None)
    asked = read_questions(questions)
    run(artifact, asked, out, SETTINGS, runtime=ONE_THREAD, on_progress=follow, on_note=notes.append, **more)
    return notes


def kept(folder: Path) -> list[tuple[str | None, str, list[int]]]:
    """Of each session in run.json: processor, onnxruntime and questions."""
    sessions = read_manifest(folder).sessions
    return [(s.device.processor, s.versions["onnxruntime"], [*expanded(s.questions)]) for s in sessions]


def test_another_machine_is_said_and_kept_with_its_questions(
    started: Path, odd: Artifact, questions_file: Path
) -> None:
    (note,) = trace(odd, questions_file, started)
    assert "is continued on another machine or with other versions" in note
    assert "(was Cortex-A76)" in note
    assert "(was 1.20.0)" in note
    pi, here = kept(started)
    assert pi == ("Cortex-A76", "1.20.0", [0, 1, 2])
    assert here[1:] != pi[1:2]
    assert here[2] == [3, 4, 5, 6]
    raw = json.loads((started / "run.json").read_text())
    assert raw["sessions"][0]["questions"] == [[0, 2, 1]]
    assert raw["device"]["processor"] == "Cortex-A76"  # the machine that began
    assert [s.count for s in Run.open(started).sessions()] == [3, 4]
    assert trace(odd, questions_file, started) == []  # finished: nothing goes on


def test_the_session_is_recorded_before_its_first_part(
    started: Path, odd: Artifact, questions_file: Path
) -> None:
    """Stopped before and after its first answer, and gone on with a third machine and the second again."""
    with pytest.raises(Stopped):
        trace(odd, questions_file, started, stop_after(3))
    assert [questions for *_, questions in kept(started)] == [[0, 1, 2], []]
    with pytest.raises(Stopped):
        trace(odd, questions_file, started, stop_after(4))
    elsewhere(started / "run.json", {"onnxruntime": "1.21.0"})  # what the second machine had
    with pytest.raises(Stopped):
        trace(odd, questions_file, started, stop_after(5))
    assert [questions for *_, questions in kept(started)] == [[0, 1, 2], [3], []]
    trace(odd, questions_file, started)
    found = kept(started)
    assert [questions for *_, questions in found] == [[0, 1, 2], [3], [4, 5, 6]]
    assert [version for _, version, _ in found][:2] == ["1.20.0", "1.21.0"]


def test_questions_that_were_lost_belong_to_the_machine_that_makes_them_again(
    started: Path, odd: Artifact, questions_file: Path
) -> None:
    trace(odd, questions_file, started)
    next(path for path in (started / "answers").iterdir() if "000001" in path.name).unlink()
    trace(odd, questions_file, started)
    assert [questions for *_, questions in kept(started)] == [[0, 2], [1, 3, 4, 5, 6]]
    for path in (started / "answers").iterdir():
        path.unlink()
    trace(odd, questions_file, started)
    manifest = read_manifest(started)
    assert manifest.sessions == ()
    assert manifest.device.processor != "Cortex-A76"


def test_one_machine_with_the_same_versions_says_nothing(
    at_once: None, odd: Artifact, questions_file: Path, tmp_path: Path
) -> None:
    """Also where an earlier version knew less of the machine."""
    with pytest.raises(Stopped):
        trace(odd, questions_file, tmp_path / "run", stop_after(3))
    raw = json.loads((tmp_path / "run" / "run.json").read_text())
    raw["device"] = {"system": "Linux 5", "cores": 64, "memory_bytes": 1}
    raw["versions"] = {}
    (tmp_path / "run" / "run.json").write_text(json.dumps(raw))
    assert trace(odd, questions_file, tmp_path / "run") == []
    assert "sessions" not in json.loads((tmp_path / "run" / "run.json").read_text())


def test_force_and_score_keep_their_machines_too(
    at_once: None, odd: Artifact, questions_file: Path, tmp_path: Path
) -> None:
    trace(odd, questions_file, tmp_path / "run")
    notes: list[str] = []

    def forced(on_progress: Any) -> None:
        out = tmp_path / "forced"
        force(odd, tmp_path / "run", out, runtime=ONE_THREAD, on_progress=on_progress, on_note=notes.append)

    def scored(on_progress: Any) -> None:
        asked = read_questions(questions_file)
        out = tmp_path / "scores"
        score(odd, asked, out, runtime=ONE_THREAD, on_progress=on_progress, on_note=notes.append)

    for job, name in ((forced, "forced/run.json"), (scored, "scores/score.json")):
        with pytest.raises(Stopped):
            job(stop_after(3))
        elsewhere(tmp_path / name, {"edgetrace": "0.2.0"}, **PI)
        job(lambda progress: None)
    assert kept(tmp_path / "forced")[0][2] == [0, 1, 2]
    first, second = read_score_manifest(tmp_path / "scores").sessions
    assert (first.versions["edgetrace"], first.device.board) == ("0.2.0", "Raspberry Pi 5")
    assert [first.count, second.count] in ([2, 5], [3, 4])
    assert len([note for note in notes if "is continued on another machine" in note]) == 2


@pytest.mark.slow
def test_report_and_compare_show_them(
    started: Path, odd: Artifact, questions_file: Path, tmp_path: Path
) -> None:
    trace(odd, questions_file, started)
    trace(odd, questions_file, tmp_path / "other")
    elsewhere(tmp_path / "other" / "run.json", processor="Ampere Altra")
    write_report([Run.open(started), Run.open(tmp_path / "other")], tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Runs that several machines or versions worked on" in text
    assert "0 to 2" in text
    assert "onnxruntime 1.20.0" in text
    assert "come from different machines" in text
    found = CliRunner().invoke(
        app, ["compare", str(started), str(tmp_path / "other"), "--json", str(tmp_path / "c.json")]
    )
    assert found.exit_code == 0, found.output
    mixed, apart = json.loads((tmp_path / "c.json").read_text())["cautions"]
    assert "3 questions on Raspberry Pi 5" in mixed
    assert "Ampere Altra (was Cortex-A76)" in apart
    assert "comes from several machines" in found.stderr


def test_merge_keeps_every_machine(
    odd: Artifact, questions_file: Path, tmp_path: Path, at_once: None
) -> None:
    shards = [tmp_path / f"s{i}" for i in (1, 2)]
    with pytest.raises(Stopped):
        trace(odd, questions_file, shards[0], stop_after(2), shard="1/2")
    elsewhere(shards[0] / "run.json", **PI)
    trace(odd, questions_file, shards[0], shard="1/2")
    trace(odd, questions_file, shards[1], shard="2/2")
    notes: list[str] = []
    made = merge(shards, tmp_path / "merged", notes.append)
    assert any("the boards differ" in note for note in notes)
    pi, here = made.sessions
    assert sorted(expanded(pi.questions)) == [0, 2]
    assert sorted(expanded(here.questions)) == [1, 3, 4, 5, 6]
    assert made.device.processor is None
    # A merged run of version 0.2 says it of its shards.
    raw = json.loads((tmp_path / "merged" / "run.json").read_text())
    del raw["sessions"]
    raw["merged"]["1/2"]["device"] |= PI
    (tmp_path / "merged" / "run.json").write_text(json.dumps(raw))
    first, second = Run.open(tmp_path / "merged").sessions()
    assert (first.device.processor, [*expanded(first.questions)]) == ("Cortex-A76", [0, 2, 4, 6])
    assert [*expanded(second.questions)] == [1, 3, 5]


@pytest.mark.parametrize("bad", [[0, 1], [2, 1, 1], [0, 4, 0], [-1, 2, 1], "0-2"])
def test_questions_that_are_no_range_are_refused(started: Path, tmp_path: Path, bad: object) -> None:
    shutil.copytree(started, tmp_path / "copy")
    raw = json.loads((started / "run.json").read_text())
    raw["sessions"] = [{"device": {}, "versions": {}, "started": "", "questions": [bad]}]
    (tmp_path / "copy" / "run.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match=r"run.json cannot be read \(sessions.0.questions.0"):
        read_manifest(tmp_path / "copy")


@given(st.sets(st.integers(0, 60)))
def test_ranges_hold_the_same_questions(numbers: set[int]) -> None:
    found = compress(numbers)
    assert sorted(expanded(found)) == sorted(numbers)
    assert all(Indices.from_json(list(indices)) == indices for indices in found)


def test_a_shard_is_one_range() -> None:
    assert compress(range(1, 790, 4)) == (Indices(1, 789, 4),)
    assert compress([0, 1, 2, 7]) == (Indices(0, 2, 1), Indices(7, 7, 1))


@given(st.lists(st.sets(st.integers(0, 20)), min_size=1, max_size=4), st.sets(st.integers(0, 20)))
def test_every_question_that_is_done_has_one_session(parts: list[set[int]], done: set[int]) -> None:
    sessions = [Session(started=str(i), questions=compress(part)) for i, part in enumerate(parts)]
    questions = [index for session in settled(sessions, done) for index in expanded(session.questions)]
    assert sorted(questions) == sorted(done)


def test_what_is_not_known_is_no_change() -> None:
    known = Session(device=Device(processor="A", simd=("avx",)), versions={"numpy": "2.0"})
    assert changes(Session(), known) == changes(known, Session()) == []
    other = Session(device=Device(processor="B"), versions={"numpy": "2.1", "edgetrace": "0.3.0"})
    assert changes(known, other) == ["processor B (was A)", "numpy 2.1 (was 2.0)"]
    assert together([known, other, known]) == (known, other)


@pytest.mark.slow
def test_killed_at_every_step_of_writing_each_question_keeps_its_machine(
    artifacts: Callable[..., Path], questions_file: Path, tmp_path: Path
) -> None:
    """Each process runs on another machine and is killed one step of writing later than the last."""
    out = tmp_path / "run"
    command = arguments(artifacts("odd"), questions_file, out)
    assert drive("machines", "30", str(out), "--", *command) >= 14
    committed = json.loads((tmp_path / "run.json").read_text())
    assert len(committed) >= 3
    sessions = Run.open(out).sessions()
    assert {s.device.processor: [*expanded(s.questions)] for s in sessions} == committed
