"""edge questions fetch from a server on this machine, what is refused, and which questions are asked by
default."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from edge.cli import questions as cli_questions
from edge.cli.app import app
from edge.errors import UserError
from edge.questions.question import (
    EMBEDDED,
    default_questions,
    fetched_path,
    questions_sha256,
    read_questions,
)
from tests.conftest import write_questions

GOOD = EMBEDDED.read_bytes()
DIGEST = hashlib.sha256(GOOD).hexdigest()


HUB_FILES: dict[str, bytes] = {}  # by revision and path, what the data set holds


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name == "absent":
            self.send_error(404)
            return
        if name.startswith("datasets/"):
            self.answer(HUB_FILES[name.partition("/resolve/")[2]])
            return
        self.answer(b"<html>not questions</html>" if name == "page" else GOOD, cut=name == "cut")

    def answer(self, data: bytes, *, cut: bool = False) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def fetch(*arguments: str):
    return CliRunner().invoke(app, ["questions", "fetch", *arguments])


def test_what_is_fetched_is_asked_by_default(server: str) -> None:
    assert default_questions() == EMBEDDED
    found = fetch("--url", f"{server}/good", "--sha256", DIGEST.upper())
    assert found.exit_code == 0, found.output
    assert DIGEST in found.output
    assert fetched_path().read_bytes() == GOOD
    assert default_questions() == fetched_path()
    assert [path.name for path in fetched_path().parent.iterdir()] == [fetched_path().name]


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("good", ("--sha256", "0" * 64), f"has the SHA-256 {DIGEST}, not 0000"),
        ("cut", (), "was cut after"),
        ("cut", ("--sha256", DIGEST), "was cut after"),
        ("absent", (), "answers 404"),
        ("page", (), "holds other than TruthfulQA's questions"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_what_is_not_right_leaves_things_as_they_were(
    server: str, name: str, more: tuple, words: str, there: bool
) -> None:
    if there:
        fetched_path().parent.mkdir(parents=True)
        fetched_path().write_bytes(b"earlier")
    found = fetch("--url", f"{server}/{name}", *more)
    assert isinstance(found.exception, UserError)
    assert words in str(found.exception)
    assert f"put the file at {fetched_path()} yourself" in str(found.exception)
    files = (
        [path.read_bytes() for path in fetched_path().parent.glob("*")]
        if fetched_path().parent.exists()
        else []
    )
    assert files == ([b"earlier"] if there else [])


def test_an_address_that_cannot_be_reached_or_is_none(server: str, tmp_path: Path) -> None:
    port = int(server.rpartition(":")[2])
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    for url, words in (
        (f"http://127.0.0.1:{port}/x", "cannot reach"),
        (f"file://{EMBEDDED}", "give an http or https address"),
    ):
        found = fetch("--url", url)
        assert isinstance(found.exception, UserError)
        assert words in str(found.exception)
        assert str(fetched_path()) in str(found.exception)
    assert "64 hexadecimal digits" in str(fetch("--sha256", "abc").exception)
    assert not fetched_path().exists()


def test_the_authors_address_is_checked_however_it_is_given(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_questions, "ADDRESS", f"{server}/good")
    for more in ((), ("--url", f"{server}/good")):
        assert "instead of 790" in str(fetch(*more).exception)
    assert "give an http or https address" in str(fetch("--url", "").exception)


def test_a_full_or_missing_temporary_folder_is_told(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    found = fetch("--url", f"{server}/good")
    assert isinstance(found.exception, UserError)
    assert f"cannot write {tmp_path / 'gone'}" in str(found.exception)
    assert "TMPDIR" in str(found.exception)
    assert not fetched_path().exists()


def test_the_authors_file_has_790_questions_with_a_best_pair(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="instead of 790"):
        cli_questions.check_authors(write_questions(tmp_path / "few.csv", [f"Q{i}?" for i in range(789)]))
    cli_questions.check_authors(write_questions(tmp_path / "all.csv", [f"Q{i}?" for i in range(790)]))


# The hub's forms


@pytest.mark.parametrize("form", ["generation", "multiple_choice"])
def test_the_hubs_data_set_at_its_pinned_revision(
    server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: str
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{server}/")
    row = GENERATION if form == "generation" else CHOICE
    rows = [row | {"question": f"Q{i}?"} for i in range(cli_questions.HUB_COUNT)]
    whole, few = (written(tmp_path / f"{n}.parquet", rows[:n]).read_bytes() for n in (len(rows), 3))
    HUB_FILES.update(
        {
            f"{cli_questions.REVISION}/{form}/validation-00000-of-00001.parquet": whole,
            f"v2/{form}/validation-00000-of-00001.parquet": few,
        }
    )
    found = fetch("--hub", form)
    assert found.exit_code == 0, found.output
    target = fetched_path().with_name(f"truthful_qa-{form}-{cli_questions.REVISION}.parquet")
    assert f"ask them with --questions {target}" in found.output
    assert target.read_bytes() == whole
    assert len(read_questions(target)) == 817
    assert default_questions() == EMBEDDED  # the paper asks the authors' questions
    assert fetch("--hub", form, "--revision", "v2").exit_code == 0
    HUB_FILES[f"{cli_questions.REVISION}/{form}/validation-00000-of-00001.parquet"] = few
    refused = fetch("--hub", form)
    assert "(3 questions instead of 817); get the file in another way" in str(refused.exception)
    assert target.read_bytes() == whole
    assert len(list(target.parent.iterdir())) == 2


def test_what_the_hub_is_asked_for_must_be_plain(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server)
    assert "give --hub" in str(fetch("--revision", "v2").exception)
    monkeypatch.setenv("HF_ENDPOINT", "here")
    assert "HF_ENDPOINT is 'here'" in str(fetch("--hub", "generation").exception)
    assert "--url and --hub" in str(fetch("--hub", "generation", "--url", f"{server}/good").exception)
    for revision in ("", "../x", "a/b", "a b", ".."):
        assert "--revision is" in str(fetch("--hub", "generation", "--revision", revision).exception)


GENERATION = {
    "type": "Adversarial",
    "category": "Law",
    "question": "Why? ",
    "best_answer": "So",
    "correct_answers": ["So", "Thus"],
    "incorrect_answers": ["No; never"],
    "source": "x",
}
CHOICE = {
    "question": "Why?",
    "mc1_targets": {"choices": ["So", "No"], "labels": [1, 0]},
    "mc2_targets": {"choices": ["So", "Thus", "No"], "labels": [1, 1, 0]},
}


def written(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_the_hubs_forms_are_read(tmp_path: Path, suffix: str) -> None:
    (question,) = read_questions(written(tmp_path / f"generation{suffix}", [GENERATION]))
    assert (question.question, question.best, question.category, question.type) == (
        "Why?",
        "So",
        "Law",
        "Adversarial",
    )
    assert (question.correct, question.incorrect) == (("So", "Thus"), ("No; never",))
    (question,) = read_questions(written(tmp_path / f"mc{suffix}", [CHOICE]))
    assert (question.question, question.best, question.correct, question.incorrect) == (
        "Why?",
        "So",
        ("So", "Thus"),
        ("No",),
    )


def test_the_form_does_not_change_the_content_hash(tmp_path: Path) -> None:
    forms = [
        read_questions(written(tmp_path / f"q{suffix}", [GENERATION])) for suffix in (".parquet", ".jsonl")
    ]
    assert questions_sha256(forms[0]) == questions_sha256(forms[1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no questions"),
        ("{", "cannot read the questions"),
        ('{"question": "Why?"}', "row 1 is neither"),
        ("[1]", "row 1 is neither"),
        (json.dumps(GENERATION | {"question": 3}), "3 is no text"),
        (json.dumps(GENERATION | {"question": " "}), "no question in data row 1"),
        (json.dumps(CHOICE | {"mc2_targets": {"choices": ["a"], "labels": []}}), "row 1 is neither"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_questions(path)
    (tmp_path / "q.parquet").write_text(text)
    with pytest.raises(UserError, match="cannot read the questions"):
        read_questions(tmp_path / "q.parquet")
