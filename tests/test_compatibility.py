"""What 0.2.0 wrote, kept as data (tests/data/v0.2.0/README.md says how it was made), is read as before, and
its unfinished runs go on with their own columns."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import edge.cli.app
from edge.artifact import Manifest
from edge.backends.base import LlamaSettings
from edge.errors import UserError
from edge.files import write_record
from edge.runs.manifest import RunManifest, read_manifest
from edge.runs.parts import part_stem, read_part, write_part
from edge.runs.run_directory import Run
from edge.runs.score_directory import ScoreManifest
from edge.version import __version__
from tests.conftest import ROOT, tree
from tests.test_cli_errors import call

DATA = ROOT / "tests" / "data" / "v0.2.0"
MANIFESTS = DATA / "manifests"
THREAD = ("--threads", "1", "--no-prepack", "--quiet")
ASK = (
    *("--questions", "{questions.csv}", "--temperature", "0.9", "--seed", "5", "--max-new-tokens", "16"),
    *("--reference-k", "8", "--date", "2026-01-01", *THREAD),
)
RUN = ("run", "{tiny-onnx-fp32}", *ASK)
FORCE = ("force", "{tiny-onnx-fp32}", "--like", "{finished}", *THREAD)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of everything that 0.2.0 wrote."""
    return shutil.copytree(DATA, tmp_path / "old")


def edge_command(folder: Path, *arguments: str) -> None:
    """Runs a command, `{name}` standing for a path in the folder; it must succeed."""
    assert call(edge.cli.app.main, list(arguments), folder) == 0


def columns_of(run: Path) -> set[tuple[str, ...]]:
    """The columns of each part, steps and answers together."""
    steps, answers = (sorted(run.glob(f"{table}/part-*")) for table in ("steps", "answers"))
    assert len(steps) == len(answers)
    return {
        (*pq.read_schema(a).names, *pq.read_schema(b).names) for a, b in zip(steps, answers, strict=True)
    }


def assert_close(value: Any, wanted: Any, where: str) -> None:
    """Equal, floats within 1e-5: another processor rounds otherwise."""
    if isinstance(wanted, float) and value is not None:
        assert math.isclose(value, wanted, rel_tol=1e-5, abs_tol=1e-6), where
    elif isinstance(wanted, list) and value is not None:
        assert len(value) == len(wanted), where
        for place, (one, other) in enumerate(zip(value, wanted, strict=True)):
            assert_close(one, other, f"{where}[{place}]")
    else:
        assert value == wanted, where


def assert_same_rows(table: pa.Table, wanted: pa.Table, names: list[str]) -> None:
    assert table.num_rows == wanted.num_rows > 0
    for name in names:
        if not name.endswith("_ms"):
            for row, pair in enumerate(zip(table.column(name), wanted.column(name), strict=True)):
                assert_close(*(cell.as_py() for cell in pair), f"{name} of row {row}")


def assert_holds(value: Any, wanted: Any, where: str = "") -> None:
    """What was printed then is printed now; more may be. Entries of a list are known by their metric."""
    if isinstance(wanted, dict):
        for name, part in wanted.items():
            assert_holds(value[name], part, f"{where}.{name}")
    elif isinstance(wanted, list) and wanted and isinstance(wanted[0], dict) and "metric" in wanted[0]:
        by_metric = {entry["metric"]: entry for entry in value}
        for part in wanted:
            assert_holds(by_metric[part["metric"]], part, f"{where}.{part['metric']}")
    else:
        assert_close(value, wanted, where)


def estimates(printed: Any) -> Any:
    """What was printed without bounds of intervals and without classes: 0.2 had bounds by the percentile
    bootstrap, and classes of fewer than ten answers."""
    if isinstance(printed, dict):
        kept = printed.keys() - {"low", "high", "same_class", "label"}
        return {name: estimates(printed[name]) for name in kept}
    return [estimates(part) for part in printed] if isinstance(printed, list) else printed


def names(paths: list[Path]) -> list[Any]:
    """Test parameters that are called by their paths within the data."""
    return [pytest.param(path, id=str(path.relative_to(DATA))) for path in sorted(paths)]


# Manifests


@pytest.mark.parametrize("path", names([*DATA.glob("*/run.json"), *MANIFESTS.glob("*.run.json")]))
def test_a_manifest_of_a_run_is_written_back_as_it_was(path, tmp_path):
    manifest = RunManifest.from_json(json.loads(path.read_text()))
    write_record(tmp_path / "again.json", manifest.to_json())
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", names([DATA / "scores" / "score.json", *MANIFESTS.glob("*.score.json")]))
def test_a_manifest_of_scores_is_written_back_as_it_was(path, tmp_path):
    manifest = ScoreManifest.from_json(json.loads(path.read_text()))
    write_record(tmp_path / "again.json", manifest.to_json())
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", names([*DATA.glob("*/manifest.json"), *MANIFESTS.glob("*.manifest.json")]))
def test_a_manifest_of_an_artifact_is_written_back_as_it_was(path):
    content = path.read_text()
    assert Manifest.from_json(content).to_json() == content


def test_settings_of_either_backend_are_read_as_they_were_written():
    def manifest(name: str) -> RunManifest:
        return RunManifest.from_json(json.loads((MANIFESTS / f"{name}.run.json").read_text()))

    onnx, gguf = read_manifest(DATA / "finished").settings, manifest("gguf-run").settings
    assert (onnx.temperature, onnx.seed, onnx.reference_k, onnx.limit, onnx.llama) == (0.9, 5, 8, None, None)
    assert (gguf.limit, gguf.llama) == (2, LlamaSettings("auto", "f32", True))
    forced = manifest("gguf-forced").settings
    assert (forced.temperature, forced.llama) == (0.9, LlamaSettings("auto", "f16", False))
    assert (manifest("exact").exact, manifest("gguf-forced").exact) == (True, False)
    assert list(manifest("merged").merged) == ["1/2", "2/2"]


def test_a_run_of_0_1_which_told_less_of_its_machine_is_read(old):
    raw = json.loads((old / "finished" / "run.json").read_text())
    for name in ("swap_bytes", "simd", "core_kinds"):
        del raw["device"][name]
    del raw["merged"], raw["taps_lost"]
    (old / "finished" / "run.json").write_text(json.dumps(raw))
    manifest = Run.open(old / "finished").manifest
    assert (manifest.device.processor, manifest.device.simd, manifest.merged) == ("AMD EPYC", (), {})
    edge_command(old, *RUN, "--out", "{finished}")  # finds it finished


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((), "top_p is not known to Edgetrace"),
        (("settings",), "settings.top_p is not known to Edgetrace"),
        (("artifact",), "artifact.top_p is not known to Edgetrace"),
        (("like", "artifact"), "like.artifact.top_p is not known to Edgetrace"),
    ],
)
def test_what_a_later_version_decides_by_is_refused_by_its_name(place, words, old):
    path = old / "forced" / "run.json"
    raw = json.loads(path.read_text())
    target = raw
    for name in place:
        target = target[name]
    target["top_p"] = 0.9
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=f"cannot be read \\({words}"):
        Run.open(old / "forced")


def test_what_a_later_version_tells_of_the_machine_is_ignored(old):
    path = old / "forced" / "run.json"
    raw = json.loads(path.read_text())
    raw["device"]["gpu"] = "none"
    path.write_text(json.dumps(raw))
    assert Run.open(old / "forced").manifest == read_manifest(DATA / "forced")


# Finished


def test_finished_runs_are_compared_as_before_but_for_what_eight_answers_cannot_tell(old):
    edge_command(old, "compare", "{finished}", "{forced}", "--json", "{compare.json}")
    printed, wanted = (
        json.loads((folder / "compare.json").read_text()) for folder in (old, DATA / "printed")
    )
    assert_holds(printed, estimates(wanted))
    assert (printed["full_class"]["label"], printed["same_class"]) == ("undefined", None)
    for change, before in zip(printed["changes"], wanted["changes"], strict=False):
        assert change["full"]["few"] and change["full"]["low"] <= before["full"]["low"]


def test_labels_and_scores_are_read_as_before(old):
    edge_command(old, "label", "{finished}", "--show", "--json", "{label.json}")
    score = ("score", "{tiny-onnx-fp32}", "--questions", "{questions.csv}", "--out", "{scores}", *THREAD)
    before = tree(old / "scores")
    edge_command(old, *score, "--json", "{score.json}")
    assert tree(old / "scores").items() >= before.items()
    for name in ("label.json", "score.json"):
        printed, wanted = (json.loads((folder / name).read_text()) for folder in (old, DATA / "printed"))
        assert_holds(estimates(printed), estimates(wanted))


def test_labels_are_given_as_before(old):
    (old / "finished" / "outcomes.parquet").unlink()
    edge_command(old, "label", "{finished}", "--questions", "{questions.csv}", "--auto")
    imported = ("--import", "{labels.csv}", "--rater", "reader", "--json", "{label.json}")
    edge_command(old, "label", "{finished}", *imported)
    wanted = json.loads((DATA / "printed" / "label.json").read_text())
    assert_holds(json.loads((old / "label.json").read_text()), wanted)


def test_finished_runs_are_reported_and_studied(old):
    edge_command(old, "report", "{finished}", "{forced}", "--out", "{report.html}")
    page = (old / "report.html").read_text()
    assert "onnx-int4 forced" in page
    edge_command(old, "paper", "{finished}", "--json", "{paper.json}")
    (study,) = json.loads((old / "paper.json").read_text())["runs"]
    assert study["truth"] is not None


def test_a_finished_run_is_left_as_it_is(old):
    before = tree(old / "finished")
    edge_command(old, *RUN, "--out", "{finished}")
    assert {name: data for name, data in tree(old / "finished").items() if name != ".lock"} == before


# Parts of several versions: those of today have more columns.

LATER = {"steps": ("attention_renyi2",), "answers": ("attention_renyi2_mean_vector", "note")}


@pytest.fixture
def other(old: Path) -> Path:
    """The second of two shards, traced today, with columns that the first lacks."""
    edge_command(old, *RUN, "--shard", "2/2", "--out", "{other}")
    run, whole = Run.open(old / "other"), Run.open(DATA / "finished")
    for table, names in LATER.items():
        assert {*names} == {*run.columns(table)} - {*whole.columns(table)}
    return old / "other"


def assert_is_whole(run: Run, *, mixed: bool = False) -> None:
    """It has the columns and rows of the run of 0.2.0 that asked all questions.

    Where versions are mixed, `token` of the later rows is what a token adds to the text.
    """
    whole = Run.open(DATA / "finished")
    for table, rows, wanted in (
        ("steps", run.steps(), whole.steps()),
        ("answers", run.answers(), whole.answers()),
    ):
        assert run.columns(table) == rows.column_names == wanted.column_names
        names = [name for name in wanted.column_names if not (mixed and name == "token")]
        assert_same_rows(rows, wanted, names)


def test_shards_of_both_versions_are_merged_in_the_columns_that_all_have(old, other, capsys):
    before = tree(old / "shard"), tree(other)
    for name, order in (("one", ("{shard}", "{other}")), ("two", ("{other}", "{shard}"))):
        edge_command(old, "merge", *order, "--out", f"{{{name}}}")
    said = capsys.readouterr().err.replace("\n", " ")
    for table, columns in LATER.items():
        missing = f"not all of these runs have {', '.join(columns)} in their {table}: left out"
        assert f"{missing} of the merged run" in said
    assert tree(old / "one") == tree(old / "two")
    assert (tree(old / "shard"), tree(other)) == before
    merged = Run.open(old / "one")
    assert merged.manifest.decides() == read_manifest(DATA / "finished").decides()
    assert_is_whole(merged, mixed=True)


def test_parts_that_were_copied_together_are_read_in_the_columns_that_all_have(old, other):
    """Names of parts tell the shard, so that parts of several may lie in one folder."""
    for table in LATER:
        for path in (other / table).iterdir():
            shutil.copy(path, old / "shard" / table)
    run = Run.open(old / "shard")
    assert_is_whole(run, mixed=True)
    with pytest.raises(UserError, match="lacks the column attention_renyi2"):
        run.steps(["question_index", "step", "attention_renyi2"])


# Unfinished


def test_a_half_done_run_goes_on_with_its_own_columns(old):
    before = tree(old / "half-done")
    answered = Run.open(old / "half-done", unfinished=True).answers().num_rows
    assert 0 < answered < 8
    edge_command(old, *RUN, "--out", "{half-done}")
    after = tree(old / "half-done")
    assert all(after[name] == before[name] for name in before if "part-" in name)
    assert len(list((old / "half-done").glob("answers/part-*"))) == 2
    assert columns_of(old / "half-done") == columns_of(DATA / "finished")
    run = Run.open(old / "half-done")
    assert_is_whole(run)
    raw = run.manifest.to_json()
    begun, gone_on = raw.pop("sessions")
    assert raw == read_manifest(DATA / "half-done").to_json() | {"state": "finished"}
    assert (begun["versions"]["edgetrace"], begun["started"]) == ("0.2.0", raw["created"])
    assert gone_on["versions"]["edgetrace"] == __version__
    assert [session.count for session in run.sessions()] == [answered, 8 - answered]


def test_a_half_done_forced_run_goes_on_with_its_own_columns(old):
    before, whole = tree(old / "half-done-forced"), Run.open(DATA / "finished")
    edge_command(old, *FORCE, "--out", "{half-done-forced}")
    after = tree(old / "half-done-forced")
    assert all(after[name] == before[name] for name in before if "part-" in name)
    assert columns_of(old / "half-done-forced") == columns_of(DATA / "forced")
    run = Run.open(old / "half-done-forced")
    steps = run.steps()
    shared = [name for name in whole.columns("steps") if name in steps.column_names]
    assert_same_rows(steps, whole.steps(), shared)
    assert max(abs(kl) for kl in steps.column("kl").to_pylist()) < 1e-5
    own = whole.steps(["question_index", "step", "surprisal"]).column("surprisal").to_pylist()
    assert_close(steps.column("reference_surprisal").to_pylist(), own, "reference_surprisal")


def test_a_half_done_run_with_other_settings_is_refused_by_their_names(old, capsys):
    before = tree(old / "half-done")
    assert call(edge.cli.app.main, [*RUN, "--seed", "6", "--out", "{half-done}"], old) == 2
    assert "holds another run (it differs in settings.seed): give another --out" in capsys.readouterr().err
    assert tree(old / "half-done") == before


@pytest.mark.parametrize("table", ["steps", "answers"])
def test_a_run_with_a_column_that_is_not_written_today_is_refused_by_its_name(table, old, capsys):
    (path,) = (old / "half-done" / table).glob("part-*")
    rows = read_part(path)
    path.unlink()
    stem = part_stem(path.name)
    write_part(path.parent, stem, rows.append_column("tomorrow", pa.array([1.0] * rows.num_rows)))
    before = tree(old / "half-done")
    assert call(edge.cli.app.main, [*RUN, "--out", "{half-done}"], old) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert "has the column tomorrow, which Edgetrace" in said
    assert "does not write: finish it with Edgetrace 0.2.0, or give another --out" in said
    assert {name: data for name, data in tree(old / "half-done").items() if name != ".lock"} == before
