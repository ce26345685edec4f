"""The question browser's data: every answer of a model's runs, packed so that thousands fit into a page.

Tokens are indices into one vocabulary a model; entropies and surprisals are hundredths of a nat, KL
thousandths. What the page can work out (a forced run's tokens, a greedy token's probability) is left out.
`questions.js` reads this form.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from edge.analysis.intervals import Float64
from edge.report.model import ModelGroup, RunData

SCALE = 100.0  # of entropy, surprisal and probability
KL_SCALE = 1000.0
TOP_SHARE = (
    99.0  # percentile of entropy that has the strongest colour: a single outlier must not pale all others
)
GREEDY_TOLERANCE = 0.005


class Packed(NamedTuple):
    """One run's answers in the order of the questions. An answer is [tokens or 0, entropies, surprisals,
    top-1 probabilities or 0, KL or 0, stop reason, text or 0]: 0 for tokens stands for those of the
    reference, for probabilities for exp(-surprisal), for text for the tokens joined. Of single
    probabilities, 0 is exp(-surprisal) and any other number one more than hundredths."""

    name: str
    forced: bool
    answers: list[list[Any]]


def browser_data(group: ModelGroup) -> dict[str, Any]:
    """What one model's browser needs, as plain values for JSON."""
    table = group.reference.run.answers(["question_index", "question", "category"])
    vocabulary: dict[str, int] = {}
    reasons: dict[str, int] = {}
    packed: list[Packed] = []
    reference_tokens: dict[int, list[int]] = {}
    entropies: list[int] = []
    for data in group.runs:
        run, tokens = pack(data, vocabulary, reasons, reference_tokens)
        packed.append(run)
        reference_tokens = reference_tokens or tokens
        entropies += [entropy for answer in run.answers for entropy in answer[1]]
    labels = [data.study.labels if data.study is not None else None for data in group.runs]
    return {
        # By run: the outcome of each answer in the order of the questions, "" where nobody has judged it.
        "outcomes": [
            [found.outcome.get(index, "") for index in table.column(0).to_pylist()] if found else 0
            for found in labels
        ],
        "judges": [found.source if found else 0 for found in labels],
        "questions": [
            list(row) for row in zip(*(table.column(i).to_pylist() for i in range(3)), strict=True)
        ],
        "vocabulary": list(vocabulary),
        "reasons": list(reasons),
        "context": group.spec.context,
        "hot": max(1, round(float(np.percentile(entropies, TOP_SHARE)))) if entropies else 1,
        "runs": [run._asdict() for run in packed],
    }


def pack(
    data: RunData, vocabulary: dict[str, int], reasons: dict[str, int], reference: dict[int, list[int]]
) -> tuple[Packed, dict[int, list[int]]]:
    """A run's answers, and its tokens by question; new tokens and stop reasons are added to the two
    indices."""
    answers = data.run.answers(["question_index", "answer", "stop_reason"])
    rows = {row[0]: row[1:] for row in zip(*(answers.column(i).to_pylist() for i in range(3)), strict=True)}
    columns = ["token", "output_entropy", "surprisal", "top1_probability", *(["kl"] if data.forced else [])]
    found: dict[int, list[Any]] = {}
    tokens: dict[int, list[int]] = {}
    for index, table in data.run.each_question(columns):
        answer, reason = rows[index]
        pieces = table.column("token").to_pylist()
        tokens[index] = [vocabulary.setdefault(piece, len(vocabulary)) for piece in pieces]
        surprisal, top1 = floats(table, "surprisal"), floats(table, "top1_probability")
        other = np.abs(np.exp(-surprisal) - top1) >= GREEDY_TOLERANCE  # the token is not the most likely one
        kl = floats(table, "kl") if data.forced else np.array([math.nan])
        shown = "".join(pieces[:-1] if reason == "stop_token" else pieces)
        found[index] = [
            0 if reference.get(index) == tokens[index] else tokens[index],
            whole(floats(table, "output_entropy") * SCALE),
            whole(surprisal * SCALE),
            whole(np.where(other, np.rint(top1 * SCALE) + 1, 0)) if other.any() else 0,
            0 if np.isnan(kl).any() else whole(kl * KL_SCALE),
            reasons.setdefault(reason, len(reasons)),
            0 if answer == shown or data.forced else answer,
        ]
    return Packed(data.name, data.forced, [found[index] for index in sorted(found)]), tokens


def floats(table: pa.Table, column: str) -> Float64:
    values: Float64 = table.column(column).to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def whole(values: Float64) -> list[int]:
    rounded: list[int] = np.rint(np.nan_to_num(values, posinf=1e6)).astype(np.int64).tolist()
    return rounded
