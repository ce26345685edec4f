"""The wheel, built and installed into an empty environment, does what a clone does."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge.runs.run_directory import Run
from export.__main__ import NEEDED
from tests.conftest import ROOT
from tests.test_packaging import PROJECT

LARGEST = 25_000_000  # bytes
# What the installed commands may see of this process: not this tree.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
}


def run(command: list[str | Path], folder: Path, code: int = 0) -> str:
    """Both outputs of a command that ends with this code."""
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT], folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An empty environment's Python."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", folder / "venv"], folder)
    return folder / "venv" / "bin" / "python"


@pytest.mark.slow
def test_the_wheel_holds_models_questions_and_types_and_is_small(wheel):
    assert wheel.stat().st_size < LARGEST
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert {
            "edge/py.typed",
            "export/py.typed",
            "edge/data/questions.csv",
            "edge/models/registry.toml",
        } <= names
        assert not {
            name
            for name in names
            if name.partition("/")[0] in ("tests", "tools", "benchmarks", "docs", "models")
        }
        for path in sorted((ROOT / "models" / "nano").rglob("*")):
            if path.is_file():
                assert archive.read(f"edge/models/{path.relative_to(ROOT / 'models')}") == path.read_bytes()
        for package in ("edge", "export"):
            sources = {
                str(p.relative_to(ROOT))
                for p in (ROOT / package).rglob("*")
                if p.suffix not in (".pyc", "") and p.is_file()
            }
            assert sources <= names


@pytest.mark.slow
def test_the_demo_passes_where_nothing_but_the_wheel_is_installed(wheel, python, tmp_path):
    """One of the four models and a few questions: what is left out is the same again."""
    commands = python.parent
    run([python, "-m", "pip", "install", "--quiet", f"{wheel}[export,analysis]"], tmp_path)
    demo = [commands / "edge", "demo", "--model", "nano-gemma3"]
    said = run([*demo, "--limit", "3"], tmp_path)
    assert "Open runs/demo/report.html" in said
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 1_000_000
    for name in ("fp32", "int8", "int4", "int8-forced", "int4-forced"):
        assert Run.open(tmp_path / "runs" / "demo" / "nano-gemma3" / name).answers().num_rows == 3
    refused = run([*demo, "--limit", "2"], tmp_path, code=2)
    assert "already built" in refused
    assert "runs/demo/nano-gemma3/fp32 holds another run (it differs in" in refused
    # Without the exporter's libraries both commands say so in a sentence.
    run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "ml_dtypes"], tmp_path)
    for command in (
        ["edge-export", "build", "nano-llama", "--to", "onnx-fp32", "--out", "x"],
        ["edge", "demo"],
    ):
        refused = run([commands / command[0], *command[1:]], tmp_path, code=2)
        assert refused.startswith(
            f"error: {' '.join(command[: 1 if len(command) > 2 else 2])} needs ml_dtypes: install the extra"
        )
        assert refused.count("\n") == 1


def test_what_the_exporter_asks_for_is_what_its_extra_installs():
    extra = {need.split(">=")[0].replace("-", "_") for need in PROJECT["optional-dependencies"]["export"]}
    assert set(NEEDED) == extra
