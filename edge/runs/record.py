"""Rows of a run directory's tables, made from the steps of an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from edge.artifact import ModelSpec
from edge.questions.prompt import Prompt, Prompter
from edge.runs.columns import (
    answers_schema,
    has_mean_vector,
    mean_column,
    metrics_of,
    steps_schema,
    storable,
    summarised,
    token_metrics,
)
from edge.signals.comparison import HiddenDistance, TopK
from edge.signals.definitions import Signals, scalars
from edge.signals.metric import Kind, Metric, Source
from edge.signals.streaming import AnswerStatistics

# Why an answer ended: at a stop id, at the longest answer, at one token many times in a row, at the end of
# the context; or its question could not be asked.
STOP_TOKEN, LENGTH, REPETITION, CONTEXT = "stop_token", "length", "repetition", "context"
REFUSED = "refused"


class Step(NamedTuple):
    """One emitted token and the signals of the pass whose logits chose it.

    `position` is that pass's query position, 0-based. `stop_reason` is set on the last step of an answer
    only. `reference` holds the most likely tokens where they are kept. `step_ms` covers pass and reductions.
    """

    step: int
    position: int
    token_id: int
    surprisal: float
    signals: Signals
    reference: TopK | None
    stop_reason: str | None
    step_ms: float

    @property
    def phase(self) -> str:
        return "prompt" if self.step == 0 else "generation"


class ForcedValues(NamedTuple):
    """Values that teacher forcing adds to a step.

    `kl` is NaN where the reference kept no distribution. `hidden` is None unless both models were stepped
    and have taps.
    """

    kl: float
    reference_surprisal: float
    same_top1: bool
    hidden: HiddenDistance | None = None


# The field of TopK that each column of a reference holds.
KEPT = {"reference_token_ids": "ids", "reference_logprobs": "logprobs", "reference_rest": "rest"}


def value_of(metric: Metric, step: Step, forced: ForcedValues | None) -> Any:
    """A metric's cell of one row: a number, or a flat array; None where the step does not have it."""
    name = metric.name
    group: Any
    if metric.source == Source.FORCED:
        group = forced.hidden if forced and metric.kind == Kind.EXACT else forced
    elif metric.kind == Kind.REFERENCE:
        name, group = KEPT[name], step.reference
    else:
        group = step if name == "surprisal" else step.signals.of(metric.source)
    value = None if group is None else getattr(group, name)
    return value.ravel() if metric.is_list and value is not None else value


class AnswerRecord:
    """Collects the steps of one answer; gives its rows when it is over.

    `index`, `question_id`, `question` and `category` are copied into the rows; `cache_bytes_each` is the
    size of one cached number.
    """

    def __init__(
        self,
        spec: ModelSpec,
        prompter: Prompter,
        prompt: Prompt,
        index: int,
        question_id: str,
        question: str,
        category: str,
        *,
        forced: bool = False,
        cache_bytes_each: int = 4,
    ) -> None:
        self.spec, self.prompter, self.prompt = spec, prompter, prompt
        self.index, self.question_id, self.question, self.category = index, question_id, question, category
        self.steps: list[Step] = []
        self.forced: list[ForcedValues] = []
        self.statistics = AnswerStatistics(summarised(forced=forced))
        self._is_forced = forced
        self._cache_bytes_each = cache_bytes_each

    def add(self, step: Step, forced: ForcedValues | None = None) -> None:
        """Adds the next step, with its forced values in a forced run."""
        numbers = scalars(step.signals, step.surprisal, self.spec, step.position)
        if forced is not None:
            self.forced.append(forced)
            numbers += [getattr(forced, name) for name in self.statistics.names[len(numbers) :]]
        self.steps.append(step)
        self.statistics.add(numbers)

    def _cells(self, metric: Metric) -> list[Any]:
        """A metric's cell in each row."""
        forced: Sequence[ForcedValues | None] = self.forced if self._is_forced else [None] * len(self.steps)
        return [value_of(metric, *row) for row in zip(self.steps, forced, strict=True)]

    def _mean_vector(self, metric: Metric) -> np.ndarray[Any, Any] | None:
        """Mean of a list column over the rows that have it."""
        known = [cell for cell in self._cells(metric) if cell is not None]
        return np.asarray(np.mean(known, axis=0, dtype=np.float64)) if known else None

    @property
    def tokens(self) -> list[int]:
        return [step.token_id for step in self.steps]

    @property
    def answer(self) -> str:
        return self.prompter.text(self.tokens)

    @property
    def stop_reason(self) -> str:
        """The reason for the answer's end; without steps REFUSED or CONTEXT: its prompt did not fit."""
        if self.prompt.refused:
            return REFUSED
        return (self.steps[-1].stop_reason or CONTEXT) if self.steps else CONTEXT

    @property
    def note(self) -> str:
        """What is to be known of the question, "" for nothing."""
        if self.steps or self.prompt.refused or self._is_forced:
            return self.prompt.note
        length = f"the question has {len(self.prompt.ids)} tokens and the context {self.spec.context}"
        return "; ".join(filter(None, (self.prompt.note, length)))

    def steps_columns(self, *, reference: bool, alone: bool = False) -> dict[str, list[Any]]:
        """Columns of `steps`; NaN and None stand for null, arrays for list cells.

        `token` is what a token adds to the answer's text; with `alone` the token by itself.
        """
        steps = self.steps
        columns: dict[str, list[Any]] = {
            "question_index": [self.index] * len(steps),
            "question_id": [self.question_id] * len(steps),
            "step": [step.step for step in steps],
            "phase": [step.phase for step in steps],
            "position": [step.position for step in steps],
            "token_id": self.tokens,
            "token": (self.prompter.alone if alone else self.prompter.pieces)(self.tokens),
            "step_ms": [step.step_ms for step in steps],
        }
        metrics = metrics_of(reference=reference, forced=self._is_forced, exact=self._is_forced)
        return columns | {metric.name: self._cells(metric) for metric in token_metrics(metrics)}

    def answers_columns(self) -> dict[str, list[Any]]:
        """The one row of `answers`."""
        n = len(self.steps)
        row: dict[str, Any] = {
            "question_index": self.index,
            "question_id": self.question_id,
            "question": self.question,
            "category": self.category,
            "prompt_ids": np.asarray(self.prompt.ids, np.int32),
            "prompt_text": self.prompt.text,
            "answer": self.answer,
            "tokens": n,
            "stop_reason": self.stop_reason,
            "note": self.note,
            "kv_bytes": self.spec.kv_bytes(len(self.prompt.ids) + n - 1 if n else 0, self._cache_bytes_each),
            "prefill_ms": self.steps[0].step_ms if n else math.nan,
            "decode_ms": math.fsum(step.step_ms for step in self.steps[1:]) if n else math.nan,
        }
        for name, summary in self.statistics.summaries().items():
            row |= {f"{name}_{part}": value for part, value in summary._asdict().items()}
        metrics = metrics_of(forced=self._is_forced, exact=self._is_forced)
        row |= {mean_column(m.name): self._mean_vector(m) for m in metrics if has_mean_vector(m)}
        if self._is_forced:
            row["same_top1_share"] = sum(values.same_top1 for values in self.forced) / n if n else math.nan
        return {name: [value] for name, value in row.items()}


class PartBuffer:
    """Finished answers that wait to be written as one part; `alone` as in AnswerRecord.steps_columns."""

    def __init__(
        self, *, reference: bool = False, forced: bool = False, exact: bool = False, alone: bool = False
    ) -> None:
        self._reference, self._alone = reference, alone
        self._steps_schema = steps_schema(reference=reference, forced=forced, exact=exact)
        self._answers_schema = answers_schema(forced=forced, exact=exact)
        self._records: list[AnswerRecord] = []
        self.rows = 0

    def add(self, record: AnswerRecord) -> None:
        self._records.append(record)
        self.rows += len(record.steps)

    def __len__(self) -> int:
        return len(self._records)

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """The buffered answers as tables: steps and answers."""
        steps = [r.steps_columns(reference=self._reference, alone=self._alone) for r in self._records]
        answers = [record.answers_columns() for record in self._records]
        return to_table(self._steps_schema, steps), to_table(self._answers_schema, answers)

    def clear(self) -> None:
        self._records.clear()
        self.rows = 0


def to_table(schema: pa.Schema, pieces: Sequence[dict[str, list[Any]]]) -> pa.Table:
    """One table from the columns of several answers."""
    cells = [[cell for piece in pieces for cell in piece[field.name]] for field in schema]
    arrays = [to_array(column, field.type) for column, field in zip(cells, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def to_array(cells: list[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array; NaN becomes null, list cells may be numpy arrays or None."""
    if pa.types.is_string(kind):
        return pa.array([cell and storable(cell) for cell in cells], type=kind)
    if not pa.types.is_list(kind):
        return pa.array(cells, type=kind, from_pandas=True)
    kept = [cell for cell in cells if cell is not None]
    dtype = np.int32 if pa.types.is_int32(kind.value_type) else np.float32
    values = np.concatenate(kept).astype(dtype, copy=False) if kept else np.empty(0, dtype)
    offsets = np.zeros(len(cells) + 1, np.int32)
    np.cumsum([0 if cell is None else len(cell) for cell in cells], out=offsets[1:])
    mask = pa.array([cell is None for cell in cells], pa.bool_()) if len(kept) < len(cells) else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=kind, mask=mask)
