"""Error and size of references that keep K tokens: `python -m benchmarks.kl_gap --work DIR`.

Full-precision answers to the embedded questions are stepped through onnx-int8 and onnx-int4 beside
onnx-fp32. At each position the bound from the K most likely tokens and one bucket for the rest is set
against KL over whole logits, with log-probabilities kept in float32 and in float16. Bytes are those of the
reference's columns alone in a part as runs write it, also with token ids spread at random over a vocabulary
of 128,256, which no encoding can shorten.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from edge.artifact import Artifact
from edge.backends.base import Backend, Runtime
from edge.backends.runtime import open_backend
from edge.precision import FULL
from edge.questions.prompt import Prompter
from edge.questions.question import EMBEDDED, read_questions
from edge.runs.parts import write_table
from edge.signals.comparison import TopK, kl_exact, kl_to_reference, top_k
from edge.signals.definitions import Scratch, output_signals
from edge.signals.taps import Array
from export.build import build

MODELS = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")
QUANTISED = ("onnx-int8", "onnx-int4")
KEPT = (16, 64, 256, 1024, 4096)
WIDE = 128_256  # Llama 3's vocabulary
TYPES = {"float32": np.float32, "float16": np.float16}
DAY = "2026-01-01"


class Position(NamedTuple):
    """Logits [V] of the full and of the quantised model before one token."""

    full: Array
    quantised: Array


class Gap(NamedTuple):
    """Exact KL and its bound over all positions, in nats."""

    kl: float  # mean of the exact KL
    mean: float  # mean of exact - bound
    largest: float  # largest exact - bound
    half_error: float  # largest change of the bound by keeping log-probabilities in float16
    half_excess: float  # largest bound - exact with log-probabilities in float16


def positions(
    full: Backend, quantised: Backend, prompts: Sequence[Sequence[int]], tokens: int
) -> Iterator[Position]:
    """Positions of the full model's greedy answers of at most `tokens` tokens.

    The logits are views that the next step overwrites.
    """
    stop = frozenset(full.spec.stop_ids)
    for prompt in prompts:
        token = -1
        for backend in (full, quantised):
            backend.rewind(0)
        for step in range(tokens):
            one, other = (
                backend.step(token) if step else backend.prefill(prompt) for backend in (full, quantised)
            )
            yield Position(one.logits, other.logits)
            token = int(one.logits.argmax())
            if token in stop:
                break


def rounded(kept: TopK, kind: type[np.floating]) -> TopK:
    """The distribution with log-probabilities rounded to this type, as a file would keep them."""
    return kept._replace(logprobs=kept.logprobs.astype(kind).astype(np.float32))


def measure(steps: Iterator[Position]) -> tuple[dict[int, Gap], dict[int, list[TopK]]]:
    """Gaps and kept distributions by K."""
    scratch = Scratch()
    values: dict[int, list[tuple[float, float, float]]] = {k: [] for k in KEPT}
    distributions: dict[int, list[TopK]] = {k: [] for k in KEPT}
    for step in steps:
        one, other = (output_signals(logits, scratch).log_normaliser for logits in step)
        exact = kl_exact(step.full, one, step.quantised, other)
        for k in KEPT:
            kept = top_k(step.full, one, k)
            bounds = (kl_to_reference(rounded(kept, kind), step.quantised, other) for kind in TYPES.values())
            values[k].append((exact, *bounds))
            distributions[k].append(kept)
    gaps = {}
    for k, rows in values.items():
        exact_kl, bound, half = np.array(rows).T
        gap = exact_kl - bound
        gaps[k] = Gap(
            float(exact_kl.mean()),
            float(gap.mean()),
            float(gap.max()),
            float(np.abs(half - bound).max()),
            float((half - exact_kl).max()),
        )
    return gaps, distributions


def bytes_each(kept: Sequence[TopK], kind: type[np.floating], vocabulary: int = 0) -> float:
    """Bytes a token of the reference's columns; ids are spread at random over a `vocabulary` above 0."""
    spread = np.random.default_rng(1).permutation(vocabulary or 1 << 16).astype(np.int32)
    ids = [spread[each.ids] if vocabulary else each.ids for each in kept]
    table = pa.table(
        {
            "reference_token_ids": pa.array(ids, pa.list_(pa.int32())),
            "reference_logprobs": pa.array(
                [each.logprobs.astype(kind) for each in kept], pa.list_(pa.from_numpy_dtype(kind))
            ),
            "reference_rest": pa.array([each.rest for each in kept], pa.float32()),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.parquet"
        write_table(path, table)
        return path.stat().st_size / len(kept)


def open_models(artifacts: Path, precision: str, capacity: int) -> tuple[Artifact, Backend, Backend]:
    """The full-precision artifact, its backend and the quantised model's."""
    one, other = (Artifact.open(artifacts / name) for name in (FULL, precision))
    return one, *(open_backend(each, Runtime(1), capacity, print) for each in (one, other))


def measure_model(
    artifacts: Path, precision: str, limit: int | None, tokens: int
) -> tuple[dict[int, Gap], dict[int, list[TopK]]]:
    """Gaps and kept distributions by K along the answers to the embedded questions."""
    opened, full, quantised = open_models(artifacts, precision, 512)
    prompter = Prompter(opened, None, DAY)
    questions = itertools.islice(read_questions(EMBEDDED), limit)
    prompts = [prompter.prompt(question.question).ids for question in questions]
    try:
        return measure(positions(full, quantised, prompts, tokens))
    finally:
        full.close()
        quantised.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for artifacts (0.1 GB)")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result: dict[str, object] = {}
    print(
        "| model | precision | mean KL | K | gap, mean | gap, largest | largest error of float16 "
        "| bound above KL, float16 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for model in options.models:
        artifacts = options.work / model / "artifacts"
        build(model, [FULL, *QUANTISED], artifacts)
        for precision in QUANTISED:
            gaps, kept = measure_model(artifacts, precision, options.limit, options.tokens)
            for k, gap in gaps.items():
                print(
                    f"| {model} | {precision} | {gap.kl:.3g} | {k} | {gap.mean:.2g} | {gap.largest:.2g} | "
                    f"{gap.half_error:.2g} | {gap.half_excess:.2g} |",
                    flush=True,
                )
            result[f"{model} {precision}"] = {k: gap._asdict() for k, gap in gaps.items()}
        sizes = {
            k: {
                f"{name}{' wide' if wide else ''}": bytes_each(kept[k], kind, wide)
                for wide in (0, WIDE)
                for name, kind in TYPES.items()
            }
            for k in KEPT
        }
        for k, row in sizes.items():
            texts = ", ".join(f"{name} {size:.0f}" for name, size in row.items())
            print(f"bytes a token, {model}, K={k}: {texts}", flush=True)
        result[f"{model} bytes"] = sizes
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
