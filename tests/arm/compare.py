"""Two runs of the same settings, column by column: how far apart the same model is on two machines."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from edge.runs.run_directory import Run

# Lengths of vectors grow with the model, so their difference is relative above 1; all else is absolute.
LENGTHS = ("hidden_norm", "layer_delta", "token_delta")
TOP_IDS, TOP_LOGPROBS = "reference_token_ids", "reference_logprobs"


class Difference(NamedTuple):
    """Largest and root mean square difference of a column's numbers; both infinite where the columns are not
    alike (other text, token, null or length)."""

    table: str
    column: str
    largest: float
    rms: float


NOT_ALIKE = (math.inf, math.inf)


def measure(errors: np.ndarray) -> tuple[float, float]:
    if not errors.size:
        return 0.0, 0.0
    return float(np.abs(errors).max()), float(np.sqrt((errors**2).mean()))


def flat(cells: list) -> tuple[list, list[int | None]]:
    """All numbers of a column one after another, and what must be the same beside them: each cell's length,
    None for null."""
    numbers: list = []
    shape: list[int | None] = []
    for cell in cells:
        values = cell if isinstance(cell, list) else [cell]
        shape.append(None if cell is None else len(values))
        numbers += [] if cell is None else values
    return numbers, shape


def column_difference(name: str, theirs: list, ours: list, kind: pa.DataType) -> tuple[float, float]:
    """Largest and RMS difference; text and integers are the same or not alike, truth values count as 0 and
    1."""
    value = kind.value_type if pa.types.is_list(kind) else kind
    if not (pa.types.is_floating(value) or pa.types.is_boolean(value)):
        return (0.0, 0.0) if theirs == ours else NOT_ALIKE
    (a, shape_a), (b, shape_b) = flat(theirs), flat(ours)
    if shape_a != shape_b or [x is None for x in a] != [x is None for x in b]:
        return NOT_ALIKE
    a, b = (np.asarray([x for x in numbers if x is not None], np.float64) for numbers in (a, b))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return NOT_ALIKE
    scale = np.maximum(np.abs(a), 1.0) if name.startswith(LENGTHS) else 1.0
    return measure((b - a) / scale)


def top_difference(theirs: pa.Table, ours: pa.Table) -> tuple[float, float]:
    """Difference of the log probabilities of the likeliest tokens, token by token: near ties may change
    places, and one that only one side kept is no likelier than the other side's last."""
    errors = []
    for ids_a, p_a, ids_b, p_b in zip(
        *(table.column(name).to_pylist() for table in (theirs, ours) for name in (TOP_IDS, TOP_LOGPROBS)),
        strict=True,
    ):
        if ids_a is None or ids_b is None:
            return NOT_ALIKE
        a, b = dict(zip(ids_a, p_a, strict=True)), dict(zip(ids_b, p_b, strict=True))
        errors += [b[token] - p for token, p in a.items() if token in b]
        errors += [p_b[-1] - p for token, p in a.items() if token not in b]
        errors += [p - p_a[-1] for token, p in b.items() if token not in a]
    return measure(np.asarray(errors, np.float64))


def table_differences(name: str, theirs: pa.Table, ours: pa.Table) -> list[Difference]:
    """Every column but those of time."""
    if theirs.schema != ours.schema or len(theirs) != len(ours):
        return [Difference(name, "(rows and columns)", *NOT_ALIKE)]
    found = []
    for field in theirs.schema:
        if field.name.endswith("_ms") or field.name == TOP_IDS:
            continue
        if field.name == TOP_LOGPROBS:
            values = top_difference(theirs, ours)
        else:
            cells = (table.column(field.name).to_pylist() for table in (theirs, ours))
            values = column_difference(field.name, *cells, field.type)
        found.append(Difference(name, field.name, *values))
    return found


def differences(theirs: Run, ours: Run) -> list[Difference]:
    """Every column of `steps` and `answers` of two finished runs."""
    return [
        *table_differences("steps", theirs.steps(), ours.steps()),
        *table_differences("answers", theirs.answers(), ours.answers()),
    ]
