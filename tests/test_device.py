"""edge.machine.device and edge.registry: what is read from a machine and from the list of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import UserError
from edge.machine import device
from edge.registry import read_registry
from tests.boards import BOARDS, make_board, put


@pytest.fixture
def board(tmp_path) -> Path:
    """What a Raspberry Pi shows of itself."""
    put(tmp_path, "proc/device-tree/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    put(
        tmp_path, "proc/cpuinfo", "processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t\t: Raspberry Pi 5 Model B\n"
    )
    put(tmp_path, "proc/meminfo", "MemTotal:        8245504 kB\nMemAvailable:    4000000 kB\n")
    put(tmp_path, "proc/self/statm", "5000 300 200 1 0 100 0")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "48312\n")
    put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "51000\n")
    put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1500000\n")
    put(tmp_path, "sys/devices/system/cpu/cpu3/cpufreq/scaling_cur_freq", "2400000\n")
    return tmp_path


def test_a_board_is_described(board):
    found = device.describe(board)
    assert found.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert found.processor == "Raspberry Pi 5 Model B"
    assert found.memory_bytes == 8245504 * 1024
    assert found.cores >= 1


def test_what_cannot_be_read_is_none_and_null(tmp_path):
    described = device.describe(tmp_path)
    assert (described.board, described.processor, described.memory_bytes, described.swap_bytes) == (
        None,
    ) * 4
    assert (described.simd, described.core_kinds) == ((), "")


def test_this_machine_can_be_described():
    assert device.describe().memory_bytes > 1e8
    assert device.describe().simd  # of every processor that the wheels run on


@pytest.mark.parametrize("name", ["pi4", "pi5", "jetson"])
def test_recorded_boards_are_described(name, tmp_path):
    found, expected = device.describe(make_board(tmp_path, name)), BOARDS[name].described
    assert {key: getattr(found, key) for key in expected} == expected


def test_the_registry_lists_the_papers_models_and_the_embedded_one():
    entries = read_registry()
    assert {
        "smollm2-135m-instruct",
        "llama-3.2-1b-instruct",
        "gemma-3-1b-it",
        "deepseek-r1-distill-qwen-1.5b",
        "qwen3-1.7b",
        "nano-llama",
    } <= set(entries)
    for entry in entries.values():
        assert sum(map(bool, (entry.hub, entry.folder, entry.wheel))) == 1
        assert (entry.checkpoint is None) == (not entry.folder)
        assert not entry.folder or entry.notice, f"{entry.model_id} is embedded and must say what it is"
        assert entry.paper_class in ("", "deterministic", "exploratory", "balanced")


@pytest.mark.parametrize(
    "text",
    [
        "[models",
        "[other]\n",
        "[models.x]\nhub = 'a'\n",
        "[models.x]\nmodel_type='a'\nlicence='b'\nsurprise=1\n",
        "models = 3",
    ],
)
def test_a_malformed_registry_is_refused(text, tmp_path):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(UserError, match="is malformed"):
        read_registry(tmp_path / "r.toml")
    with pytest.raises(UserError, match="is missing"):
        read_registry(tmp_path / "absent.toml")
