"""The noise floor: measured by reading one artifact in several ways, told beside a KL that is near it."""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict

import numpy as np
import pytest

import edge.cli.app
from benchmarks.noise_floor import REFERENCE, WAYS, Way, compare, read, texts_of
from edge.analysis.noise_floor import FLOORS, NEAR, REAL, noise_floor
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import open_backend
from edge.errors import ignore
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.run import run
from edge.questions.question import EMBEDDED, read_questions
from edge.runs.run_directory import Run
from tests.conftest import ONE_THREAD, ROOT
from tests.test_cli_errors import call

pytestmark = pytest.mark.slow  # many runs of models

MODEL = "nano-llama"
TOLD = "KL is below 10 times the noise floor of"
TABLE = ROOT / "docs" / "measurements" / "noise-floor-2026-11-27.md"


@pytest.fixture(scope="module")
def runs(artifacts, tmp_path_factory):
    """full, and near (gguf-f32, the same weights) and far (onnx-int4), both forced on it."""
    base = tmp_path_factory.mktemp("noise")
    full = Artifact.open(artifacts(MODEL))
    questions = read_questions(EMBEDDED)[:6]
    run(full, questions, base / "full", DecodeSettings(24), runtime=ONE_THREAD)
    for name, precision in (("near", "gguf-f32"), ("far", "onnx-int4")):
        other = Artifact.open(artifacts(MODEL, precision))
        force(other, base / "full", base / name, exact=full, runtime=ONE_THREAD)
    return base


@pytest.mark.parametrize("name", ["near", "far"])
def test_a_kl_below_ten_floors_is_told_with_its_floor_and_others_are_not(name, runs, tmp_path, capsys):
    arguments = ["compare", str(runs / "full"), str(runs / name), "--json", str(tmp_path / "one.json")]
    assert call(edge.cli.app.main, arguments, tmp_path) == 0
    shown = " ".join(capsys.readouterr().out.split())
    forced = json.loads((tmp_path / "one.json").read_text())["forced"]
    floor = forced["noise_floor"]
    assert floor["model_id"] == MODEL
    assert floor["kl"] == FLOORS[MODEL][floor["precision"]] > 0
    assert floor["near"] == (forced["kl"]["mean"] < NEAR * floor["kl"]) == (name == "near")
    assert (f"{TOLD} {floor['precision']}" in shown) == (name == "near")
    assert (f"measured on {MODEL}" in shown) == (name == "near")


def test_of_several_artifacts_those_near_their_floor_are_named(runs, tmp_path, capsys):
    names = [str(runs / name) for name in ("full", "near", "far")]
    assert call(edge.cli.app.main, ["compare", *names, "--json", str(tmp_path / "all.json")], tmp_path) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count(TOLD) == 1
    assert f"gguf-f32: {TOLD}" in shown
    near, far = json.loads((tmp_path / "all.json").read_text())["lines"]
    assert near["damage"]["noise_floor"]["near"]
    assert not far["damage"]["noise_floor"]["near"]


def test_the_report_tells_it_where_it_shows_the_kl(runs, tmp_path):
    names = [str(runs / name) for name in ("full", "near", "far")]
    assert call(edge.cli.app.main, ["report", *names, "--out", str(tmp_path / "r.html")], tmp_path) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count(TOLD) == 2  # on the first screen, and in the notes of the model
    assert len(re.findall(f"gguf-f32[^.]*: {TOLD}|{TOLD} (?:gguf-f32|onnx-fp32)", page)) >= 2


def test_a_model_without_floors_of_its_own_has_those_of_the_real_one(runs, tmp_path, capsys):
    """Runs made under another model's name: 4 bits of a nano model are then near the floor."""
    for name in ("full", "far"):
        (tmp_path / name).mkdir()
        for path in (runs / name).rglob("*"):
            target = tmp_path / name / path.relative_to(runs / name)
            if path.is_dir():
                target.mkdir()
            else:
                target.write_bytes(path.read_bytes().replace(b'"nano-llama"', b'"other"'))
    raw = json.loads((tmp_path / "far" / "run.json").read_text())
    assert raw["artifact"]["model_id"] == "other"
    arguments = ["compare", str(tmp_path / "full"), str(tmp_path / "far")]
    assert call(edge.cli.app.main, arguments, tmp_path) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{TOLD} onnx-int4" in shown
    assert f"measured on {REAL}" in shown


@pytest.mark.parametrize("precision", ["onnx-fp32", "onnx-int4", "gguf-f32"])
def test_an_artifact_read_in_other_ways_differs_by_rounding_alone(precision, artifacts, runs):
    texts = texts_of(Run.open(runs / "full"), 12)
    assert len(texts) == 6
    backend = open_backend(Artifact.open(artifacts(MODEL, precision)), Runtime(threads=1), 256, ignore)
    try:
        wanted = [np.stack([logits.copy() for logits in read(backend, text, REFERENCE)]) for text in texts]
        again = compare(wanted, backend, texts, REFERENCE)
        assert (again.kl.value, again.logit, again.same_top1) == (0.0, 0.0, 1.0)
        ways = [compare(wanted, backend, texts, way) for way in WAYS if way.threads == 1]
        assert {noise.tokens for noise in ways} == {sum(len(text.answer) for text in texts)}
        assert max(noise.logit for noise in ways) < 0.5
        assert max(noise.kl.value for noise in ways) < 1e-4
        assert max(noise.logit for noise in ways) > 0.0  # not all are one way
        # Another prompt is farther off than that, although these models know their answers by heart.
        moved = [text._replace(prompt=(text.prompt[0], *text.prompt[2:])) for text in texts]
        assert compare(wanted, backend, moved, Way("other prompts")).kl.value > 1e-4
    finally:
        backend.close()


def test_no_floor_is_told_where_one_precision_has_none(runs, tmp_path):
    """The other one's, which may be tiny, is not the comparison's."""
    shutil.copytree(runs / "near", tmp_path / "unmeasured")
    path = tmp_path / "unmeasured" / "run.json"
    path.write_text(path.read_text().replace('"gguf-f32"', '"gguf-f16"'))
    full, other = Run.open(runs / "full"), Run.open(tmp_path / "unmeasured")
    assert other.manifest.precision == "gguf-f16"
    assert noise_floor(full, other, 0.004) is None
    assert noise_floor(full, Run.open(runs / "near"), 0.004) is not None


def test_the_floors_are_the_largest_of_the_measured_table():
    largest: dict[str, dict[str, float]] = defaultdict(dict)
    model = ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            model = line.removeprefix("## ")
        elif model in FLOORS and re.match(r"\| (onnx|gguf)-", line):
            precision, _, kl, *_ = (cell.strip() for cell in line.strip("|").split("|"))
            row = largest[model]
            row[precision] = max(row.get(precision, 0.0), float(kl.split()[0]))
    assert largest.keys() == FLOORS.keys()
    for name, row in FLOORS.items():
        assert row == pytest.approx(largest[name], rel=0.05), name
