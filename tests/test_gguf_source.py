"""`edge-export build model.gguf`: what is built from a GGUF file is what is built from its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from benchmarks.gguf_source import NANO, TEXT, TYPES, logits, quantised
from edge.errors import UserError
from edge.questions.prompt import Prompter
from export.build import build
from export.gguf_source import GgufCheckpoint
from export.verify import verify
from tests.conftest import ROOT

pytestmark = pytest.mark.slow  # many processes or builds


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """model.gguf of a nano model in float32; built once."""
    base, made = tmp_path_factory.mktemp("gguf"), {}

    def get(model: str) -> Path:
        if model not in made:
            (built,) = build(str(ROOT / "models/nano" / model), ["gguf-f32"], base / model)
            made[model] = built.artifact.weights
        return made[model]

    return get


@pytest.mark.parametrize("model", NANO)
def test_the_way_through_gguf_changes_no_tensor(model, full, tmp_path):
    """checkpoint -> gguf-f32 -> onnx-fp32 has the bytes of checkpoint -> onnx-fp32, rope tables as well."""
    (direct,) = build(str(ROOT / "models/nano" / model), ["onnx-fp32"], tmp_path / "direct")
    (through,) = build(str(full(model)), ["onnx-fp32"], tmp_path / "through")
    for name in ("model.onnx", "model.onnx.data"):
        assert (direct.artifact.path / name).read_bytes() == (through.artifact.path / name).read_bytes()
    ours, theirs = through.artifact.manifest, direct.artifact.manifest
    assert ours.model == theirs.model
    assert ours.source == "model.gguf" and ours.source_types == {"F32": sum(ours.source_types.values())}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("model", NANO)
def test_a_quantised_file_is_built_of_its_dequantised_weights(model, kind, full, tmp_path):
    """onnx-fp32 from the file equals llama.cpp on the same weights in float32.

    For gemma llama.cpp looks GELU up in a table of half precision (tests/test_parity_llamacpp.py): at most
    3.6e-3, as measured in docs/measurements/closeness-from-gguf-2026-11-27.md.
    """
    file = quantised(full(model), kind, tmp_path / "quantised.gguf")
    built = build(str(file), ["onnx-fp32", "gguf-f32"], tmp_path / "out")
    ids = list(Prompter(built[0].artifact, "raw").prompt(TEXT).ids)
    ours, theirs = (logits(one.artifact, ids) for one in built)
    assert np.abs(ours - theirs).max() < (4e-3 if model == "nano-gemma3" else 1e-3)
    assert built[0].artifact.manifest.source_types.get(kind, 0) > 0


def test_llama3_scaling_comes_back_from_its_factors(checkpoints, tmp_path):
    """The file holds numbers that divide frequencies; the configuration has the four numbers behind them."""
    folder = checkpoints("llama3")
    (file,) = build(str(folder), ["gguf-f32"], tmp_path)
    with GgufCheckpoint(file.artifact.weights) as found:
        scaling = found.config["rope_scaling"]
    wanted = json.loads((folder / "config.json").read_text())["rope_scaling"]
    assert {key: scaling[key] for key in wanted if key in scaling} == wanted


def rewritten(
    source: Path, out: Path, drop: str = "", extra: str = "", keys: Mapping[str, str] | None = None
) -> Path:
    """A copy of a file without one tensor, with one more, or with other values of some keys."""
    reader = GGUFReader(source)
    writer = GGUFWriter(out, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = (keys or {}).get(name, field.contents())
            writer.add_key_value(name, value, field.types[0], field.types[-1])
    for tensor in reader.tensors:
        if tensor.name != drop:
            writer.add_tensor(tensor.name, tensor.data)
    if extra:
        writer.add_tensor(extra, np.ones(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize(
    ("drop", "extra", "words"),
    [
        ("blk.0.attn_q.weight", "", "has no tensor blk.0.attn_q.weight"),
        ("token_embd.weight", "", "has no tensor token_embd.weight"),
        ("", "blk.0.attn_q.bias", "has the tensor blk.0.attn_q.bias, which the architecture llama"),
    ],
)
def test_a_file_with_other_tensors_than_the_model_is_refused(drop, extra, words, full, tmp_path):
    file = rewritten(full("nano-llama"), tmp_path / "other.gguf", drop, extra)
    with pytest.raises(UserError, match=words):
        build(str(file), ["onnx-fp32"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_artifact_of_a_quantised_file_is_verified_against_transformers(full, tmp_path):
    """transformers gets the dequantised weights; the prompts are its own."""
    file = quantised(full("nano-qwen3"), "Q4_1", tmp_path / "quantised.gguf")
    build(str(file), ["onnx-fp32"], tmp_path / "out")
    (result,) = verify(tmp_path / "out", source=str(file), threads=1)
    assert result.passed, result


def resident(path: Path) -> int:
    """Bytes of a file that this process has mapped and resident."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


def test_what_is_read_of_a_file_does_not_stay_in_memory(full):
    file = full("nano-qwen3")
    with GgufCheckpoint(file) as checkpoint:
        largest = 0
        for name in checkpoint.names():
            for _ in checkpoint.row_blocks(name, checkpoint.shape(name)):
                largest = max(largest, resident(file))
    assert largest < file.stat().st_size / 20
