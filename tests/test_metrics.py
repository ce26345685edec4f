"""The table of metrics: what is made from it, and that definitions, C and twins have its rows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest

from edge.artifact import ModelSpec
from edge.runs.columns import answers_schema, mean_column, steps_schema
from edge.runs.run_directory import Run
from edge.signals.definitions import AttentionSignals, HiddenSignals, OutputSignals
from edge.signals.groups import BY_NAME, SCALARS, SERIES, VECTORS, measured, shown_in
from edge.signals.metric import Kind, Level, Shape, Shown, Source, Summary
from edge.signals.metrics import METRICS
from edge.signals.streaming import SeriesSummary
from tests import reference
from tests.conftest import ROOT

SPEC = ModelSpec("llama", 3, 8, 4, 2, 8, 50, 64, (0, 0, 0), (1,))


def test_names_are_used_once():
    assert len(BY_NAME) == len(METRICS)


def test_definitions_have_the_rows_of_the_table_in_its_order():
    """C gives its numbers one behind the other in this order."""
    assert AttentionSignals._fields == tuple(m.name for m in measured(Source.ATTENTION))
    assert HiddenSignals._fields == tuple(m.name for m in measured(Source.HIDDEN))
    logits = [m.name for m in measured(Source.LOGITS) if m.name != "surprisal"]  # it needs the token
    assert logits == [name for name in OutputSignals._fields if name in BY_NAME]


@pytest.mark.parametrize("metric", [m for m in METRICS if m.level == Level.TOKEN and m.kind == Kind.EVERY])
def test_every_metric_of_a_pass_has_a_slow_twin(metric):
    assert callable(getattr(reference, metric.name))


def test_a_list_column_has_the_numbers_of_its_shape():
    sizes = {name: BY_NAME[name].shape.size(SPEC) for name in VECTORS}
    assert {sizes[name] for name in ("attention_entropy", "sink_mass")} == {3 * 4}
    assert {sizes[name] for name in ("head_dispersion", "head_divergence", "layer_delta")} == {3}
    assert {sizes[name] for name in ("hidden_norm", "token_delta", "token_cosine")} == {3 + 1}


def test_columns_of_steps_follow_the_table():
    every = steps_schema(reference=False, forced=False)
    wanted = [m for m in METRICS if m.level == Level.TOKEN and m.kind == Kind.EVERY]
    assert [name for name in every.names if name in BY_NAME] == [m.name for m in wanted]
    assert all(pa.types.is_list(every.field(m.name).type) == m.is_list for m in wanted)
    more = set(steps_schema(reference=True, forced=True, exact=True).names) - set(every.names)
    assert more == {m.name for m in METRICS if m.level == Level.TOKEN and m.kind != Kind.EVERY}


def test_columns_of_answers_follow_the_table():
    names = answers_schema(forced=False).names
    assert {f"{name}_{part}" for name in SCALARS for part in SeriesSummary._fields} <= set(names)
    assert {mean_column(name) for name in VECTORS} <= set(names)
    more = set(answers_schema(forced=True, exact=True).names) - set(names)
    summaries = {
        f"{name}_{part}" for name in ("kl", "reference_surprisal") for part in SeriesSummary._fields
    }
    means = {mean_column(name) for name in ("hidden_error", "hidden_similarity")}
    assert more == {*summaries, *means, "same_top1_share"}


def test_a_metric_by_head_has_no_series_of_its_own():
    assert SERIES["attention_entropy"] == "attention_entropy_layer"
    assert "sink_mass" not in SERIES
    assert all(BY_NAME[column].shape != Shape.HEADS for column in SERIES.values())


def test_what_predicts_is_summarised_and_what_warns_is_among_it():
    for metric in METRICS:
        assert metric.summary == Summary.PREDICTS or not metric.warnings, metric.name
        assert metric.is_summarised or not metric.summaries, metric.name


@pytest.mark.parametrize("place", list(Shown))
def test_every_table_and_figure_shows_something(place):
    assert shown_in(place)


OLD = ROOT / "tests" / "data" / "v0.2.0"
NEWER = """    Metric(
        "brightness",
        Source.{source},
        Shape.{shape},
        "nat",
        "Brightness",
        "what a later version adds",
        summary=Summary.PREDICTS,
        summaries=("shift",),
        warnings=("mean",),
        shown=places(*Shown),
        since="9.0.0",
    ),
)
"""


def test_what_every_version_records_is_in_the_runs_of_0_2_0():
    """A metric that came later says so by `since`; readers leave it out of older runs."""
    run = Run.open(OLD / "finished")
    steps, answers = run.columns("steps"), run.columns("answers")
    for metric in METRICS:
        if metric.kind == Kind.EVERY and metric.level == Level.TOKEN:
            assert (metric.name in steps) == (not metric.since), metric.name
        if metric.kind == Kind.EVERY and metric.is_summarised:
            assert (f"{metric.name}_mean" in answers) == (not metric.since), metric.name


@pytest.mark.slow
@pytest.mark.parametrize(("source", "shape"), [("ATTENTION", "LAYERS"), ("LOGITS", "SCALAR")])
def test_runs_of_before_a_metric_was_added_are_read_as_they_were(source, shape, tmp_path):
    """The whole package with one more row, read with runs that have no column of it."""
    shutil.copytree(ROOT / "edge", tmp_path / "edge", ignore=shutil.ignore_patterns("__pycache__"))
    table = tmp_path / "edge" / "signals" / "metrics.py"
    rows, end, rest = table.read_text().rpartition("\n)\n")
    assert end
    table.write_text(f"{rows}\n{NEWER.format(source=source, shape=shape)}{rest}")
    finished, forced = str(OLD / "finished"), str(OLD / "forced")
    commands = [
        ["compare", finished, forced, "--json", "compare.json"],
        ["compare", finished, finished],
        ["paper", finished, "--json", "paper.json"],
        ["report", finished, forced, "--out", "report.html"],
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "edge", *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "brightness" not in (tmp_path / "compare.json").read_text()
    assert "brightness" not in (tmp_path / "paper.json").read_text()
