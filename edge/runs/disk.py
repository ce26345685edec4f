"""Room on the disk: what a run will take, checked before anything is written.

The figures are upper estimates, checked against measurements of whole runs (docs/memory.md).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa

from edge.artifact import ModelSpec
from edge.errors import UserError
from edge.machine.device import amount
from edge.runs.columns import steps_schema
from edge.signals.groups import VECTORS
from edge.signals.metrics import METRICS

PACKED = 0.8  # bytes on disk over the bytes of a row's numbers (docs/performance.md)
TEXT_BYTES = 16  # texts and list lengths of a row
PART_BYTES = 64 << 10  # size of files with a single answer, without its numbers


def disk_needed(
    spec: ModelSpec,
    rows: int,
    answers: int,
    *,
    reference_k: int = 0,
    forced: bool = False,
    taps: bool = True,
) -> int:
    """Bytes of a run with `rows` rows of `steps`, each with `reference_k` kept tokens, and `answers`."""
    columns = steps_schema(reference=reference_k > 0, forced=forced)
    scalars = sum(not pa.types.is_list(column.type) for column in columns)
    vectors = vector_values(spec) if taps else 0
    row = 4 * scalars + TEXT_BYTES + PACKED * 4 * (vectors + 2 * reference_k)
    return round(rows * row + answers * (PART_BYTES + 4 * vectors))


def vector_values(spec: ModelSpec) -> int:
    """The most numbers that the vector columns of one row hold."""
    return sum(metric.shape.size(spec) for metric in METRICS if metric.name in VECTORS)


def check_disk(folder: Path, needed: int, longest: int | None, free: int | None = None) -> None:
    """Raises UserError when a run of `needed` bytes does not fit at `folder`.

    Its answers have at most `longest` tokens, None where another run decides their length. `free` bytes are
    looked up where they are not given.
    """
    if free is None:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
    if needed <= free:
        return
    if longest is None:
        raise UserError(
            f"the run takes up to {amount(needed)} and {amount(free)} are free at {folder}: "
            "free space, follow a run of fewer questions, or start all the same with --anyway"
        )
    raise UserError(
        f"answers of {longest} tokens at most take up to {amount(needed)} "
        f"and {amount(free)} are free at {folder}: "
        f"shorten them to {longest * free // needed} (--max-new-tokens), ask fewer questions (--limit), "
        "or start all the same with --anyway"
    )
