"""Models by precision: each cell says what the comparison of that run found, and has a stronger colour where
more changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edge.analysis.divergence import compare
from edge.report.formatting import ABSENT, percent
from edge.report.matrix import STEPS, matrices, shade
from edge.report.model import build_groups
from edge.report.write import write_report
from edge.runs.run_directory import Run
from tests.conftest import Artifacts, write_questions
from tests.test_report import Page, runs, trace  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow  # many runs of models


def renamed(run: Run, folder: Path, model_id: str) -> Run:
    shutil.copytree(run.folder, folder)
    raw = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for artifact in (raw["artifact"], *([raw["like"]["artifact"]] if raw["like"] else [])):
        artifact["model_id"] = model_id
    (folder / "run.json").write_text(json.dumps(raw), encoding="utf-8")
    return Run.open(folder)


def test_a_row_for_each_model_and_a_column_for_each_precision(runs: dict[str, Run], tmp_path: Path) -> None:  # noqa: F811
    model = "other<img src=x>"
    other = [renamed(runs[name], tmp_path / name, model) for name in ("full", "quantised")]
    every = [*runs.values(), *other]
    found = {
        matrix.caption.split(",")[0].split(" ±")[0]: matrix for matrix in matrices(build_groups(every, 0.1))
    }
    assert list(found)[1:] == [
        "Answers that stay the same",
        "Change of output entropy",
        "Change of attention entropy",
        "Class",
    ]
    assert all(matrix.columns == ["onnx-int4"] for matrix in found.values())
    assert [name for name, _ in found["Class"].rows] == ["odd<img src=x>", model]
    forced, free = (
        compare(runs["full"], runs["forced"]).forced,
        compare(runs["full"], runs["quantised"]).free,
    )
    assert forced is not None
    assert forced.kl is not None
    assert free is not None
    kl = next(iter(found.values()))
    assert kl.rows[0][1][0].text.startswith(f"{forced.kl.mean:.3g} ±")
    assert kl.rows[0][1][0].shade == shade(forced.kl.mean, 1e-5, 1.0)
    assert kl.rows[1][1][0] == (ABSENT, 0)  # nobody forced it
    same = [cells[0] for _, cells in found["Answers that stay the same"].rows]
    assert same[0] == same[1]
    assert same[0].text == percent(free.identical)
    assert same[0].shade == round(STEPS * (1 - free.identical.value))
    write_report(every, tmp_path / "r.html")
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.count("img") == 0
    assert sum(
        name == "table" and attributes.get("class") == "matrix" for name, attributes in page.tags
    ) == len(found)


def test_a_model_without_a_single_token_has_dashes(
    runs: dict[str, Run],  # noqa: F811
    artifacts: Artifacts,
    tmp_path: Path,
) -> None:
    long = write_questions(tmp_path / "q.csv", ["why " * 2000])
    empty = [
        trace(artifacts("untied", precision), long, tmp_path / precision)
        for precision in ("onnx-fp32", "onnx-int4")
    ]
    every = [runs["full"], runs["quantised"], *empty]
    for matrix in matrices(build_groups(every, 0.1)):
        cell = matrix.rows[1][1][0]
        assert cell.shade == 0, matrix.caption
    assert write_report(every, tmp_path / "r.html").models == 2


def test_one_model_has_no_matrix(runs: dict[str, Run]) -> None:  # noqa: F811
    assert matrices(build_groups(list(runs.values()), 0.1)) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, 0), (1e-5, 0), (1.1e-5, 1), (1e-3, 4), (0.1, 8), (1.0, 10), (50.0, 10), (float("nan"), 0)],
)
def test_shades_are_logarithmic(value: float, expected: int) -> None:
    assert shade(value, 1e-5, 1.0) == expected
