"""edge.jobs.session: one loop for `edge run` and `edge force`, and one check of the runtime, before anything
is written."""

from __future__ import annotations

import ast
import dataclasses
from types import SimpleNamespace

import pytest

import edge.backends.runtime
import edge.jobs.session
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import Loader
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.interrupt import Interrupted
from edge.jobs.live import answer
from edge.jobs.run import run
from edge.jobs.score import score
from edge.questions.question import EMBEDDED, read_questions
from edge.runs.run_directory import Run
from tests.conftest import ONE_THREAD, tree
from tests.test_architecture import EDGE, imports

ASKED = read_questions(EMBEDDED)[:3]
ONNX_HAS_NO_CACHE_TYPE = r"--kv-cache is llama\.cpp's .* leave it out"


@pytest.fixture
def full(odd, tmp_path):
    """The folder of a run that keeps its likeliest tokens."""
    run(odd, ASKED, tmp_path / "full", DecodeSettings(6, reference_k=8), runtime=ONE_THREAD)
    return tmp_path / "full"


@pytest.fixture
def int4(artifacts):
    return Artifact.open(artifacts("odd", "onnx-int4"))


def jobs(artifact, full, folder, runtime):
    """Every job that writes, by name."""
    return {
        "run": lambda: run(artifact, ASKED, folder / "run", DecodeSettings(4), runtime=runtime),
        "force": lambda: force(artifact, full, folder / "force", runtime=runtime),
        "score": lambda: score(artifact, ASKED, folder / "score", runtime=runtime),
    }


@pytest.fixture
def opened(monkeypatch):
    """Every backend that is loaded, in order; `closed` counts how often each was closed."""
    load, backends = Loader.load, []

    def watched(loader, *arguments):
        backend = load(loader, *arguments)
        seen, close = SimpleNamespace(loader=loader, backend=backend, closed=0), backend.close

        def count():
            seen.closed += 1
            close()

        backend.close = count
        backends.append(seen)
        return backend

    monkeypatch.setattr(Loader, "load", watched)
    return backends


# The runtime


def test_the_runtime_is_checked_once_for_each_model(odd, int4, full, tmp_path, monkeypatch):
    check, checked = edge.backends.runtime.check_runtime, []

    def counted(artifact, runtime):
        checked.append(artifact.manifest.precision)
        check(artifact, runtime)

    monkeypatch.setattr(edge.backends.runtime, "check_runtime", counted)
    for job in jobs(odd, full, tmp_path, ONE_THREAD).values():
        job()
        assert checked == ["onnx-fp32"]
        checked.clear()
    force(int4, full, tmp_path / "exact", exact=odd, runtime=ONE_THREAD)
    assert checked == ["onnx-int4", "onnx-fp32"]
    checked.clear()
    list(answer(odd, "Why?", DecodeSettings(2), runtime=ONE_THREAD))
    assert checked == ["onnx-fp32"]


def test_a_wrong_choice_is_refused_before_anything_is_written(odd, full, tmp_path, opened):
    before = tree(tmp_path)
    wrong = dataclasses.replace(ONE_THREAD, kv_cache="f16")
    for name, job in jobs(odd, full, tmp_path / "out", wrong).items():
        with pytest.raises(UserError, match=ONNX_HAS_NO_CACHE_TYPE):
            job()
        assert tree(tmp_path) == before, name
    with pytest.raises(UserError, match=ONNX_HAS_NO_CACHE_TYPE):
        next(answer(odd, "Why?", DecodeSettings(2), runtime=wrong))
    assert opened == []


def test_a_wrong_choice_is_refused_for_a_finished_job_too(odd, full, tmp_path, opened):
    for job in jobs(odd, full, tmp_path, ONE_THREAD).values():
        job()
    before, loaded = tree(tmp_path), len(opened)
    wrong = dataclasses.replace(ONE_THREAD, kv_cache="f16")
    for name, job in jobs(odd, full, tmp_path, wrong).items():
        with pytest.raises(UserError, match=ONNX_HAS_NO_CACHE_TYPE):
            job()
        assert tree(tmp_path) == before, name
    assert len(opened) == loaded


def test_a_choice_that_the_exact_model_does_not_have_is_refused_before_anything_is_written(
    odd, artifacts, full, tmp_path, opened
):
    gguf, before = Artifact.open(artifacts("odd", "gguf-f32")), tree(tmp_path)
    with pytest.raises(UserError, match=r"--gpu-layers is llama\.cpp's and .*onnx-fp32"):
        force(gguf, full, tmp_path / "out", exact=odd, runtime=Runtime(1, gpu_layers=1))
    assert tree(tmp_path) == before
    assert opened == []


# The loop


def test_run_and_force_answer_through_one_loop(odd, full, tmp_path, monkeypatch):
    answer_items, counted = edge.jobs.session.answer_items, []

    def watched(job, *arguments):
        counted.append(job.manifest.kind)
        answer_items(job, *arguments)

    monkeypatch.setattr(edge.jobs.session, "answer_items", watched)
    run(odd, ASKED, tmp_path / "run", DecodeSettings(4), runtime=ONE_THREAD)
    force(odd, full, tmp_path / "force", runtime=ONE_THREAD)
    assert counted == ["run", "force"]


@pytest.mark.parametrize("name", ["jobs.run", "jobs.force"])
def test_a_job_that_traces_neither_steps_a_model_nor_writes_rows(name):
    taken = imports(EDGE[name])
    assert "edge.jobs.session.trace" in taken
    assert taken.isdisjoint(
        {
            "edge.backends.runtime.open_backend",
            "edge.jobs.decode.decode",
            "edge.jobs.interrupt",
            "edge.runs.record",
            "edge.runs.run_directory.RunWriter",
            "edge.signals.reader",
        }
    )
    assert calls(name).isdisjoint({"prefill", "step", "rewind", "load", "write_part"})


def test_a_token_is_read_in_one_place_for_all_who_trace():
    """`edge score` sums over its choices' tokens, and the exact model follows the one that is measured."""
    stepping = {name for name in EDGE if name.startswith("jobs.") and "step" in calls(name)}
    assert stepping == {"jobs.decode", "jobs.exact", "jobs.score"}
    decoding = {name for name in EDGE if "edge.jobs.decode.decode" in imports(EDGE[name])}
    assert decoding == {"jobs.session", "jobs.live", "jobs.bench"}


def calls(name):
    """Methods that a module calls."""
    nodes = ast.walk(ast.parse(EDGE[name].read_text(encoding="utf-8")))
    return {
        node.func.attr
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }


@pytest.mark.parametrize("exact", [False, True])
def test_models_are_closed_and_what_is_finished_is_written_however_the_work_ends(
    exact, odd, int4, full, tmp_path, opened
):
    def stop(progress):
        if progress.done == 2 and not progress.finished:
            raise Interrupted(130)

    def forced(**options):
        return force(
            int4,
            full,
            tmp_path / "forced",
            exact=odd if exact else None,
            runtime=ONE_THREAD,
            **options,
        )

    with pytest.raises(Interrupted):
        forced(on_progress=stop)
    assert Run.open(tmp_path / "forced", unfinished=True).answers().num_rows == 2
    assert forced().state == "finished"
    assert [seen.loader.artifact.label for seen in opened] == [int4.label, odd.label][: 1 + exact] * 2
    assert {seen.closed for seen in opened} == {1}


def test_items_are_taken_one_by_one_and_those_that_are_there_are_passed_over(
    odd, full, tmp_path, monkeypatch
):
    """A reference run may be larger than memory."""
    trace, events = edge.jobs.session.trace, []

    def watched(out, job, on_progress, on_note):
        def each():
            for item in job.items:
                events.append(("taken", item.index))
                yield item

        return trace(out, dataclasses.replace(job, items=each()), on_progress, on_note)

    def on_progress(progress):
        if progress.finished:
            events.append(("answered", progress.record.index))

    monkeypatch.setattr("edge.jobs.force.trace", watched)
    force(odd, full, tmp_path / "out", runtime=ONE_THREAD, on_progress=on_progress)
    assert events == [(word, index) for index in range(3) for word in ("taken", "answered")]
    events.clear()
    next((tmp_path / "out" / "answers").glob("part-*")).unlink()
    monkeypatch.setattr(edge.jobs.session, "FLUSH_SECONDS", 0.0)

    def stop(progress):
        if progress.done == 1:
            raise Interrupted(130)

    with pytest.raises(Interrupted):
        force(odd, full, tmp_path / "out", runtime=ONE_THREAD, on_progress=stop)
    events.clear()
    force(odd, full, tmp_path / "out", runtime=ONE_THREAD, on_progress=on_progress)
    assert events == [("taken", 0), *[(word, index) for index in (1, 2) for word in ("taken", "answered")]]


def test_an_item_without_tokens_needs_settings(odd, full, tmp_path, monkeypatch):
    trace = edge.jobs.session.trace

    def without(out, job, on_progress, on_note):
        items = [dataclasses.replace(item, forced=None) for item in job.items]
        return trace(out, dataclasses.replace(job, items=items), on_progress, on_note)

    monkeypatch.setattr("edge.jobs.force.trace", without)
    with pytest.raises(ValueError, match="question 0 forces no tokens, and no settings choose them"):
        force(odd, full, tmp_path / "out", runtime=ONE_THREAD)
