"""`edge doctor`: what this machine is and whether llama.cpp's taps work on it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest

import edge.cli.app
from edge.architectures import ARCHITECTURES
from edge.backends import llama_graph, llamacpp
from edge.cli.doctor import state
from edge.machine.native import compiled
from edge.machine.telemetry import Sensors
from edge.signals.compiled import compiled_code
from tests.boards import make_board
from tests.test_cli_errors import call

pytestmark = pytest.mark.slow  # seconds each


def doctor(tmp_path, capsys) -> tuple[dict, str]:
    """What it says as JSON and on the terminal."""
    assert call(edge.cli.app.main, ["doctor", "--json", "{doctor.json}"], tmp_path) == 0
    return json.loads((tmp_path / "doctor.json").read_text()), " ".join(capsys.readouterr().out.split())


def test_taps_are_tried_on_every_architecture(tmp_path, capsys):
    said, shown = doctor(tmp_path, capsys)
    assert said["llama_cpp"]["taps"] == {"llama": "", "qwen2": "", "qwen3": "", "gemma3_text": ""}
    assert shown.count("attention and hidden states are traced") == 4
    assert said["versions"]["llama-cpp-python"] == said["llama_cpp"]["installed"]
    assert said["device"]["cores"] >= 1
    assert said["disk_free_bytes"] > 0
    assert said["now"]["rss_bytes"] > 1e6
    assert said["device"]["simd"] and " ".join(said["device"]["simd"][:2]) in shown
    assert f"onnxruntime {said['versions']['onnxruntime']}" in shown


@pytest.mark.parametrize(
    ("module", "name", "value", "words"),
    [
        (llama_graph, "OVERHEAD_BYTES", 376, "takes 368 bytes instead of 376"),
        (llamacpp, "version", lambda: "0.4.0", "0.4.0 is not among the versions tested"),
    ],
)
def test_taps_that_do_not_work_are_named_with_the_reason(
    module, name, value, words, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(module, name, value)
    said, shown = doctor(tmp_path, capsys)
    assert words in said["llama_cpp"]["taps"]["gemma3_text"]
    assert f"logits alone: {said['llama_cpp']['taps']['gemma3_text']}" in shown


def test_a_name_that_one_architecture_alone_lacks_is_its_problem_alone(tmp_path, capsys, monkeypatch):
    elsewhere = replace(ARCHITECTURES["gemma3_text"], embedding="embd_elsewhere")
    monkeypatch.setitem(ARCHITECTURES, "gemma3_text", elsewhere)
    said, _ = doctor(tmp_path, capsys)
    problems = {
        architecture: problem for architecture, problem in said["llama_cpp"]["taps"].items() if problem
    }
    assert list(problems) == ["gemma3_text"]
    assert "2 of 2 attention patterns and 2 of 3 residual streams" in problems["gemma3_text"]


@pytest.mark.parametrize(
    ("board", "words"),
    [
        ("pi4", "82.3 °C, 1000 of 1800 MHz, slowed down"),
        ("pi5", "51.2 °C, 2400 of 2400 MHz, 1.7 W, not slowed down"),
        ("jetson", "50.4 °C, 1510 of 1510 MHz, 6.1 W, not slowed down"),
    ],
)
def test_the_sensors_of_a_board_are_said_in_a_line(board, words, tmp_path):
    root = make_board(tmp_path, board)
    assert state(Sensors(root, str(root / "bin")).sample(0)) == words
    assert state(Sensors(tmp_path / "nothing", "").sample(0)) == "no sensor can be read"


def test_code_that_cannot_be_compiled_is_told_with_the_reason(
    tmp_path, capsys, monkeypatch, nothing_compiled
):
    said, shown = doctor(tmp_path, capsys)
    assert said["llama_cpp"]["callback"] == said["signals"] == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    shutil.rmtree(nothing_compiled)
    compiled.cache_clear()
    compiled_code.cache_clear()
    said, shown = doctor(tmp_path, capsys)
    assert said["llama_cpp"]["callback"] == said["signals"] == "no C compiler is installed"
    assert shown.count("attention and hidden states are traced") == 4
    assert "read in Python, about 1% slower: no C compiler" in shown
    assert "computed in numpy, 1 to 2% slower: no C compiler" in shown


def test_without_the_binding_it_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp.llama_cpp", None)
    said, shown = doctor(tmp_path, capsys)
    assert said["llama_cpp"]["installed"] == ""
    assert said["llama_cpp"]["taps"] == {}
    assert "cannot be run" in shown
    assert "edgetrace[llama]" in shown
