"""TruthfulQA from the hub: its `generation` or `multiple_choice` form, in Parquet or JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from edge.errors import UserError

PARQUET, JSON_LINES = ".parquet", (".jsonl", ".ndjson")
TEXTS = {"Type": "type", "Category": "category", "Source": "source", "Best Answer": "best_answer"}
Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Reads one mapping for each row; raises UserError when the file is missing or damaged."""
    try:
        if path.suffix.lower() == PARQUET:
            # As bytes, since a path need not be UTF-8.
            rows: list[Row] = pq.read_table(pa.memory_map(os.fsencode(path))).to_pylist()
        else:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
            rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError, pa.ArrowException) as error:
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot read the questions {path} ({detail}): give Parquet or JSON lines as the hub has them"
        ) from error
    if not rows:
        raise UserError(f"{path} holds no questions: add at least one row")
    return rows


def cells_of(path: Path, number: int, row: Row) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    """A row's cells under the CSV's names, its true answers and its false answers.

    Raises UserError, naming the row, for a row of neither form.
    """
    try:
        if "mc1_targets" in row:
            best = targets(row["mc1_targets"], 1)
            cells = {"Best Answer": best[0] if best else ""}
            true, false = (targets(row["mc2_targets"], label) for label in (1, 0))
        else:
            cells = {name: text(row.get(key, "")) for name, key in TEXTS.items()}
            true, false = (tuple(map(text, row[key])) for key in ("correct_answers", "incorrect_answers"))
        return cells | {"Question": text(row["question"])}, true, false
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} row {number + 1} is neither the hub's generation nor its multiple_choice form "
            f"({error}): "
            "give question, best_answer, correct_answers and incorrect_answers, or mc1_targets and "
            "mc2_targets"
        ) from error


def targets(raw: Mapping[str, Any], label: int) -> tuple[str, ...]:
    """The choices that have this label: 1 for true, 0 for false."""
    pairs = zip(raw["choices"], raw["labels"], strict=True)
    return tuple(text(choice) for choice, choice_label in pairs if choice_label == label)


def text(value: object) -> str:
    """A text without white space around it; raises TypeError for another value."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value.strip()
