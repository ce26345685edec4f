"""Pairs of runs: checks, the rows that both hold, and means over tokens with intervals over questions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from edge.analysis.intervals import Float64, Interval, bootstrap
from edge.errors import UserError
from edge.runs.run_directory import Run


def check_pair(full: Run, quantised: Run) -> None:
    """Raise UserError unless both runs are over the same questions, prompts and tokens, and the first is
    free-running."""
    a, b = full.manifest, quantised.manifest
    if a.kind != "run":
        raise UserError(f"{full.folder} is a forced run: give the free-running full-precision run first")
    for what, one, other in (
        ("questions", a.questions.sha256, b.questions.sha256),
        ("vocabularies", a.model.vocabulary, b.model.vocabulary),
        ("layers and heads", (a.model.layers, a.model.heads), (b.model.layers, b.model.heads)),
        ("prompts", a.settings.prompt, b.settings.prompt),
    ):
        if one != other:
            raise UserError(
                f"{full.folder} and {quantised.folder} have different {what}: "
                "compare runs of one model and setting"
            )
    if b.like is not None and b.like.artifact != a.artifact:
        raise UserError(
            f"{quantised.folder} was forced on another run than {full.folder}: "
            f"make one with 'edge force ARTIFACT --like {full.folder}'"
        )


def paired_answers(full: Run, quantised: Run) -> tuple[pa.Table, pa.Table]:
    """Answers of both runs. Raises UserError if their questions or prompts differ.

    Tokenizers in different files, such as a GGUF file and the tokenizer.json of its model, are the same
    where all prompts have the same ids.
    """
    a, b = full.answers(), quantised.answers()
    if not a.column("question_index").equals(b.column("question_index")):
        raise UserError(
            f"{full.folder} and {quantised.folder} hold different questions: trace the same ones"
        )
    if a.column("prompt_ids") != b.column("prompt_ids"):
        one, other = (run.manifest.artifact.tokenizer_sha256 for run in (full, quantised))
        if one != other:
            raise UserError(
                f"{full.folder} and {quantised.folder} have different tokenizers: compare runs of one model"
            )
        raise UserError(
            f"{full.folder} and {quantised.folder} have different prompts: use the same --prompt, --date "
            "and --control-tokens"
        )
    return a, b


def paired_steps(
    full: Run, quantised: Run, columns: list[str], extra: list[str]
) -> tuple[pa.Table, pa.Table]:
    """Steps of both runs, the second with the `extra` columns. Raises UserError if their tokens differ."""
    keys = ["question_index", "step", "token_id"]
    a, b = full.steps([*keys, *columns]), quantised.steps([*keys, *columns, *extra])
    if not a.select(keys).equals(b.select(keys)):
        raise UserError(
            f"{quantised.folder} was forced on other tokens than {full.folder} holds: force it again"
        )
    return a, b


def by_question(values: Float64, questions: Float64) -> tuple[Float64, Float64]:
    """Mean and number of tokens of each question."""
    _, inverse, counts = np.unique(questions, return_inverse=True, return_counts=True)
    return np.bincount(inverse, weights=values) / counts, counts.astype(np.float64)


def weighted(values: Float64, questions: Float64) -> Interval:
    """Mean over tokens, with an interval over questions."""
    return bootstrap(*by_question(values, questions))
