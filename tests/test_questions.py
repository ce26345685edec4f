"""edge.questions: what is read from a CSV, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import UserError
from edge.questions.question import EMBEDDED, Question, parse_shard, questions_sha256, read_questions, select
from tests.conftest import COLUMNS, QUESTIONS, SHARED, write_questions

HEADER = "Question,Best Answer,Correct Answers,Incorrect Answers"


def read(tmp_path, text):
    path = tmp_path / "q.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_questions(path)


def test_every_column_of_the_2025_form_is_read(questions_file):
    questions = read_questions(questions_file)
    assert [q.question for q in questions] == list(QUESTIONS)
    assert [q.index for q in questions] == list(range(len(QUESTIONS)))
    first = questions[0]
    assert (first.type, first.category, first.best, first.best_incorrect) == (
        "Adversarial",
        "Category 0",
        "Yes",
        "No",
    )
    assert (first.correct, first.incorrect) == (("Yes", "Yes indeed"), ("No", "Never"))
    assert first.question_id == hashlib.sha256(QUESTIONS[0].encode()).hexdigest()[:12]


def test_the_older_form_has_no_best_incorrect_answer(tmp_path):
    (question,) = read(tmp_path, f"{HEADER}\nWhy?,Because,Because; So,No;; ;Never\n")
    assert question.best_incorrect == ""
    assert question.incorrect == ("No", "Never")


def test_quotes_newlines_a_byte_order_mark_and_blank_rows_are_csv(tmp_path):
    text = f'\ufeff{HEADER},Other\r\n"Is ""this"",\nit? ",A,B,C,d\r\n\r\n,,,,\r\nWhy?,A,,\r\n'
    first, second = read(tmp_path, text)
    assert first.question == 'Is "this",\nit?'
    assert (second.index, second.question, second.correct) == (1, "Why?", ())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        (f"{HEADER}\n", "no questions"),
        ("Question,Best Answer\nWhy?,So\n", "lacks the column Correct Answers and Incorrect Answers"),
        (f"{HEADER}\nWhy?,A,B,C\n  ,A,B,C\n", "no question in data row 2"),
        (f"{HEADER}\nWhy?,A,B,C\n".encode() + b"caf\xe9,A,B,C\n", "not UTF-8 (line 3, byte"),
        (f'{HEADER}\nWhy?,A,B,"C\n', "not a well-formed CSV"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path, content, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read(tmp_path, content)
    assert str(tmp_path / "q.csv") in str(caught.value)


ROW = "Do bats see?,Yes.,Yes.; They do.,No."
FORMS = {
    "semicolons": f'{HEADER}\nDo bats see?,Yes.,"Yes.; They do.",No.\n'.replace(",", ";"),
    "tabs": f"{HEADER}\n{ROW}\n".replace(",", "\t"),
    "bars": f"{HEADER}\n{ROW}\n".replace(",", "|"),
    "a line for Excel": f"sep=,\r\n{HEADER}\r\n{ROW}\r\n",
    "a line for Excel, semicolons": "sep=;\n"
    + f'{HEADER}\nDo bats see?,Yes.,"Yes.; They do.",No.\n'.replace(",", ";"),
    "old line ends": f"{HEADER}\r{ROW}\r",
    "UTF-16": f"{HEADER}\n{ROW}\n".encode("utf-16"),
    "UTF-16 of the other end": b"\xfe\xff" + f"{HEADER}\n{ROW}\n".encode("utf-16-be"),
    "UTF-16 without a mark": f"{HEADER}\n{ROW}\n".encode("utf-16-le"),
    "UTF-16, tabs": f"{HEADER}\n{ROW}\n".replace(",", "\t").encode("utf-16"),
    "another case": f"{HEADER.lower().replace('question', ' QUESTION ')}\n{ROW}\n",
    "blank rows": f"\n , \n{HEADER}\n\n,,,\n{ROW}\n ,\u00a0,,\n",
    "other columns": f",Note,{HEADER},\n1,x,{ROW},\n",
    "no cell in what is not needed": f"{HEADER},Source,Category\n{ROW}\n",
    "a byte order mark": f"\ufeff{HEADER}\n{ROW}\n",
    "a long cell": f"{HEADER},Note\n{ROW},{'u' * 999_999}\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_csv_that_spreadsheets_save_is_read_alike(tmp_path, form):
    limit = csv.field_size_limit()
    (question,) = read(tmp_path, FORMS[form])
    assert question == Question(0, "Do bats see?", "Yes.", "", ("Yes.", "They do."), ("No.",))
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            f"{HEADER}\n{ROW}\nDo bats, and owls, see?,Yes.,Yes.,No.\n",
            "6 cells under 4 columns in data row 2",
        ),
        (
            f"{HEADER}\nDo bats see?,Yes, they do.,Yes.,No.\n",
            "(line 2): put quotes around a cell that holds a comma",
        ),
        (f"{HEADER}\n{ROW},\n", "5 cells under 4 columns in data row 1"),  # an empty one, too, shows a shift
        (
            f"{HEADER}\n{ROW}\n".replace(",", ";"),
            "5 cells under 4 columns in data row 1 (line 2): put quotes "
            "around a cell that holds a semicolon",
        ),
        (f"{HEADER}\n\n{ROW}\nDo bats\n", "no cell for Best Answer in data row 2 (line 4)"),
        (f'{HEADER}\n"Do\nbats",A,B,C\nWhy?,A,B\n', "no cell for Incorrect Answers in data row 2 (line 4)"),
        (f"sep=;\n{HEADER}\n{ROW}\n", "lacks the column Question and Best Answer"),
        (f"Question,{HEADER}\n,{ROW}\n", "has the column Question 2 times"),
        (f"{HEADER},SOURCE,source\n{ROW},,\n", "has the column Source 2 times"),
        (f"{HEADER}\n{ROW}\n\u00a0\u200b,A,B,C\n", "no question in data row 2"),
        (f"{HEADER}\n{ROW}\nDo\0 bats?,A,B,C\n", "a NUL character in data row 2 (line 3)"),
        (f'{HEADER}\n{ROW}\nWhy?,"A,B,C\n{ROW}\n', "the row that begins in line 3"),
        (f'{HEADER}\n"Why?" so,A,B,C\n', "the row that begins in line 2"),
        (
            f"{HEADER}\n{ROW}\n{'u' * 1_000_001},A,B,C\n",
            "more than 1,000,000 characters in the row of line 3",
        ),
        (b"PK\x03\x04\x14\x00\x06\x00", "is a workbook"),
        (f"{HEADER}\n{ROW}\n".encode("utf-16")[:-1], "not UTF-16"),
        ("\n \n", "is empty"),
    ],
)
def test_a_row_whose_cells_may_be_others_is_refused_by_its_number(tmp_path, content, words):
    with pytest.raises(UserError, match=re.escape(words)):
        read(tmp_path, content)


def test_equal_questions_and_characters_written_as_in_html_stay(tmp_path):
    text = f"{HEADER}\n{ROW}\n{ROW}\nAT&amp;T?,R&D; x,AT&amp;T; &#39;a&#x27;;R&D; b,No.\n"
    *twice, last = read(tmp_path, text)
    assert twice[0].question_id == twice[1].question_id
    assert [question.index for question in twice] == [0, 1]
    assert last.correct == ("AT&amp;T", "&#39;a&#x27;", "R&D", "b")


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot read the questions"):
        read_questions(tmp_path / name)
    with pytest.raises(UserError, match="cannot read the questions"):
        read_questions(str(tmp_path / name))


def test_the_content_hash_follows_the_questions_not_the_file(tmp_path, questions_file):
    copy = write_questions(tmp_path / "elsewhere.csv", QUESTIONS)
    other = write_questions(tmp_path / "other.csv", [*QUESTIONS[:-1], "Else?"])
    assert questions_sha256(read_questions(copy)) == questions_sha256(read_questions(questions_file))
    assert questions_sha256(read_questions(other)) != questions_sha256(read_questions(questions_file))


@given(st.integers(1, 12), st.integers(1, 12) | st.none())
def test_shards_are_disjoint_and_complete(count, limit):
    items = list(range(10))
    full = min(count, len(items[:limit]))
    shards = [select(items, limit, f"{i}/{count}") for i in range(1, full + 1)]
    for empty in range(full + 1, count + 1):  # which no run directory could hold
        with pytest.raises(UserError, match=f"make at most {full} shards"):
            select(items, limit, f"{empty}/{count}")
    assert sorted(index for shard in shards for index in shard) == items[:limit]
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(
    "shard", ["0/3", "4/3", "1", "1/", "/2", "a/b", "-1/3", "1/3/3", "1 / 3", "", "²/3"]
)
def test_a_bad_shard_is_refused(shard):
    with pytest.raises(UserError, match=r"give I/N"):
        parse_shard(shard)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(UserError, match=f"--limit is {limit}"):
        select([], limit, "1/1")


def test_the_embedded_questions_are_whole():
    if not EMBEDDED.is_file():
        pytest.skip(f"{EMBEDDED} is not there")
    questions = read_questions(EMBEDDED)
    assert len(questions) >= 80
    assert len({q.question_id for q in questions}) == len(questions)
    for question in questions:
        assert question.best in question.correct
        assert question.best_incorrect in question.incorrect
        assert not set(question.correct) & set(question.incorrect)
    assert EMBEDDED.read_text(encoding="utf-8").splitlines()[0].split(",") == list(COLUMNS)


@pytest.mark.parametrize("count", [790, 817])
def test_truthfulqa_is_read_whole(count):
    path = SHARED / "data" / f"truthfulqa_{count}.csv"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    questions = read_questions(path)
    assert len(questions) == count
    assert all(q.correct and q.incorrect and q.best for q in questions)
    assert all(bool(q.best_incorrect) == (count == 790) for q in questions)
