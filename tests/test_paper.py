"""The paper's tables: its numbers in their places, planted truths recovered with intervals that cover, files
for others."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import scipy.stats
from typer.testing import CliRunner

from edge.analysis.paper import analyse_paper
from edge.analysis.paper_rows import BEYOND
from edge.analysis.published import LAYER_TABLE, LAYERS_MODEL, PAPER, TABLES, paper_kv_mebibytes, published
from edge.analysis.study import RELATIONS, study
from edge.analysis.tokens import POINTS, correlations, drift, points, read_tokens
from edge.artifact import ModelSpec
from edge.cli.app import app
from edge.errors import UserError
from edge.registry import read_registry
from edge.report.paper import diffusion_text, paper_tables
from edge.report.write import write_report
from edge.runs.parts import write_part
from edge.runs.run_directory import Run
from edge.signals.streaming import AnswerStatistics
from tests.planted import PROMPT, Planted, summaries, write_run
from tests.test_report import HOSTILE, Page
from tests.test_truth import label, within

TWELVE = tuple(1.0 + 0.1 * ((5 * i) % 12) for i in range(12))  # every layer another entropy, in no order


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, np.ndarray]:
    truth = Planted(slope=0.4, spread=0.1, effect=0.5, profile=TWELVE)
    return write_run(tmp_path_factory.mktemp("planted") / "run", truth, 11, 60, 20, "qwen3-1.7b")


# The paper's numbers


def test_every_number_of_the_papers_tables_has_a_place_in_ours(planted: tuple[Run, np.ndarray]) -> None:
    paper = analyse_paper(planted[0])
    ours = {(row.table, row.measure) for row in paper.rows}
    known = published()
    assert set(known.values) <= ours
    raw = json.loads(PAPER.read_text(encoding="utf-8"))
    numbers = sum(
        len(row) for name in TABLES.values() for row in raw[name].values() if isinstance(row, list)
    )
    layers = sum(len(triple) for side in ("lowest", "highest") for triple in raw[LAYER_TABLE][side])
    assert numbers + layers == sum(not math.isnan(value) for row in known.values.values() for value in row)
    assert known.value(1, "output_entropy_mean", "gemma-3-1b-it") == 0.678
    assert known.value(6, "lowest_1_head_dispersion", LAYERS_MODEL) == 0.821
    assert math.isnan(known.value(6, "lowest_1_head_dispersion", "gemma-3-1b-it"))
    assert math.isnan(known.value(1, "output_entropy_mean", "nano-llama"))


def test_tables_show_the_papers_numbers_beside_ours(planted: tuple[Run, np.ndarray]) -> None:
    tables = paper_tables(analyse_paper(planted[0], question=3))
    assert [table.caption.split(".")[0] for table in tables[:7]] == [f"Table {i}" for i in range(1, 8)]
    assert tables[0].columns == [
        "Measure",
        "Over questions [95%]",
        "Over tokens [95%]",
        "Question 3",
        "Paper",
    ]
    cells = {row[0]: row[-1] for table in tables for row in table.rows}
    assert cells["Output entropy"] == "0.374"
    assert cells["KV cache as the paper counts it, MiB"] == "99.312"
    assert cells["Output entropy, late − early"] == "+0.255"
    assert cells["Layer of lowest entropy"] == "25"
    assert cells["Norm of the hidden state, SD over tokens"] == "41.272"
    assert (cells["Paper, abstract"], cells["Paper, sign of its own shift (Table 5)"]) == (
        "balanced",
        "rising",
    )


def test_the_cache_has_the_papers_size_by_the_registrys_shapes() -> None:
    sizes = []
    for model_id in published().models:
        shape = read_registry()[model_id].shape
        assert shape is not None
        windows = (shape.window,) * shape.layers
        spec = ModelSpec(
            "x",
            shape.layers,
            shape.hidden,
            shape.heads,
            shape.kv_heads,
            shape.head_dim,
            shape.vocabulary,
            shape.context,
            windows,
            (),
        )
        prompt, generated = (
            int(published().value(1, name, model_id)) for name in ("prompt_tokens", "generated_tokens")
        )
        sizes.append(f"{paper_kv_mebibytes(spec, prompt, generated):.3f}")
        assert sizes[-1] == f"{published().value(1, 'kv_total_mb_max', model_id):.3f}"
    assert sizes == ["25.375", "7.719", "2.297", "99.312"]


def test_the_registrys_class_is_the_abstracts() -> None:
    assert {model: verdict.abstract for model, verdict in published().classes.items()} == {
        model: read_registry()[model].paper_class for model in published().models
    }


# Ours


def test_the_generators_summaries_are_those_of_a_real_run() -> None:
    series = np.random.default_rng(0).normal(size=(3, 17))
    found = summaries(series)
    for i in range(3):
        statistics = AnswerStatistics(("x",))
        for value in series[i]:
            statistics.add([value])
        for part, value in statistics.summaries()["x"]._asdict().items():
            assert found[part][i] == pytest.approx(value, rel=1e-9, abs=1e-12), part


@pytest.mark.slow
def test_planted_truths_are_recovered_with_intervals_that_cover(tmp_path: Path) -> None:
    """Over runs of 40 questions."""
    trials, tokens, slope = 60, 15, 0.4
    truth = Planted(slope=slope, dispersion=0.7, spread=0.3)
    expected = {
        (1, "output_entropy_mean"): truth.entropy,
        (1, "head_dispersion_mean"): 0.7,
        (4, "mean_layer_entropy"): 1.5,
        (5, "output_slope"): slope,
        (5, "output_shift"): truth.shift(tokens),
        (5, "attention_slope"): 0.3,
        (8, "token_delta_mean"): 3.0,
    }
    hits, classes = dict.fromkeys(expected, 0), []
    for seed in range(trials):
        run, _ = write_run(tmp_path / str(seed), truth, seed, 40, tokens)
        found = analyse_paper(run)
        classes.append(found.model_class.label)
        for key, value in expected.items():
            low, high = found.row(*key).questions[1:3]
            hits[key] += low <= value <= high
    assert set(classes) == {"exploratory"}
    for key, count in hits.items():
        assert within(count, trials, 0.95), (key, count)


@pytest.mark.parametrize(
    ("slope", "label"), [(-0.5, "deterministic"), (0.0, "balanced"), (0.5, "exploratory")]
)
def test_the_planted_class_comes_out(tmp_path: Path, slope: float, label: str) -> None:
    run, _ = write_run(tmp_path / "run", Planted(slope=slope), 12, 80, 20)
    assert analyse_paper(run).model_class.label == label


def test_rows_weigh_questions_and_tokens_as_they_say(planted: tuple[Run, np.ndarray]) -> None:
    run, _ = planted
    paper, answers, steps = analyse_paper(run, question=7), run.answers(), run.steps()
    entropy = steps.column("output_entropy").to_numpy().astype(np.float64)
    row = paper.row(2, "p90")
    assert row.questions.value == pytest.approx(
        answers.column("output_entropy_p90").to_numpy().mean(), rel=1e-6
    )
    assert row.tokens.value == pytest.approx(np.percentile(entropy, 90), rel=1e-6)
    assert row.question == pytest.approx(answers.column("output_entropy_p90").to_numpy()[7], rel=1e-6)
    assert paper.row(1, "output_entropy_sd").tokens.value == pytest.approx(entropy.std(), rel=1e-5)
    assert paper.row(1, "output_entropy_mean").tokens.value == pytest.approx(entropy.mean(), rel=1e-6)
    cached = 2 * 12 * 8 * 4 * (PROMPT + 20 - 1) / 2**20
    assert paper.row(1, "kv_cached_mb").questions.value == pytest.approx(cached)
    assert paper.row(1, "kv_total_mb_max").questions.value == pytest.approx(
        cached * (PROMPT + 20) / (PROMPT + 19)
    )
    assert paper.row(4, "lowest_layer_1based").questions.value == 1 + TWELVE.index(min(TWELVE))
    assert paper.row(6, "highest_1_layer").questions.value == 1 + TWELVE.index(max(TWELVE))
    assert paper.row(6, "highest_1_attention_entropy").questions.value == pytest.approx(
        max(TWELVE), abs=0.05
    )
    assert paper.row(4, "sd_across_layers").questions.value == pytest.approx(np.std(TWELVE), abs=0.02)
    with pytest.raises(UserError, match="has no question 60: give one of 0 to 59"):
        analyse_paper(run, question=60)


def test_attention_that_rises_with_the_context_alone_does_not_rise_when_divided(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path / "run", Planted(spread=0.3), 13, 60, 30)
    found = analyse_paper(run).diffusion
    assert found is not None
    assert found.raw.low > 0 and found.raw.value == pytest.approx(0.3, abs=0.05)
    assert found.normalised.high < 0
    text = diffusion_text(found)
    assert "attention entropy rises" in text and "Divided by ln K, its bound, it falls" in text


def test_drift_and_correlations_by_hand() -> None:
    step, memory = drift(np.array([1.0, 2.0, 0.0, 3.0]))
    assert step == 2.0
    assert memory == pytest.approx(np.corrcoef([1, 2, 0], [2, 0, 3])[0, 1])
    table = np.random.default_rng(1).normal(size=(30, 4))
    np.testing.assert_allclose(correlations(table), np.corrcoef(table.T), atol=1e-12)
    table[:, 2] = 1.0
    assert np.isnan(correlations(table)[2]).all() and not np.isnan(correlations(table)[0, 1])
    assert np.isnan(correlations(table[:2])).all()


def test_correlations_are_over_all_tokens_and_within_answers(planted: tuple[Run, np.ndarray]) -> None:
    run, _ = planted
    found = next(c for c in analyse_paper(run).correlations if (c.x, c.y) == ("output_entropy", "surprisal"))
    steps = run.steps(["question_index", "step", "output_entropy", "surprisal"])
    x, y = (steps.column(name).to_numpy().reshape(60, 20)[:, 1:] for name in ("output_entropy", "surprisal"))
    assert found.over_tokens == pytest.approx(scipy.stats.pearsonr(x.ravel(), y.ravel())[0], abs=1e-5)
    assert found.within.value == pytest.approx(
        np.mean([scipy.stats.pearsonr(a, b)[0] for a, b in zip(x, y, strict=True)]), abs=1e-5
    )


def test_a_scatter_takes_tokens_from_the_whole_run(planted: tuple[Run, np.ndarray]) -> None:
    tokens = read_tokens(planted[0])
    drawn = points(tokens, *RELATIONS[0])
    assert len(drawn) == min(POINTS, 60 * 20)
    assert (
        drawn[-1].tolist() == tokens.pooled[-1, [tokens.names.index(name) for name in RELATIONS[0]]].tolist()
    )


# The command


def call(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["paper", *map(str, arguments)])


def test_the_command_prints_tables_and_writes_what_it_printed(
    planted: tuple[Run, np.ndarray], tmp_path: Path
) -> None:
    run, untrue = planted
    label(run, [(i, "incorrect" if bad else "best", "hand") for i, bad in enumerate(untrue)])
    result = call(
        run.folder,
        "--question",
        "2",
        "--csv",
        tmp_path / "csv",
        "--parquet",
        tmp_path / "pq",
        "--json",
        tmp_path / "p.json",
    )
    (run.folder / "outcomes.parquet").unlink()
    assert result.exit_code == 0, result.output
    assert "Table 1. Summary: qwen3-1.7b" in result.output
    assert "scores predict untrue answers beyond chance" in " ".join(result.output.split())
    assert max(len(line) for line in result.output.splitlines() if not line.startswith("written")) <= 84
    found = json.loads((tmp_path / "p.json").read_text())["runs"][0]
    names = {path.stem for path in (tmp_path / "csv").iterdir()}
    assert names == {path.stem for path in (tmp_path / "pq").iterdir()}
    assert names == {
        "measures",
        "classes",
        "correlations",
        "courses",
        "layers",
        "outcomes",
        "predictions",
        "risk_coverage",
        "reliability",
        "entropy_by_outcome",
    }
    for name in names:
        one, other = (
            pyarrow.csv.read_csv(tmp_path / "csv" / f"{name}.csv"),
            pq.read_table(tmp_path / "pq" / f"{name}.parquet"),
        )
        assert one.column_names == other.column_names and one.num_rows == other.num_rows > 0
    rows = pq.read_table(tmp_path / "pq" / "measures.parquet").to_pylist()
    row = next(row for row in rows if (row["table"], row["measure"]) == (5, "output_shift"))
    assert row["paper"] == 0.255 and row["question_index"] == 2
    in_json = next(r for r in found["paper"]["rows"] if (r["table"], r["measure"]) == (5, "output_shift"))
    assert row["over_questions_low"] == in_json["questions"]["low"]
    best = pq.read_table(tmp_path / "pq" / "predictions.parquet").to_pylist()[0]
    assert (best["metric"], best["holm"] < 0.05) == ("output_entropy", True)
    assert found["truth"]["verdict"].endswith("]")


def test_no_digit_of_a_wide_table_is_cut_off(tmp_path: Path) -> None:
    run, _ = write_run(
        tmp_path / "run", Planted(), 19, 20, 10
    )  # none of the paper's models: all four stand beside it
    printed = " ".join(call(run.folder, "--question", "2").output.split())
    assert "25.375 7.719 2.297 99.312" in printed
    assert "13.132 6419.709 137.372 567.026" in printed
    assert "…" not in printed


@pytest.mark.parametrize("more", [(), ("--question", "2"), ("--correlations",)])
def test_no_digit_of_the_papers_own_models_is_cut_off(tmp_path: Path, more: tuple[str, ...]) -> None:
    run, _ = write_run(tmp_path / "run", Planted(), 19, 20, 10, "llama-3.2-1b-instruct")
    found = call(run.folder, *more)
    lines = [" ".join(line.split()) for line in found.output.splitlines()]
    for number in ("−0.388", "0.865", "13.132"):
        assert any(line.endswith(number) for line in lines), number
    for made in paper_tables(study(run).paper, brief=True):
        for row in made.rows:
            for cell in row[1:]:
                assert not cell or cell.split()[0] in found.output, (made.caption, row)


def test_several_runs_in_processes_say_what_one_says(
    planted: tuple[Run, np.ndarray], tmp_path: Path
) -> None:
    other, _ = write_run(tmp_path / "other", Planted(profile=TWELVE), 14, 60, 20)
    side_by_side = call(planted[0].folder, other.folder, "--jobs", "2", "--json", "-")
    alone = call(planted[0].folder, other.folder, "--jobs", "1", "--json", "-")
    assert side_by_side.exit_code == alone.exit_code == 0
    assert json.loads(side_by_side.stdout) == json.loads(alone.stdout)
    assert [run["name"] for run in json.loads(alone.stdout)["runs"]] == [
        "qwen3-1.7b onnx-fp32",
        "planted onnx-fp32",
    ]


Change = Callable[[Path, dict], None]


def damaged(tmp_path: Path, change: Change) -> Path:
    folder = write_run(tmp_path / "damaged", Planted(), 15, 5, 5)[0].folder
    raw = json.loads((folder / "run.json").read_text())
    change(folder, raw)
    (folder / "run.json").write_text(json.dumps(raw))
    return folder


def drop(kind: str, column: str) -> Change:
    def change(folder: Path, raw: dict) -> None:
        for part in list((folder / kind).iterdir()):
            table = pq.read_table(part).drop_columns([column])
            part.unlink()
            write_part(
                folder / kind, part.name.split(".")[0], table
            )  # a part of another version, not a damaged one

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder, raw: raw["questions"].update(sha256="other"), "hold different questions"),
        (lambda folder, raw: raw.update(state="running"), "is unfinished"),
        (drop("answers", "output_entropy_p10"), "lacks the column output_entropy_p10"),
        (
            drop("answers", "attention_entropy_layer_mean_vector"),
            "lacks the column attention_entropy_layer_mean_vector",
        ),
        (drop("steps", "surprisal"), "lacks the column surprisal"),
    ],
)
def test_bad_input_is_one_sentence(
    planted: tuple[Run, np.ndarray], tmp_path: Path, change: Change, words: str
) -> None:
    result = call(planted[0].folder, damaged(tmp_path, change), "--jobs", "1")
    assert isinstance(result.exception, UserError)
    assert words in str(result.exception)


# The report


def test_the_report_has_the_tables_and_valid_figures(
    planted: tuple[Run, np.ndarray], tmp_path: Path
) -> None:
    run, untrue = planted
    label(run, [(i, "incorrect" if bad else "best", "hand") for i, bad in enumerate(untrue)])
    write_report([run], tmp_path / "r.html")
    (run.folder / "outcomes.parquet").unlink()
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    drawn = page.blocks["figure-data"][0]["figures"]
    new = {"relations", "correlations", "drift", "outcomes", "by-outcome", "risk"}
    assert new <= set(drawn)
    for name in new:
        for panel in drawn[name][0]["panels"]:
            go.Figure(panel["data"], panel["layout"])  # raises for a property that plotly does not know
    assert [len(drawn[name][0]["panels"]) for name in ("relations", "drift", "by-outcome", "risk")] == [
        4,
        2,
        2,
        2,
    ]
    assert drawn["outcomes"][0]["panels"][0]["data"][0]["y"] == [
        int((~untrue).sum()),
        0,
        0,
        int(untrue.sum()),
    ]
    for words in (
        "Table 7. Hidden states",
        "Does a metric predict untrue answers?",
        "Along the answer attention entropy",
    ):
        assert words in page.words


def test_a_hostile_name_is_text_in_the_new_pages(tmp_path: Path) -> None:
    run, untrue = write_run(tmp_path / "run", Planted(effect=1.0), 16, 40, 6, HOSTILE[0])
    label(run, [(i, "incorrect" if bad else "best", HOSTILE[1]) for i, bad in enumerate(untrue)])
    write_report([run], tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert len(page.scripts) == 2 and page.count("img") == 0
    assert f"Summary: {HOSTILE[0]}" not in "".join(page.scripts)


def test_an_untapped_run_has_the_tables_that_it_can(tmp_path: Path) -> None:
    run, _ = write_run(tmp_path / "run", Planted(), 17, 10, 8)
    raw = json.loads((run.folder / "run.json").read_text())
    raw["artifact"]["taps"] = "none"
    (run.folder / "run.json").write_text(json.dumps(raw))
    found = study(Run.open(run.folder))
    assert {row.table for row in found.paper.rows} == {1, 2, 5, BEYOND}
    assert found.paper.diffusion is None and found.paper.layers is None
    assert list(found.relations) == [RELATIONS[0]]


def test_answers_of_one_token_have_what_one_token_has(tmp_path: Path) -> None:
    run, untrue = write_run(tmp_path / "run", Planted(), 18, 30, 1)
    label(run, [(i, "incorrect" if bad else "best", "hand") for i, bad in enumerate(untrue)])
    found = study(run)
    assert math.isnan(found.paper.row(5, "output_slope").questions.value)
    assert math.isnan(found.paper.row(5, "output_shift").questions.value)
    assert (found.paper.model_class.label, found.paper.model_class.left_out) == ("undefined", 30)
    assert all(math.isnan(c.within.value) for c in found.paper.correlations)
    assert found.truth is not None and found.truth.tests > 0
