"""edge.spreadsheet and labels in spreadsheets: what is written is safe, and is read again exactly."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.analysis.export import write_tables
from edge.artifact import Artifact
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.run import run as trace
from edge.questions.question import Question
from edge.runs.outcomes import HAND, Judgement, read_outcomes, save
from edge.runs.run_directory import Run
from edge.runs.sheets import export_csv, id_cell, import_csv, rater_cell, rater_of
from edge.spreadsheet import FORMULA, csv_text, plain_text, read_csv, safe_text
from tests.conftest import ONE_THREAD

# Texts of what spreadsheets look for at the beginning of a cell.
MARKS = st.text(st.sampled_from("'\"=+-@ \t\r\n;\uff1d\u00a0a1"), max_size=8)


def excel(cell: str) -> str:
    """What a spreadsheet saves for a cell that it takes for a number or a date."""
    if re.fullmatch(r"\d{12,}", cell) or re.fullmatch(r"\d+e\d+", cell):
        return f"{float(cell):.5E}".replace("E+0", "E+") if float(cell) < 1e308 else cell
    if re.fullmatch(r"0\d+", cell):
        return str(int(cell))
    if found := re.fullmatch(r"(\d{1,2})[-/](\d{1,2})", cell):
        return f"{found[1]}. Feb"
    return cell


@given(MARKS | st.text())
def test_a_text_is_safe_and_comes_back(text: str) -> None:
    cell = safe_text(text)
    assert not cell.lstrip(" \u00a0").startswith(FORMULA)
    cells = re.split("[;\t\r\n]", cell)  # as a program for another country takes it apart
    assert not any(part.lstrip('" \u00a0').startswith(FORMULA) for part in cells)
    assert plain_text(cell) == text


@given(st.lists(st.lists(MARKS | st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2)))
def test_every_program_reads_the_cells_that_were_written(rows: list[list[str]]) -> None:
    text = csv_text(["a", "b"], rows)
    read = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    pictured = [[cell.replace("\0", "\u2400") for cell in row] for row in rows]
    assert [[plain_text(cell) for cell in row] for row in read[1:]] == pictured


def test_numbers_stay_numbers() -> None:
    assert csv_text(["n"], [[-5], [1.5], [None], [True], ["-5"]]) == "n\n-5\n1.5\n\ntrue\n'-5\n"


@given(MARKS | st.sampled_from(["007", "1-2", "3e5", "123456789012", "'007", "1", "0", "", "12"]))
def test_the_name_of_a_rater_comes_back_from_a_spreadsheet(name: str) -> None:
    cell = safe_text(rater_cell(name))
    assert excel(cell) == cell
    assert rater_of(cell) == name


@pytest.mark.parametrize(
    ("identity", "cell"),
    [
        ("123456789012", "q:123456789012"),
        ("000123456789", "q:000123456789"),
        ("12e456789012", "q:12e456789012"),
        ("1d0000000012", "q:1d0000000012"),
        ("01dec2026000", "q:01dec2026000"),
        ("0a1b2c3d4e5f", "0a1b2c3d4e5f"),
    ],
)
def test_an_id_that_is_no_text_to_a_spreadsheet_gets_a_prefix(identity: str, cell: str) -> None:
    assert id_cell(identity) == cell
    assert excel(cell) == cell


@pytest.fixture(scope="module")
def traced(artifacts, tmp_path_factory) -> tuple[Path, list[str]]:
    """A run over questions whose ids are digits alone, a number with an exponent, and a text."""
    wanted = [
        re.compile(r"0\d{11}"),
        re.compile(r"[1-9]\d{11}"),
        re.compile(r"\d+e\d+"),
        re.compile("[a-f].*"),
    ]
    questions: list[Question] = []
    for number in range(100_000):
        question = Question(len(questions), f"=cmd{number}", "", "", (), ())
        if wanted and wanted[0].fullmatch(question.question_id):
            questions.append(question)
            wanted.pop(0)
    assert not wanted
    out = tmp_path_factory.mktemp("sheets") / "run"
    trace(
        Artifact.open(artifacts("odd")), questions, out, DecodeSettings(3), prompt="raw", runtime=ONE_THREAD
    )
    return out, [question.question_id for question in questions]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_labels_survive_a_spreadsheet_of_any_country(
    traced: tuple[Path, list[str]], tmp_path: Path, separator: str
) -> None:
    folder, ids = traced
    (folder / "outcomes.parquet").unlink(missing_ok=True)
    run, sheet = Run.open(folder), tmp_path / "sheet.csv"
    raters = ["007", "-ann", "1-2", "o'brien"]
    save(run, [Judgement(i, ids[i], "best", HAND, rater) for i, rater in enumerate(raters)])
    before = read_outcomes(run)
    assert export_csv(run, sheet) == 4
    rows = list(csv.reader(sheet.open(encoding="utf-8", newline="")))
    assert all(cell == excel(cell) and not cell.startswith(FORMULA) for row in rows for cell in row)
    with sheet.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, delimiter=separator).writerows([[excel(cell) for cell in row] for row in rows])
    back = import_csv(run, sheet, "someone")
    assert [(row.question_index, row.question_id, row.rater) for row in back] == [
        (row.question_index, row.question_id, row.rater) for row in before
    ]
    save(run, back)
    assert len(read_outcomes(run)) == 4  # each replaced its own


def test_ids_are_accepted_with_and_without_the_prefix(
    traced: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, ids = traced
    run, sheet = Run.open(folder), tmp_path / "sheet.csv"
    sheet.write_text(
        f"question_index;outcome;question_id\n0;best;q:{ids[0]}\n1,0;best;{ids[1]}\n2.0;best;\n3;;\n"
    )
    assert [row.question_index for row in import_csv(run, sheet, "ann")] == [0, 1, 2]
    sheet.write_text(  # as version 0.2 exported them, and spreadsheets of two countries saved them
        f"question_index;outcome;question_id\n0;best;{excel(ids[0])}\n"
        f"1;best;{excel(ids[1]).replace('.', ',')}\n3;best;{ids[3]}\n"
    )
    assert [row.question_id for row in import_csv(run, sheet, "ann")] == [ids[0], ids[1], ids[3]]
    sheet.write_text(f"question_index,outcome,question_id\n0,best,{excel(ids[1])}\n")
    with pytest.raises(UserError, match="labels question 0"):
        import_csv(run, sheet, "ann")


def test_a_shifted_row_of_labels_is_refused(traced: tuple[Path, list[str]], tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("question_index,rater,outcome\n0,ann\n1,ann, the second,best\n")
    with pytest.raises(UserError, match=r"4 cells under 3 columns in data row 2 \(line 3\)"):
        import_csv(Run.open(traced[0]), sheet, "ann")


def test_tables_of_results_hold_no_formula(tmp_path: Path) -> None:
    table = pa.table({"run": ["=HYPERLINK(1)", "plain, text"], "mean": [-1.5, None], "n": [-3, 4]})
    (path,) = write_tables(tmp_path, {"measures": table}, "csv")
    assert path.read_text() == 'run,mean,n\n\'=HYPERLINK(1),-1.5,-3\n"plain, text",,4\n'
    rows = read_csv(path, ("run", "mean"), ("absent",))
    assert rows[0].cells == {"run": "'=HYPERLINK(1)", "mean": "-1.5", "absent": ""}
    assert rows[1].line == 3
