"""Shards of several boards become the run that one board would have made, or a sentence."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest

import edge.cli.app
from edge.files import write_whole
from edge.runs.manifest import read_manifest
from edge.runs.run_directory import Run
from tests.conftest import tree
from tests.test_cli_errors import call
from tests.test_crash_run import assert_same_rows

COUNT = 3


@pytest.fixture(scope="module")
def runs(artifacts, questions_file, tmp_path_factory):
    """Folders of three shards and of the whole, sampled."""
    base = tmp_path_factory.mktemp("merge")
    shards = {f"{i}of{COUNT}": ["--shard", f"{i}/{COUNT}"] for i in (1, 2, 3)}
    for name, more in {**shards, "whole": [], "of2": ["--shard", "1/2"]}.items():
        command = [
            "run",
            str(artifacts("odd")),
            "--questions",
            str(questions_file),
            "--out",
            str(base / name),
            "--quiet",
            "--max-new-tokens",
            "20",
            "--temperature",
            "0.7",
            "--date",
            "2026-01-01",
            "--threads",
            "1",
            *more,
        ]
        assert call(edge.cli.app.main, command, base) == 0
    return base


def merge(runs, names, out):
    return call(edge.cli.app.main, ["merge", *(str(runs / name) for name in names), "--out", str(out)], runs)


def changed(folder, **change):
    """The run's manifest with other entries."""
    raw = json.loads((folder / "run.json").read_text())
    for name, value in change.items():
        raw[name] = value if not isinstance(value, dict) else raw[name] | value
    write_whole(folder / "run.json", lambda path: path.write_text(json.dumps(raw)))


def test_the_merged_run_is_the_run_without_shards(runs, tmp_path, artifacts, questions_file, capsys):
    before = {name: tree(runs / name) for name in ("1of3", "2of3", "3of3")}
    for number, order in enumerate(itertools.permutations(before)):
        out = tmp_path / str(number)
        assert merge(runs, order, out) == 0
        assert_same_rows(out, runs / "whole")
        assert tree(out) == tree(tmp_path / "0")
    assert before == {name: tree(runs / name) for name in before}
    made, whole = read_manifest(tmp_path / "0"), read_manifest(runs / "whole")
    assert made.decides() == whole.decides()
    assert list(made.merged) == ["1/3", "2/3", "3/3"]
    assert made.device == whole.device
    telemetry = Run.open(tmp_path / "0").answers().num_rows
    assert telemetry == 7
    capsys.readouterr()
    # The same command without --shard finds it finished.
    command = [
        "run",
        str(artifacts("odd")),
        "--questions",
        str(questions_file),
        "--out",
        str(tmp_path / "0"),
        "--quiet",
        "--max-new-tokens",
        "20",
        "--temperature",
        "0.7",
        "--date",
        "2026-01-01",
        "--threads",
        "1",
    ]
    assert call(edge.cli.app.main, command, tmp_path) == 0
    assert "7 questions traced" in capsys.readouterr().out


def test_boards_that_differ_are_told(runs, tmp_path, capsys):
    for name in ("1of3", "2of3", "3of3"):
        shutil.copytree(runs / name, tmp_path / name)
    changed(tmp_path / "2of3", device={"processor": "Cortex-A76", "board": "Raspberry Pi 5"})
    assert merge(tmp_path, ["1of3", "2of3", "3of3"], tmp_path / "out") == 0
    said = capsys.readouterr().err
    assert "the boards differ (processor Cortex-A76 (was " in said
    assert "the versions differ" not in said
    made = read_manifest(tmp_path / "out")
    assert "board" not in json.loads((tmp_path / "out" / "run.json").read_text())["device"]
    assert made.device.board is None
    assert made.merged["2/3"].device.board == "Raspberry Pi 5"


@pytest.mark.parametrize(
    ("second", "notes"),
    [
        ({"device": {"board": "Pi 2"}}, ["the boards differ (board Pi 2 (was Pi 1))"]),
        ({"versions": {"numpy": "1.0"}}, ["the versions differ (numpy 1.0 (was 2.0))"]),
        (
            {"device": {"board": "Pi 2"}, "versions": {"numpy": "1.0"}},
            ["the boards differ (board Pi 2 (was Pi 1))", "the versions differ (numpy 1.0 (was 2.0))"],
        ),
        ({}, []),
    ],
)
def test_the_note_names_what_differs_and_nothing_else(runs, tmp_path, capsys, second, notes):
    for name in ("1of3", "2of3", "3of3"):
        shutil.copytree(runs / name, tmp_path / name)
        first = {"device": {"board": "Pi 1"}, "versions": {"numpy": "2.0"}}
        changed(tmp_path / name, **first)
    changed(tmp_path / "2of3", **second)
    assert merge(tmp_path, ["1of3", "2of3", "3of3"], tmp_path / "out") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert [line.removeprefix("note: ").partition(": ")[0] for line in said] == notes


@pytest.mark.parametrize(
    ("names", "change", "words"),
    [
        (["1of3", "3of3"], {}, "shard 2/3 is missing: give the runs of all shards"),
        (["1of3", "1of3", "2of3", "3of3"], {}, "are both shard 1/3: give each shard once"),
        (["1of3", "of2"], {}, "these are shards of 2 and of 3"),
        (
            ["1of3", "2of3", "3of3"],
            {"settings": {"seed": 5}},
            "differ in settings.seed: only shards of one run",
        ),
        (["1of3", "2of3", "3of3"], {"artifact": {"precision": "onnx-int4"}}, "differ in artifact.precision"),
        (["1of3", "2of3", "3of3"], {"questions": {"sha256": "0" * 64}}, "differ in questions.sha256"),
        (["1of3", "2of3", "3of3"], {"state": "running"}, "is unfinished"),
        (["1of3", "2of3", "3of3"], {"kind": "force"}, "is a forced run"),
    ],
)
def test_other_runs_are_refused_and_nothing_is_left(runs, tmp_path, capsys, names, change, words):
    for name in dict.fromkeys(names):
        shutil.copytree(runs / name, tmp_path / name)
    if change:
        changed(tmp_path / "2of3", **change)
    before = tree(tmp_path)
    assert merge(tmp_path, names, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert tree(tmp_path) == before


def test_a_damaged_part_and_a_folder_that_is_there_are_refused(runs, tmp_path, capsys):
    shutil.copytree(runs / "1of3", tmp_path / "1of3")
    path = next((tmp_path / "1of3" / "steps").glob("*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    shutil.copytree(runs / "2of3", tmp_path / "2of3")
    shutil.copytree(runs / "3of3", tmp_path / "3of3")
    before = tree(tmp_path)
    assert merge(tmp_path, ["1of3", "2of3", "3of3"], tmp_path / "out") == 2
    assert path.name in capsys.readouterr().err
    assert tree(tmp_path) == before
    assert merge(runs, ["1of3", "2of3", "3of3"], tmp_path / "1of3") == 2
    assert "is there already: give a new folder with --out" in capsys.readouterr().err
