"""`edge bench`: what it says is in the JSON, contestants have processes of their own, failures are one
sentence."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest

import edge.cli.app
from benchmarks.tap_overhead import ratios_to_plain
from edge.errors import UserError
from edge.jobs.bench import Opened, Round, race, read_bandwidth, summarise
from tests.test_cli_errors import call

pytestmark = pytest.mark.slow

MB = 10**6


def test_bench_measures_every_artifact_at_every_context(artifacts, tmp_path, capsys):
    target = tmp_path / "bench.json"
    paths = [str(artifacts("odd")), str(artifacts("odd")), str(artifacts("odd", "onnx-fp32", "none"))]
    arguments = [
        "bench",
        *paths,
        "--context",
        "20",
        "--context",
        "40",
        "--rounds",
        "2",
        "--tokens",
        "4",
        "--json",
        str(target),
    ]
    assert call(edge.cli.app.main, arguments, tmp_path) == 0
    said = capsys.readouterr().out
    assert "After a prompt of 20 tokens" in said and "After a prompt of 40 tokens" in said
    found = json.loads(target.read_text())
    assert [(r["name"], r["context"]) for r in found["results"]] == [
        (name, context)
        for name in ("odd onnx-fp32", "odd onnx-fp32 (2)", "odd onnx-fp32 untapped")
        for context in (20, 40)
    ]
    assert found["read_bandwidth_bytes_per_s"] > 100 * MB
    for result in found["results"]:
        assert result["tokens_per_s"] == pytest.approx(1e3 / result["token_ms"][1])
        assert result["peak_rss"] > 50 * MB
        assert 0 < result["bandwidth"] < 1.5
        assert result["first_s"] > 0
    assert found["results"][0]["ratio"] == [1, 1, 1]


def test_figures_come_from_the_rounds():
    rounds = [[0.01, 0.03], [0.02, 0.02], [0.04, 0.04]]
    other = [[2 * t for t in times] for times in rounds]
    found = {
        ("a", 8): [Round(0.5 + n, times, n * MB) for n, times in enumerate(rounds)],
        ("b", 8): [Round(1.0, times, 7) for times in other],
    }
    a, b = summarise({"a": Opened(1.0), "b": Opened(2.0)}, found, {"a": 10 * MB}, 10**9)
    assert a.token_ms == pytest.approx((20, 20, 30))
    assert a.tokens_per_s == pytest.approx(50)
    assert a.ratio == (1, 1, 1)
    assert b.ratio == pytest.approx((2, 2, 2))
    assert a.first_s == 1.5
    assert (a.peak_rss, a.load_s) == (2 * MB, 1.0)
    assert a.bandwidth == pytest.approx(10 * MB * 50 / 10**9)
    assert math.isnan(b.bandwidth)


def test_the_read_test_reads():
    assert 10**8 < read_bandwidth(1) < 10**12


def dies(pipe):
    pipe.send(Opened(0.0))
    pipe.recv()


def dies_between(pipe):
    pipe.send(Opened(0.0))
    pipe.send(Round(1.0, [1.0], pipe.recv()[0]))


def refuses(pipe):
    pipe.send(UserError("no model: build one"))


def slow(pipe):
    """Takes its time, so that the other has ended when its turn comes."""
    pipe.send(Opened(0.0))
    while asked := pipe.recv():
        time.sleep(1.0)
        pipe.send(Round(1.0, [1.0], asked[0]))


def counts(pipe, value):
    pipe.send(Opened(value))
    while asked := pipe.recv():
        pipe.send(Round(value, [value] * asked[1], asked[0]))


def test_a_contestant_that_dies_or_refuses_is_told():
    with pytest.raises(UserError, match=r"^a ended before it was done"):
        race({"a": (dies, ())}, [4], 1, 1)
    with pytest.raises(UserError, match=r"^a ended before it was done"):
        race({"a": (dies_between, ()), "b": (slow, ())}, [4], 1, 1)
    with pytest.raises(UserError, match=r"^no model: build one$"):
        race({"b": (counts, (1.0,)), "a": (refuses, ())}, [4], 1, 1)


def test_rounds_rotate_and_the_first_is_left_out():
    order = []
    opened, found = race(
        {"a": (counts, (0.5,)), "b": (counts, (2.0,))},
        [4, 9],
        2,
        3,
        lambda name, context, number: order.append((name, number)),
    )
    assert order[:6] == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert {key: len(rounds) for key, rounds in found.items()} == {(n, c): 2 for n in "ab" for c in (4, 9)}
    assert found["b", 9][0] == Round(2.0, [2.0] * 3, 9)
    assert opened["b"].load_s == 2.0
    assert np.isfinite(found["a", 4][1].first_s)


def test_a_context_that_the_artifact_has_not_is_refused(artifacts, tmp_path, capsys):
    assert call(edge.cli.app.main, ["bench", str(artifacts("odd")), "--context", "5000"], tmp_path) == 2
    assert "was built for 1024 positions: give a shorter --context" in capsys.readouterr().err


def test_overhead_is_told_by_turn_and_by_launch():
    times = {
        "plain": [1.0, 1.0, 2.0, 2.0],
        "tapped": [1.1, 1.1, 2.0, 2.4],
    }  # two launches of two turns each, in seconds
    row = ratios_to_plain(times, 2)
    assert row["plain"]["ratio_by_launch"] == [1, 1]
    assert row["tapped"]["ratio_by_launch"] == pytest.approx([1.1, 1.1])
    assert row["tapped"]["ratio_by_turn"] == pytest.approx(1.1)
    assert row["tapped"]["ratio_of_medians"] == pytest.approx(1.55 / 1.5)
    assert row["tapped"]["median_ms"] == pytest.approx(1550)
