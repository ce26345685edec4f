"""Killing a run at any moment loses nothing that was committed, and the same command finishes the rest."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from edge.artifact import Artifact
from edge.jobs.decode import DecodeSettings
from edge.jobs.interrupt import Interrupted, stop_on_signal
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.runs.parts import is_damaged, part_stem
from edge.runs.run_directory import Run, RunWriter
from tests.conftest import ONE_THREAD, QUESTIONS, ROOT, write_questions

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
DRIVER = Path(__file__).with_name("crash_driver.py")


def rows(folder: Path) -> tuple[pa.Table, pa.Table]:
    """steps and answers without what may differ between two runs."""
    opened = Run.open(folder)
    tables = opened.steps(), opened.answers()
    return tuple(t.drop_columns([name for name in t.column_names if name.endswith("_ms")]) for t in tables)


def assert_same_rows(a: Path, b: Path) -> None:
    for left, right in zip(rows(a), rows(b), strict=True):
        assert left.schema.equals(right.schema)
        for name in left.column_names:
            assert left.column(name).combine_chunks().equals(right.column(name).combine_chunks()), name


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    questions = [f"{question} ({i})" for i in range(4) for question in QUESTIONS]
    return write_questions(tmp_path_factory.mktemp("many") / "q.csv", questions)


def arguments(artifact: Path, questions: Path, out: Path, *more: str) -> list[str]:
    return [
        "run",
        str(artifact),
        "--questions",
        str(questions),
        "--out",
        str(out),
        "--max-new-tokens",
        "60",
        "--quiet",
        "--date",
        "2026-01-01",
        "--threads",
        "1",
        *more,
    ]


def drive(*words: str) -> int:
    done = subprocess.run(
        [sys.executable, str(DRIVER), *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_run_killed_at_random_moments_ends_with_the_rows_of_one_that_was_not(
    temperature, artifacts, many, tmp_path
):
    artifact, killed, whole = artifacts("odd"), tmp_path / "killed", tmp_path / "whole"
    more = ("--temperature", str(temperature), "--seed", "3")
    kills = drive(
        "random",
        str(int(temperature * 10)),
        "8",
        str(killed),
        "--",
        *arguments(artifact, many, killed, *more),
    )
    assert kills >= 4
    settings = DecodeSettings(60, temperature, 3)
    for out in (killed, whole):
        run(
            Artifact.open(artifact),
            read_questions(many),
            out,
            settings,
            date="2026-01-01",
            runtime=ONE_THREAD,
        )
    assert_same_rows(killed, whole)
    assert list(killed.rglob(".*.tmp")) == []
    halves = [{part_stem(p.name) for p in (killed / kind).iterdir()} for kind in ("steps", "answers")]
    assert halves[0] == halves[1]
    assert not any(is_damaged(path) for path in killed.glob("*/part-*"))


def test_a_run_killed_at_every_step_of_writing_ends_with_the_rows_of_one_that_was_not(
    artifacts, questions_file, tmp_path
):
    artifact, killed, whole = artifacts("odd"), tmp_path / "killed", tmp_path / "whole"
    assert drive("steps", "14", str(killed), "--", *arguments(artifact, questions_file, killed)) >= 12
    for out in (killed, whole):
        run(
            Artifact.open(artifact),
            read_questions(questions_file),
            out,
            DecodeSettings(60),
            date="2026-01-01",
            runtime=ONE_THREAD,
        )
    assert_same_rows(killed, whole)
    assert list(killed.rglob(".*.tmp")) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_keeps_finished_answers_says_so_and_can_be_taken_up(
    number, code, artifacts, many, tmp_path
):
    artifact, out = artifacts("odd"), tmp_path / "run"
    command = [
        str(BIN / "edge"),
        *arguments(artifact, many, out, "--max-new-tokens", "900", "--temperature", "1.5"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (out / "run.json").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.7)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    resume = shlex.join(["edge", *command[1:]])
    assert errors.strip().splitlines() == [f"interrupted: finished answers are kept, go on with: {resume}"]
    interrupted = Run.open(out, unfinished=True)
    assert interrupted.manifest.state == "running"
    before = interrupted.answers().column("question_index").to_pylist()
    assert 0 < len(before) < 28
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("*/part-*")}
    manifest = run(
        Artifact.open(artifact), read_questions(many), out, DecodeSettings(900, 1.5), runtime=ONE_THREAD
    )  # without --date: that of the run
    assert manifest.settings.date == "2026-01-01"
    assert Run.open(out).answers().column("question_index").to_pylist() == list(range(28))
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps  # what was there was not written again


def test_a_second_signal_does_not_wait_for_the_token():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as stopped, stop_on_signal() as check:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # a token goes on
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        pytest.fail("the second signal was waited out")
    assert stopped.value.code == 130  # of the first
    with pytest.raises(Interrupted), stop_on_signal() as check:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        check()
    assert signal.getsignal(signal.SIGINT) is before


def test_two_processes_cannot_write_one_run(artifacts, questions_file, tmp_path):
    artifact, out = artifacts("odd"), tmp_path / "run"
    questions = read_questions(questions_file)
    run(
        Artifact.open(artifact),
        questions,
        out,
        DecodeSettings(60),
        date="2026-01-01",
        limit=None,
        runtime=ONE_THREAD,
    )
    with RunWriter(out, Run.open(out).manifest):
        done = subprocess.run(
            [str(BIN / "edge"), *arguments(artifact, questions_file, out)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {out} is being written by another process")
    again = subprocess.run(
        [str(BIN / "edge"), *arguments(artifact, questions_file, out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr


def test_shards_merged_by_copying_their_parts_are_the_unsharded_run(artifacts, questions_file, tmp_path):
    artifact, questions = Artifact.open(artifacts("odd")), read_questions(questions_file)
    for shard in ("1/3", "2/3", "3/3"):
        folder = tmp_path / shard.replace("/", "of")
        run(
            artifact,
            questions,
            folder,
            DecodeSettings(30, 0.7),
            date="2026-01-01",
            shard=shard,
            runtime=ONE_THREAD,
        )
    run(
        artifact,
        questions,
        tmp_path / "whole",
        DecodeSettings(30, 0.7),
        date="2026-01-01",
        runtime=ONE_THREAD,
    )
    merged = tmp_path / "1of3"
    for other in ("2of3", "3of3"):
        for part in (tmp_path / other).glob("*/part-*.parquet"):
            shutil.copy(part, merged / part.parent.name)
    assert len(Run.open(merged).parts()) == 3
    assert_same_rows(merged, tmp_path / "whole")
