"""A full, read-only or vanished disk, and a clock that goes back: one sentence, nothing half-written,
nothing lost."""

from __future__ import annotations

import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

import edge.cli.app
import edge.jobs.session
from edge.runs.manifest import read_manifest
from edge.runs.parts import is_damaged
from edge.runs.run_directory import Run
from tests.conftest import ROOT
from tests.test_cli_errors import call
from tests.test_crash_run import BIN, arguments, assert_same_rows, drive, many  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own: mount(options) again changes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        again = "remount," if os.path.ismount(folder) else ""
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip("file systems cannot be mounted here: run as root")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def whole(artifacts, many, tmp_path_factory):  # noqa: F811
    out = tmp_path_factory.mktemp("whole") / "run"
    assert call(edge.cli.app.main, arguments(artifacts("odd"), many, out), out.parent) == 0
    return out


def edge_run(artifact, questions, out, **options):
    # a part for each question
    code = (
        "import edge.jobs.session, edge.cli.app; edge.jobs.session.FLUSH_SECONDS = 0.0; edge.cli.app.main()"
    )
    command = [
        sys.executable,
        "-c",
        code,
        *arguments(artifact, questions, out),
        "--anyway",
    ]  # the disk is full, not too small
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def assert_one_sentence(done, words):
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr


def assert_consistent(out):
    """What is there is whole, and run.json says that it is not all."""
    assert read_manifest(out).state == "running"
    assert not any(is_damaged(path) for path in out.glob("*/part-*"))
    Run.open(out, unfinished=True).answers()


@pytest.mark.parametrize("kilobytes", [200, 420, 900])
def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    kilobytes,
    artifacts,
    many,  # noqa: F811
    whole,
    small_disk,
):
    disk = small_disk(f"size={kilobytes}k")
    out = disk / "run"
    assert_one_sentence(edge_run(artifacts("odd"), many, out), "No space left on device): free space there")
    assert list(out.rglob(".*.tmp")) == []
    assert_consistent(out)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*/part-*")}
    assert kept
    small_disk("size=60m")
    done = edge_run(artifacts("odd"), many, out)
    assert done.returncode == 0, done.stderr
    assert_same_rows(out, whole)
    steps = {path.name.rpartition(".")[0].partition(".")[0] for path in (out / "answers").iterdir()}
    again = [path for path in kept if path.exists() and path.stat().st_mtime_ns != kept[path]]
    assert steps and not again


def test_a_disk_too_small_for_the_first_part_is_told_and_the_run_goes_on(artifacts, many, small_disk):  # noqa: F811
    out = small_disk("size=4k") / "run"
    done = edge_run(artifacts("odd"), many, out)
    assert_one_sentence(done, "No space left on device")
    assert list(out.glob("*/*")) == []
    small_disk("size=60m")
    assert edge_run(artifacts("odd"), many, out).returncode == 0


@pytest.mark.parametrize("kilobytes", [16, 40, 64, 88])
def test_a_run_without_room_for_both_tables_of_its_first_part_can_begin_again(
    kilobytes,
    artifacts,
    many,  # noqa: F811
    small_disk,
):
    out = small_disk(f"size={kilobytes}k") / "run"
    assert_one_sentence(edge_run(artifacts("odd"), many, out), "No space left on device")
    if out.exists():  # one question at least is committed
        assert_consistent(out)
        assert list(out.glob("answers/*"))
    small_disk("size=60m")
    done = edge_run(artifacts("odd"), many, out)
    assert done.returncode == 0, done.stderr


def test_a_read_only_disk_is_told(artifacts, many, small_disk):  # noqa: F811
    disk = small_disk("size=60m")
    assert (
        call(edge.cli.app.main, arguments(artifacts("odd"), many, disk / "run", "--limit", "2"), disk) == 0
    )
    small_disk("ro")
    assert_one_sentence(
        edge_run(artifacts("odd"), many, disk / "other"), "Read-only file system): give another --out"
    )
    Run.open(disk / "run").steps()


def test_a_file_that_may_not_grow_is_told(artifacts, many, tmp_path):  # noqa: F811
    """A quota, by the kernel's limit on a file's size: works without root too."""
    done = edge_run(
        artifacts("odd"),
        many,
        tmp_path / "run",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert_one_sentence(done, "File too large")
    assert list((tmp_path / "run").rglob(".*.tmp")) == []


def test_a_clock_that_goes_back_changes_nothing(artifacts, many, whole, tmp_path, monkeypatch):  # noqa: F811
    ticks = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3600.0 * next(ticks))
    monkeypatch.setattr(edge.jobs.session, "FLUSH_SECONDS", 0.0)
    assert call(edge.cli.app.main, arguments(artifacts("odd"), many, tmp_path / "run"), tmp_path) == 0
    assert next(ticks) >= 28
    assert_same_rows(tmp_path / "run", whole)


@pytest.mark.parametrize("precision", ["onnx-int4", "gguf-q4_0"])
def test_a_forced_run_killed_at_random_moments_ends_with_the_rows_of_one_that_was_not(
    precision,
    artifacts,
    many,  # noqa: F811
    whole,
    tmp_path,
):
    artifact, killed, other = artifacts("odd", precision), tmp_path / "killed", tmp_path / "other"

    def command(out: Path) -> list[str]:
        return ["force", str(artifact), "--like", str(whole), "--out", str(out), "--quiet", "--threads", "1"]

    assert drive("random", "5", "8", str(killed), "--", *command(killed)) >= 3
    for out in (killed, other):
        assert call(edge.cli.app.main, command(out), tmp_path) == 0
    assert_same_rows(killed, other)
    assert list(killed.rglob(".*.tmp")) == []


def test_a_gguf_run_killed_at_random_moments_ends_with_the_rows_of_one_that_was_not(
    artifacts,
    many,  # noqa: F811
    tmp_path,
):
    artifact, killed, other = artifacts("odd", "gguf-q4_0"), tmp_path / "killed", tmp_path / "other"
    more = ("--temperature", "0.8", "--shard", "2/2")
    assert drive("random", "7", "8", str(killed), "--", *arguments(artifact, many, killed, *more)) >= 3
    for out in (killed, other):
        assert call(edge.cli.app.main, arguments(artifact, many, out, *more), tmp_path) == 0
    assert_same_rows(killed, other)


def test_the_resume_command_that_is_printed_can_be_pasted(artifacts, many, tmp_path):  # noqa: F811
    """With a folder name that a shell would split."""
    out = tmp_path / "a run; of mine"
    command = [
        str(BIN / "edge"),
        *arguments(artifacts("odd"), many, out, "--max-new-tokens", "900", "--temperature", "1.5"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not (out / "run.json").is_file():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    resume = errors.strip().partition("go on with: ")[2]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", resume], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Run.open(out).answers().num_rows == 28
