"""Shell completion: bash, as it asks, and as it works when Tab is pressed."""

from __future__ import annotations

import subprocess

import pytest

from edge.cli.completion import complete_artifacts, complete_runs
from edge.registry import read_registry
from tests.terminals import BIN, Terminal, environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    for name in (
        "models/one/onnx-fp32/manifest.json",
        "models/one/onnx-int4/manifest.json",
        "models/two words/manifest.json",
        "models/.hidden/manifest.json",
        "models/small.gguf",
        "models/notes.txt",
        "runs/demo/fp32/run.json",
        "runs/int4/run.json",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return folder


def offered(place, *words: str) -> list[str]:
    """What is offered for the last word."""
    asked = {f"_{words[0].replace('-', '_').upper()}_COMPLETE": "complete_bash"}
    variables = environment(COMP_WORDS=" ".join(words), COMP_CWORD=str(len(words) - 1), **asked)
    done = subprocess.run(
        [str(BIN / words[0])], cwd=place, env=variables, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


FP32, INT4, GGUF = "models/one/onnx-fp32", "models/one/onnx-int4", "models/small.gguf"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["edge", "wat"], ["watch"]),
        (["edge", "ask", "mod"], [GGUF, FP32, INT4]),
        (["edge", "force", FP32, "--like", "runs/"], ["runs/int4", "runs/demo/fp32"]),
        (["edge-export", "build", "nano-l"], ["nano-llama"]),
        (["edge", "ask", "smol"], ["smollm2-135m-instruct"]),
        (["edge", "run", FP32, "--questions", "mod"], []),  # the shell's own files
    ],
)
def test_what_bash_is_offered(place, words, expected):
    assert offered(place, *words) == expected


@pytest.mark.parametrize(
    ("complete", "typed", "expected"),
    [
        (complete_artifacts, "", [GGUF, FP32, INT4, *read_registry()]),
        (complete_artifacts, "models/", [GGUF, FP32, INT4]),
        (complete_artifacts, "models/one/onnx-i", [INT4]),
        (complete_artifacts, "./mo", [f"./{path}" for path in (GGUF, FP32, INT4)]),
        (complete_artifacts, "{here}/models/o", [f"{{here}}/{path}" for path in (FP32, INT4)]),
        (complete_artifacts, "runs", []),
        (complete_runs, "r", ["runs/int4", "runs/demo/fp32"]),
        (complete_runs, "runs/d", ["runs/demo/fp32"]),
        (complete_runs, "runs/int4/", []),
        (complete_runs, "nowhere/", []),
        (complete_runs, "~nobody/", []),
    ],
)
def test_what_completes_a_word(place, monkeypatch, complete, typed, expected):
    monkeypatch.chdir(place)
    assert complete(typed.format(here=place)) == [path.format(here=place) for path in expected]


def test_tab_looks_at_so_many_folders_and_no_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edge.cli.completion.MOST", 5)
    for i in range(9):
        (tmp_path / f"run{i}").mkdir()
        (tmp_path / f"run{i}" / "run.json").touch()
    assert len(complete_runs("")) == 5


def test_tab_in_bash_completes_commands_artifacts_and_files(place, tmp_path):
    with Terminal(HOME=str(tmp_path)) as terminal:
        terminal.keys(f"cd {place}; edge --install-completion; clear; source ~/.bashrc; echo ready-$?")
        terminal.press("Enter")
        terminal.until("ready-0")
        for typed, completed in (
            ("edge wat", "edge watch END"),
            ("edge ask models/one/onnx-i", "edge ask models/one/onnx-int4 END"),
            ("edge run models/one/onnx-int4 --questions models/no", "--questions models/notes.txt END"),
        ):
            terminal.keys(typed)
            terminal.press("Tab")
            terminal.keys("END")
            terminal.until(completed)
            terminal.press("C-c")
