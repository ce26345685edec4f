"""Differences between onnx-fp32 built from a quantised GGUF file and llama.cpp:

    python -m benchmarks.gguf_source --file path/to/model.Q4_1.gguf --json runs/gguf_source.json

`same weights` is llama.cpp on the weights dequantised to float32: the build is right where it is small.
`the file` is llama.cpp on the quantised file itself, whose kernels also round what the layers compute with
to 8 bits. Both have a float32 cache. Numbers are over all logits at each position of one text; KL is of the
file to the artifact, in nats. The embedded models are quantised by llama.cpp first; `--file` adds others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import llama_cpp.llama_cpp as lib
import numpy as np

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.gguf_file import open_artifact
from edge.backends.runtime import open_backend
from edge.errors import ignore
from edge.precision import LLAMA_CPP
from edge.questions.prompt import Prompter
from edge.registry import read_registry
from edge.signals.comparison import kl_exact
from edge.signals.definitions import Scratch, output_signals
from edge.signals.taps import Array
from export.build import build

TEXT = "Do bats see? Bats are not blind. All bats can see, and many also use the echo of their calls."
NANO = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")
# llama_ftype of files that people share, each with another way to pack four to six bits.
TYPES = {"Q4_1": 3, "Q5_0": 8, "IQ4_NL": 25, "Q6_K": 18}


class Gap(NamedTuple):
    """Largest and root-mean-square difference of a logit, and the mean KL in nats."""

    largest: float
    rms: float
    kl: float


def quantised(source: Path, name: str, out: Path) -> Path:
    """The file in one of TYPES, made by llama.cpp's own quantiser."""
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = TYPES[name], 1
    if code := lib.llama_model_quantize(str(source).encode(), str(out).encode(), params):
        raise RuntimeError(f"llama.cpp cannot quantise {source} to {name}: {code}")
    return out


def logits(artifact: Artifact, ids: list[int]) -> Array:
    """[N, V] at each position of the ids, with an F32 cache."""
    cache = "f32" if artifact.manifest.backend == LLAMA_CPP else None
    backend = open_backend(artifact, Runtime(threads=1, kv_cache=cache, prepack=False), 64, ignore)
    try:
        rows = [backend.prefill(ids[:1]).logits.copy()]
        rows += [backend.step(token).logits.copy() for token in ids[1:]]
        return np.stack(rows)
    finally:
        backend.close()


def gap(ours: Array, theirs: Array) -> Gap:
    """Of logits [N, V] to the same positions' logits."""
    scratch, kl = Scratch(), []
    for pair in zip(theirs, ours, strict=True):
        one, other = (output_signals(row, scratch).log_normaliser for row in pair)
        kl.append(kl_exact(pair[0], one, pair[1], other))
    difference = ours.astype(np.float64) - theirs
    return Gap(float(np.abs(difference).max()), float(np.sqrt((difference**2).mean())), float(np.mean(kl)))


def gaps(file: Path, work: Path) -> tuple[Gap, Gap]:
    """Of onnx-fp32 built from the file: to the same weights in float32, and to the file itself."""
    onnx, full = build(str(file), ["onnx-fp32", "gguf-f32"], work)
    ids = list(Prompter(onnx.artifact, "raw").prompt(TEXT).ids)
    ours = logits(onnx.artifact, ids)
    return gap(ours, logits(full.artifact, ids)), gap(ours, logits(open_artifact(file), ids))


def files(work: Path, others: list[Path]) -> Iterator[tuple[str, str, Path]]:
    """Model, type and path of each file."""
    registry = read_registry()
    for model in NANO:
        source = build(str(registry[model].checkpoint), ["gguf-f32"], work / model)[0].artifact.weights
        for name in TYPES:
            yield model, name, quantised(source, name, work / f"{model}.{name}.gguf")
    for file in others:
        yield file.stem, "", file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", type=Path, action="append", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print("| model | type | same weights: largest | rms | the file: largest | rms | KL |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for model, kind, file in files(Path(folder), options.file):
            same, whole = gaps(file, Path(folder) / f"{file.name}-built")
            rows.append({"model": model, "type": kind, "same": same._asdict(), "file": whole._asdict()})
            print(
                f"| {model} | {kind} | {same.largest:.1e} | {same.rms:.1e} | {whole.largest:.2f} | "
                f"{whole.rms:.3f} | {whole.kl:.1e} |",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
