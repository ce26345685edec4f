"""Run directories with planted truths: slope, class, dispersion, and how output entropy goes with the truth
of an answer.

Summaries are computed here for all answers at once, apart from edge.signals.streaming, which test_paper
compares with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from edge.artifact import ModelSpec
from edge.runs.columns import answers_schema, mean_column, steps_schema
from edge.runs.manifest import RunManifest
from edge.runs.provenance import ArtifactIdentity, QuestionSet, RunSettings
from edge.runs.record import to_array
from edge.runs.run_directory import Run, RunWriter
from edge.signals.groups import BY_NAME, SCALARS, VECTORS
from edge.signals.streaming import SHORTEST, SeriesSummary, window

PART_ROWS = 4096
PROMPT = 12
VOCABULARY = 150


@dataclass(frozen=True)
class Planted:
    """What is true of the model that answers: output entropy is `entropy` + `slope` (t/N - 1/2) on the
    average, with SD `between` over questions and `within` over tokens; `effect` is added to it in untrue
    answers, which come with probability `untrue`. Attention entropy is `profile` by layer plus `spread` (t/N
    - 1/2); head dispersion is `dispersion`."""

    entropy: float = 1.5
    slope: float = 0.0
    between: float = 0.3
    within: float = 0.3
    effect: float = 0.0
    untrue: float = 0.4
    profile: tuple[float, ...] = (2.0, 1.0, 1.5)
    spread: float = 0.0
    dispersion: float = 0.5
    heads: int = 2

    @property
    def layers(self) -> int:
        return len(self.profile)

    def shift(self, tokens: int) -> float:
        """Early to late shift that the slope makes: windows of 20% lie so far apart."""
        return self.slope * (tokens - window(tokens)) / tokens


def summaries(series: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of SeriesSummary of each row of [Q, N]."""
    n = series.shape[1]
    if n == 0:
        return {part: np.full(len(series), np.nan) for part in SeriesSummary._fields}
    t = np.arange(n) - (n - 1) / 2
    slope = series @ t / (t @ t) if n > 1 else np.full(len(series), np.nan)
    early, late = series[:, : window(n)].mean(axis=1), series[:, -window(n) :].mean(axis=1)
    if n < SHORTEST:
        early, late = np.full(len(series), np.nan), np.full(len(series), np.nan)
    ranks = series.argsort(axis=1).argsort(axis=1) - (n - 1) / 2
    p10, p50, p90 = np.percentile(series, (10, 50, 90), axis=1)
    spearman = ranks @ t / (t @ t) if n > 1 else np.full(len(series), np.nan)
    return {
        "mean": series.mean(axis=1),
        "sd": series.std(axis=1),
        "min": series.min(axis=1),
        "max": series.max(axis=1),
        "slope": slope * n,
        "slope_per_token": slope,
        "p10": p10,
        "p50": p50,
        "p90": p90,
        "early": early,
        "late": late,
        "shift": late - early,
        "spearman": spearman,
    }


def tables(
    truth: Planted, rng: np.random.Generator, first: int, count: int, tokens: int, untrue: np.ndarray
) -> tuple[pa.Table, pa.Table]:
    """steps and answers of `count` questions."""
    shape, depth = (count, tokens), truth.layers
    place = np.arange(tokens) / tokens - (tokens - 1) / (2 * tokens)

    def noise(*extra: int, size: float = 0.1) -> np.ndarray:
        return rng.normal(0, size, (*shape, *extra)) + rng.normal(0, size, (count, 1, *extra))

    scalars = {
        "output_entropy": truth.entropy
        + truth.slope * place
        + rng.normal(0, truth.between, (count, 1))
        + rng.normal(0, truth.within, shape)
        + truth.effect * untrue[:, None],
        "varentropy": 1 + noise(),
        "top1_probability": 0.5 + noise(),
        "top1_top2_gap": 0.3 + noise(),
        "surprisal": 1 + noise(),
    }
    vectors = {
        "attention_entropy": 2 + noise(depth * truth.heads),
        "sink_mass": 0.3 + noise(depth * truth.heads),
        "attention_entropy_layer": np.array(truth.profile) + truth.spread * place[:, None] + noise(depth),
        "head_dispersion": truth.dispersion + noise(depth),
        "head_divergence": 0.2 + noise(depth),
        "hidden_norm": 10 + noise(depth + 1),
        "layer_delta": 5 + noise(depth),
        "layer_cosine": 0.9 + noise(depth),
        "token_delta": 3 + noise(depth + 1),
        "token_cosine": 0.8 + noise(depth + 1),
    }
    # Metrics about which nothing is planted.
    model = spec_of(truth)
    rest = {name: np.full((*shape, BY_NAME[name].shape.size(model)), 0.5) for name in VECTORS}
    vectors = rest | vectors
    bound = np.log(PROMPT + np.arange(tokens))
    means = {name: values.mean(axis=2) for name, values in vectors.items() if name != "attention_entropy"}
    means |= {
        "attention_entropy": means.pop("attention_entropy_layer"),
        "output_entropy_normalised": scalars["output_entropy"] / 5,
    }
    means["attention_entropy_normalised"] = means["attention_entropy"] / bound
    index, total = np.arange(first, first + count), count * tokens
    words = rng.spawn(1)[0].integers(0, VOCABULARY, total).astype(np.int32)
    columns = {
        "question_index": np.repeat(index, tokens),
        "question_id": ["q"] * total,
        "step": np.tile(np.arange(tokens), count),
        "phase": ["generation"] * total,
        "position": np.tile(PROMPT - 1 + np.arange(tokens), count),
        "token_id": words,
        "token": [f"w{word} " for word in words],
        "step_ms": np.ones(total),
    } | {name: values.ravel() for name, values in scalars.items()}
    for name, values in vectors.items():
        undefined = name.startswith("token_")
        columns[name] = [
            None if undefined and i % tokens == 0 else cell
            for i, cell in enumerate(values.reshape(total, -1))
        ]
    steps_of = steps_schema(reference=False, forced=False)
    steps = pa.Table.from_arrays(
        [to_array(list(columns[f.name]), f.type) for f in steps_of], schema=steps_of
    )
    answers = {
        "question_index": index,
        "question_id": ["q"] * count,
        "question": [f"Question {i}?" for i in index],
        "category": ["c"] * count,
        "prompt_ids": [np.arange(PROMPT, dtype=np.int32)] * count,
        "prompt_text": ["p"] * count,
        "answer": ["a"] * count,
        "tokens": [tokens] * count,
        "stop_reason": ["length"] * count,
        "note": [""] * count,
        "kv_bytes": [2 * depth * 8 * 4 * (PROMPT + tokens - 1)] * count,
        "prefill_ms": [1.0] * count,
        "decode_ms": [1.0] * count,
    }
    for name in SCALARS:
        series = scalars.get(name, means.get(name))
        for part, values in summaries(series[:, 1:] if name.startswith("token_") else series).items():
            answers[f"{name}_{part}"] = values
    for name in VECTORS:
        values = vectors[name][:, 1:] if name.startswith("token_") else vectors[name]
        answers[mean_column(name)] = list(values.mean(axis=1)) if values.size else [None] * count
    answers_of = answers_schema(forced=False)
    return steps, pa.Table.from_arrays(
        [to_array(list(answers[f.name]), f.type) for f in answers_of], schema=answers_of
    )


def spec_of(truth: Planted) -> ModelSpec:
    return ModelSpec(
        "llama", truth.layers, 8, truth.heads, 1, 8, VOCABULARY, 4096, (0,) * truth.layers, (1,)
    )


def write_run(
    folder: Path,
    truth: Planted,
    seed: int,
    questions: int,
    tokens: int,
    model_id: str = "planted",
    precision: str = "onnx-fp32",
) -> tuple[Run, np.ndarray]:
    """The run, and which of its answers are untrue [questions]."""
    rng = np.random.default_rng(seed)
    untrue = rng.random(questions) < truth.untrue
    spec = spec_of(truth)
    artifact = ArtifactIdentity(model_id=model_id, precision=precision, taps="rows", tokenizer_sha256="t")
    settings = RunSettings(prompt="raw", shard="1/1", reference_k=0, temperature=0.0)
    chosen = QuestionSet("q", questions, questions)
    size = max(1, PART_ROWS // tokens)
    with RunWriter(folder, RunManifest("run", artifact, spec, settings, chosen, None)) as writer:
        for first in range(0, questions, size):
            count = min(size, questions - first)
            writer.write_part(*tables(truth, rng, first, count, tokens, untrue[first : first + count]))
        writer.finish()
    return Run.open(folder), untrue
