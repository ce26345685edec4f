"""The question browser's data: every answer of a model's runs, packed so that thousands fit into a page.

A token is an index into the page's vocabulary, which has an entry for each id and text. Entropies and
surprisals are hundredths of a nat, KL thousandths. What the page can compute (a forced run's tokens, a
greedy token's probability) is left out. `questions.js` reads this form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.intervals import Float64
from edge.report.model import ModelGroup, RunData

SCALE = 100.0  # of entropy, surprisal and probability
KL_SCALE = 1000.0
# Percentile of entropy that has the strongest colour: one outlier must not make all other tokens pale.
STRONGEST_PERCENTILE = 99.0
GREEDY_TOLERANCE = 0.005  # between exp(-surprisal) and the top-1 probability of a greedy token

TokenText = tuple[int, str]  # an id, and what the token adds to an answer


class PackedRun(NamedTuple):
    """One run's answers in the order of the questions.

    An answer is [tokens or 0, entropies, surprisals, top-1 probabilities or 0, KL or 0, stop reason,
    text or 0]. Tokens 0 are those of the reference, probabilities 0 are exp(-surprisal), text 0 is the
    tokens' texts joined. In the list of probabilities 0 is exp(-surprisal); any other number is one more
    than hundredths.
    """

    name: str
    forced: bool
    answers: list[list[Any]]


def browser_data(group: ModelGroup) -> dict[str, Any]:
    """The data of one model's browser, as plain values for JSON."""
    questions = group.reference.run.answers(["question_index", "question", "category"])
    vocabulary: dict[TokenText, int] = {}
    reasons: dict[str, int] = {}
    packed: list[PackedRun] = []
    reference_tokens: dict[int, list[int]] = {}
    entropies: list[int] = []
    for data in group.runs:
        run, tokens = pack(data, vocabulary, reasons, reference_tokens)
        packed.append(run)
        reference_tokens = reference_tokens or tokens
        entropies += [entropy for answer in run.answers for entropy in answer[1]]
    return {
        "outcomes": [outcomes_of(data, questions) for data in group.runs],
        "judges": [
            data.study.labels.source if data.study and data.study.labels else 0 for data in group.runs
        ],
        "questions": [list(row) for row in rows_of(questions)],
        "vocabulary": [text for _, text in vocabulary],
        "reasons": list(reasons),
        "context": group.spec.context,
        "hot": max(1, round(float(np.percentile(entropies, STRONGEST_PERCENTILE)))) if entropies else 1,
        "runs": [run._asdict() for run in packed],
    }


def outcomes_of(data: RunData, questions: pa.Table) -> list[str] | int:
    """The outcome of each answer by question, "" where it has none; 0 for a run without labels."""
    if data.study is None or data.study.labels is None:
        return 0
    return [data.study.labels.outcome.get(index, "") for index in questions.column(0).to_pylist()]


def pack(
    data: RunData, vocabulary: dict[TokenText, int], reasons: dict[str, int], reference: dict[int, list[int]]
) -> tuple[PackedRun, dict[int, list[int]]]:
    """A run's answers, and its tokens by question.

    New tokens and stop reasons are added to `vocabulary` and `reasons`. `reference` has the reference's
    tokens by question.
    """
    table = data.run.answers(["question_index", "answer", "stop_reason"])
    rows = {index: (answer, reason) for index, answer, reason in rows_of(table)}
    columns = ["token_id", "token", "output_entropy", "surprisal", "top1_probability"]
    columns += ["kl"] if data.forced else []
    answers: dict[int, list[Any]] = {}
    tokens: dict[int, list[int]] = {}
    for index, steps in data.run.each_question(columns):
        answer, reason = rows[index]
        pieces = steps.column("token").to_pylist()
        ids = steps.column("token_id").to_pylist()
        tokens[index] = [
            vocabulary.setdefault(token, len(vocabulary)) for token in zip(ids, pieces, strict=True)
        ]
        surprisal, top1 = floats(steps, "surprisal"), floats(steps, "top1_probability")
        unlikely = np.abs(np.exp(-surprisal) - top1) >= GREEDY_TOLERANCE  # not the most likely token
        kl = floats(steps, "kl") if data.forced else np.array([math.nan])
        # Runs of 0.2 have the text of the stop token too.
        joined = {"".join(pieces), "".join(pieces[:-1] if reason == "stop_token" else pieces)}
        answers[index] = [
            0 if reference.get(index) == tokens[index] else tokens[index],
            whole(floats(steps, "output_entropy") * SCALE),
            whole(surprisal * SCALE),
            whole(np.where(unlikely, np.rint(top1 * SCALE) + 1, 0)) if unlikely.any() else 0,
            0 if np.isnan(kl).any() else whole(kl * KL_SCALE),
            reasons.setdefault(reason, len(reasons)),
            0 if answer in joined or data.forced else answer,
        ]
    return PackedRun(data.name, data.forced, [answers[index] for index in sorted(answers)]), tokens


def rows_of(table: pa.Table) -> Iterator[tuple[Any, ...]]:
    """The rows of a table."""
    return zip(*(column.to_pylist() for column in table.columns), strict=True)


def floats(table: pa.Table, column: str) -> Float64:
    """A column as float64, NaN where it is null."""
    values: Float64 = table.column(column).to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def whole(values: Float64) -> list[int]:
    """Values rounded to whole numbers: 0 for NaN, a million for infinity."""
    rounded: list[int] = np.rint(np.nan_to_num(values, posinf=1e6)).astype(np.int64).tolist()
    return rounded
