"""Every traced column of one long sampled answer, and what transformers' attentions and hidden states say it
should be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.jobs.decode import DecodeSettings
from edge.jobs.run import run
from edge.questions.prompt import Prompter
from edge.questions.question import read_questions
from edge.runs.run_directory import Run
from edge.signals.groups import BY_NAME, VECTORS, measured, names
from edge.signals.metric import Kind, Level, Shape, Source
from tests import models, oracle, reference
from tests.conftest import ONE_THREAD, write_questions

NANO = ("nano-llama", "nano-qwen2", "nano-qwen3", "nano-gemma3")
SHAPES = (*models.SHAPES, *NANO)
LONG = "Is the name of the sea that the ship is in the theme of the thesis? " * 30
CONTEXT = 300  # tokens of prompt and answer together
ANSWER = 30
OUTPUT = names(lambda m: m.source == Source.LOGITS and m.level == Level.TOKEN and m.kind == Kind.EVERY)


def trace_of(artifact: Artifact, folder: Path, runtime: Runtime = ONE_THREAD) -> tuple[pa.Table, list[int]]:
    """Steps and prompt ids of one long question, sampled so that the answer does not fall into a loop."""
    prompter, question = Prompter(artifact, "raw"), LONG
    while len(prompter.prompt(question).ids) > CONTEXT - ANSWER:
        question = question[:-1]
    questions = read_questions(write_questions(folder / "q.csv", [question]))
    run(artifact, questions, folder / "run", DecodeSettings(ANSWER, 0.9, 1), prompt="raw", runtime=runtime)
    opened = Run.open(folder / "run")
    return opened.steps(), opened.answers().column("prompt_ids")[0].as_py()


def expected(
    out: oracle.Forward, prompt: list[int], tokens: list[int], chosen: Iterable[int] | None = None
) -> dict[str, list]:
    """Every metric of every step, or of those chosen, by the slow twins."""
    columns: dict[str, list] = {name: [] for name in (*OUTPUT, *VECTORS)}
    for step in range(len(tokens)) if chosen is None else chosen:
        token = tokens[step]
        position = len(prompt) - 1 + step
        logits = out.logits[position].astype(float).tolist()
        for name in OUTPUT:
            arguments = (logits, token) if name == "surprisal" else (logits,)
            columns[name].append(getattr(reference, name)(*arguments))
        layers = [
            out.attention[layer, :, position, : position + 1].astype(float).tolist()
            for layer in range(len(out.attention))
        ]
        for metric in measured(Source.ATTENTION):
            cells = [getattr(reference, metric.name)(rows) for rows in layers]
            by_head = metric.shape == Shape.HEADS
            columns[metric.name].append([value for row in cells for value in row] if by_head else cells)
        hidden, before = (out.hidden[:, p].astype(float).tolist() for p in (position, position - 1))
        for metric in measured(Source.HIDDEN):
            arguments = (hidden, before) if metric.first_row else (hidden,)
            known = step >= metric.first_row
            columns[metric.name].append(getattr(reference, metric.name)(*arguments) if known else None)
    return columns


def differences(ours: pa.Table, theirs: pa.Table) -> dict[str, float]:
    """Largest difference of each traced column of two runs with the same tokens, relative for the lengths of
    hidden vectors."""
    for name in ("question_index", "step", "position", "token_id", "token"):
        assert ours.column(name).equals(theirs.column(name)), name
    found = {}
    for name in (*OUTPUT, *VECTORS):
        a, b = (table.column(name) for table in (ours, theirs))
        assert a.null_count == b.null_count, name
        a, b = (pc.list_flatten(column) if name in VECTORS else column for column in (a, b))
        a, b = (np.asarray(column.drop_null().to_numpy(), np.float64) for column in (a, b))
        found[name] = largest((a - b) / scale_of(name, b))
    return found


def scale_of(name: str, values: np.ndarray) -> np.ndarray | float:
    """What a column's errors are divided by: lengths of hidden vectors themselves where there are any."""
    return np.where(values > 0, values, 1.0) if BY_NAME[name].unit == "L2 norm" else 1.0


def largest(error: np.ndarray) -> float:
    return float(np.abs(error).max())


def rms(error: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean()))


def errors(steps: pa.Table, wanted: dict[str, list], measure=largest) -> dict[str, float]:
    """Error of each column: relative for the lengths of hidden vectors (where there is any), absolute
    otherwise."""
    found = {}
    for name, values in wanted.items():
        cells = steps.column(name).to_pylist()
        assert [cell is None for cell in cells] == [value is None for value in values], name
        a, b = (np.asarray([x for x in column if x is not None], np.float64) for column in (cells, values))
        assert a.shape == b.shape, name
        found[name] = measure((a - b) / scale_of(name, b))
    return found


def forward_of(model, steps: pa.Table, prompt: list[int]) -> tuple[oracle.Forward, list[int]]:
    tokens = steps.column("token_id").to_pylist()
    return oracle.forward(model, prompt + tokens[:-1]), tokens
