"""The report's figures of several artifacts: what is beaten by none, and an answer side by side with
its first divergence."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.analysis.artifacts import compare_artifacts
from edge.artifact import Artifact
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.questions.question import read_questions
from edge.report.model import ModelGroup, build_groups
from edge.report.pareto import front, pareto_figures
from edge.report.side_by_side import AnswerPair, Token, figure, side_by_side
from edge.report.write import write_report
from edge.runs.run_directory import Run
from tests.conftest import ONE_THREAD
from tests.test_report import Page

pytestmark = pytest.mark.slow  # seconds each

QUANTISED = ("onnx-int8", "onnx-int4", "gguf-q4_0")
HOSTILE = '<script>alert("1")</script>&amp;'


@pytest.fixture(scope="module")
def runs(artifacts, questions_file, tmp_path_factory) -> list[Run]:
    base, questions = tmp_path_factory.mktemp("figures"), read_questions(questions_file)
    run(
        Artifact.open(artifacts("nano-llama")),
        questions,
        base / "full",
        DecodeSettings(20, reference_k=64),
        date="2026-01-01",
        runtime=ONE_THREAD,
    )
    for name in QUANTISED:
        force(Artifact.open(artifacts("nano-llama", name)), base / "full", base / name, runtime=ONE_THREAD)
    int4 = Artifact.open(artifacts("nano-llama", "onnx-int4"))
    run(int4, questions, base / "alone", DecodeSettings(20), date="2026-01-01", runtime=ONE_THREAD)
    return [Run.open(base / name) for name in ("full", *QUANTISED, "alone")]


@pytest.fixture(scope="module")
def group(runs) -> ModelGroup:
    return build_groups(runs, 0.05)[0]


def test_the_front_of_a_hand_worked_case():
    points = [(1.0, 9.0), (2.0, 4.0), (3.0, 5.0), (4.0, 1.0), (4.0, 2.0)]
    assert front(points, larger=False) == [0, 1, 3]
    assert front(points, larger=True) == [3]  # the fastest has the least damage as well
    assert front([(1.0, 1.0), (1.0, 1.0)], larger=False) == [0, 1]  # equals do not beat one another


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12), st.booleans())
def test_what_is_on_the_front_is_beaten_by_none_and_what_is_not_by_one_on_it(points, larger):
    def beats(a, b):
        cost = a[0] >= b[0] if larger else a[0] <= b[0]
        return cost and a[1] <= b[1] and a != b

    chosen = front(points, larger=larger)
    for i, point in enumerate(points):
        assert (i in chosen) == (not any(beats(other, point) for other in points))
    assert all(any(beats(points[j], p) or points[j] == p for j in chosen) for p in points)


def test_each_artifact_stands_where_its_numbers_say(runs, group):
    (made,) = pareto_figures(group)
    assert [variant.name for variant in made.variants] == ["size", "memory", "speed"]
    found = compare_artifacts(runs[0], runs[1:])
    for variant, cost in zip(made.variants, ("bytes", "rss_bytes", "tokens_per_second"), strict=True):
        (panel,) = variant.panels
        edge, *marks = panel.data
        assert len(marks) == 3
        for line in found.lines:
            mark = next(m for m in marks if m["name"] == line.precision)
            value = getattr(line.cost, cost)
            assert mark["x"][0] == pytest.approx(
                value if cost == "tokens_per_second" else value / 1e6, rel=1e-3
            )
            assert mark["y"][0] == pytest.approx(line.damage.kl, rel=1e-3)
            assert mark["error_y"]["array"][0] == pytest.approx(line.damage.kl_error, rel=1e-3)
        assert set(edge["x"]) <= {mark["x"][0] for mark in marks}
        assert not any(
            "meta" in trace for trace in panel.data
        )  # keys switch runs, and an artifact is several
    assert pareto_figures(dataclasses.replace(group, comparisons=group.comparisons[:1])) == []


def test_the_first_divergence_of_two_answers_is_framed(runs, group):
    """Of the run that decodes alone: it comes before forced ones."""
    alone = next(c for c in group.comparisons if c.divergence.free)
    made = side_by_side(group)
    shown = re.findall(r"<mark [^>]*>([^<]*)</mark>", made)
    partings = {
        (d.full_token.replace("\n", "↵\n") or "(ended)", d.quantised_token.replace("\n", "↵\n") or "(ended)")
        for d in alone.divergence.free.first
    }
    assert tuple(shown) in partings
    assert "Each answers alone; framed, token" in made
    assert made.count("<figure") == made.count("</figure>") == 1


def test_on_the_same_text_the_token_that_the_other_would_not_have_said_is_framed(group):
    forced = dataclasses.replace(
        group, comparisons=tuple(c for c in group.comparisons if c.quantised.forced)
    )
    made = side_by_side(forced)
    one, other = re.findall(r"<mark [^>]*>([^<]*)</mark>", made)
    assert one == other
    assert "Both read the full model’s text" in made
    same = dataclasses.replace(group, comparisons=())
    assert side_by_side(same) == ""


def test_colours_follow_entropy_and_texts_stay_texts():
    full = [Token("a", 0.0, None), Token(HOSTILE, 2.0, None)]
    made = figure(AnswerPair(HOSTILE, False, 1, full, full[:1]), "<b>full", "int4")
    assert "<script" not in made and "<b>" not in made
    assert made.count("&lt;script&gt;") == 2
    page = Page(str(made))
    titles = [
        attributes["title"]
        for tag, attributes in page.tags
        if tag in ("span", "mark") and "title" in attributes
    ]
    assert titles == ["0.00 nat", "2.00 nat", "0.00 nat"]
    strength = [int(found) for found in re.findall(r"var\(--hot\) (\d+)%", made)]
    assert strength == [0, 80, 0, 0]
    assert "(ended)" in page.words
    assert "token 2" in page.words


def test_an_answer_of_no_entropy_and_an_empty_one_can_be_drawn():
    made = figure(AnswerPair("q", False, 0, [Token("\n", 0.0, None)], []), "a", "b")
    assert "↵" in made and "(ended)" in made
    assert np.isfinite([int(found) for found in re.findall(r"(\d+)%", made)]).all()


def test_the_page_has_both(runs, tmp_path: Path):
    write_report(runs, tmp_path / "report.html")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    figures = [attributes for tag, attributes in page.tags if tag == "figure"]
    assert {"pareto"} <= {attributes.get("data-figure") for attributes in figures}
    assert sum(attributes.get("class") == "side-by-side" for attributes in figures) == 1
