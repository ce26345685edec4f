"""`edge demo`: what it runs and what it may remove (tests/test_docs.py and tests/test_wheel.py run it)."""

from __future__ import annotations

import pytest

from edge.cli.demo import commands, embedded, remove_runs
from edge.errors import UserError
from tests.conftest import tree


def test_every_embedded_model_is_built_traced_in_three_precisions_and_forced(tmp_path):
    lines = list(
        commands(embedded(None), tmp_path / "models", tmp_path / "runs", tmp_path / "report.html", 5, False)
    )
    models = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")
    assert [line[2] for line in lines if line[1] == "build"] == list(models)
    runs = {line[line.index("--out") + 1] for line in lines if line[1] in ("run", "force")}
    names = ("fp32", "int8", "int4", "int8-forced", "int4-forced")
    assert runs == {str(tmp_path / "runs" / model / name) for model in models for name in names}
    assert runs == set(lines[-1][2:-2])  # all of them are reported
    assert all("--limit" in line for line in lines if line[1] == "run")
    assert not any("--force" in line for line in lines)


def test_models_are_embedded_ones_each_once():
    assert embedded(["nano-qwen3", "nano-llama", "nano-qwen3"]) == ["nano-qwen3", "nano-llama"]
    with pytest.raises(
        UserError, match=r"--model is 'qwen3-1\.7b', which is not embedded: choose from nano-llama"
    ):
        embedded(["qwen3-1.7b"])


def test_to_begin_anew_removes_runs_of_a_demo_and_nothing_else(tmp_path):
    for folder in ("nano-llama/fp32", "nano-llama/int4", "nano-llama/mine", "nano-qwen2/fp32"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "run.json").write_text("{}")
    (tmp_path / "nano-llama/int4/run.json").rename(tmp_path / "nano-llama/int4/thesis.txt")
    remove_runs(tmp_path, ["nano-llama"])
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
