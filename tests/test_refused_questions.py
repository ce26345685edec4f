"""One bad question never stops a run: it is a row that says why, and no text ends the process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

import edge.cli.app
from edge.artifact import Artifact
from edge.errors import UserError
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force
from edge.jobs.live import answer
from edge.jobs.run import run
from edge.questions.prompt import AS_TEXT, Prompter
from edge.questions.question import read_questions
from edge.report.write import write_report
from edge.runs.run_directory import Run
from tests.conftest import ONE_THREAD, ROOT, write_questions
from tests.shims import edge_in
from tests.test_cli_errors import call
from tests.test_control_tokens import FORMS, asked, open_form
from tests.test_gguf_file import rewritten
from tests.test_prompt import with_template
from tests.test_unknown_characters import sentencepiece

pytestmark = pytest.mark.slow  # many processes or builds

BAD = ("Do bats see?", "why " * 3000, "half \ud800 a character", "nul \0 inside", "", "Do fish sleep?")


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_question_is_a_row_with_a_reason_and_the_run_goes_on(form, artifacts, tmp_path):
    opened = open_form(form, artifacts, tmp_path)
    notes: list[str] = []
    questions = asked(BAD)
    run(
        opened,
        questions,
        tmp_path / "run",
        DecodeSettings(4),
        runtime=ONE_THREAD,
        prompt="raw",
        on_note=notes.append,
    )
    rows = Run.open(tmp_path / "run").answers().to_pylist()
    reasons = [row["stop_reason"] for row in rows]
    assert reasons[1:3] == ["context", "refused"]
    assert reasons[0] not in ("context", "refused")
    assert [row["tokens"] for row in rows][1:3] == [0, 0]
    assert "tokens and the context" in rows[1]["note"]
    assert "is not UTF-8" in rows[2]["note"]
    assert rows[2]["question"] == "half \ufffd a character"
    assert rows[3]["tokens"] > 0
    assert "\0" in rows[3]["question"]
    assert rows[5]["tokens"] > 0
    assert rows[0]["note"] == rows[5]["note"] == ""
    assert any("of 6 questions cannot be asked, the first: " in note for note in notes)
    # Forcing, comparing and the report have such rows too.
    force(opened, tmp_path / "run", tmp_path / "forced", runtime=ONE_THREAD)
    forced = Run.open(tmp_path / "forced").answers().to_pylist()
    assert [row["stop_reason"] for row in forced] == reasons
    assert [row["note"] for row in forced] == [row["note"] for row in rows]
    write_report([Run.open(tmp_path / name) for name in ("run", "forced")], tmp_path / "r.html")
    assert "could not be asked" in (tmp_path / "r.html").read_text(encoding="utf-8")
    for command in (["compare", "{run}", "{forced}"], ["watch", "--once", "{run}"]):
        assert call(edge.cli.app.main, command, tmp_path) == 0


def test_a_token_beyond_the_model_is_one_refused_question(artifacts, tmp_path):
    source = Artifact.open(artifacts("nano-gemma3"))
    folder = shutil.copytree(source.path, tmp_path / "a")
    raw = json.loads((folder / "tokenizer.json").read_text())
    beyond = {"id": source.manifest.model.vocabulary, "content": "<image_soft_token>"}
    raw["added_tokens"].append(raw["added_tokens"][0] | beyond)
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    artifact = Artifact(folder, source.manifest)
    questions = asked(("Do bats see?", "What is <image_soft_token>?"))
    for name, parsed, reason in (
        ("text", False, AS_TEXT),
        ("parsed", True, "outside the model's vocabulary"),
    ):
        run(
            artifact,
            questions,
            tmp_path / name,
            DecodeSettings(2),
            runtime=ONE_THREAD,
            control_tokens=parsed,
        )
        first, second = Run.open(tmp_path / name).answers().to_pylist()
        assert first["note"] == ""
        assert reason in second["note"]
        assert (second["stop_reason"] == "refused") == parsed
    with pytest.raises(UserError, match="outside the model's vocabulary"):
        Prompter(artifact, control_tokens=True).prompt("What is <image_soft_token>?")


# llama.cpp's tokenizer takes stack for each character


TOKENISE = """
import sys
from edge.backends.gguf_file import open_artifact
from edge.backends.llama_vocabulary import Part
from edge.backends.tokenizer import JsonTokenizer
from edge.questions.prompt import Prompter
prompter = Prompter(open_artifact(sys.argv[1]), "raw")
for character in "a1 !é\\n中_":
    for length in (600, 30_000, 399_000, 500_000):
        prompt = prompter.prompt_or_note(character * length)
        refused = length == 500_000 or character in sys.argv[2]
        assert prompt.refused == refused, (character, length, prompt.note)
print("alive", prompt.note)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "pre",
    [
        "gpt-2",
        "llama-bpe",
        "qwen2",
        "smollm",
        "deepseek-r1-qwen",
        "default",
        "deepseek-llm",
        "tekken",
        "falcon",
        "sentencepiece without bytes",
    ],
)
def test_no_text_ends_the_process(pre, artifacts, tmp_path):
    source, path = artifacts("nano-llama", "gguf-q8_0") / "model.gguf", tmp_path / "m.gguf"
    if pre == "sentencepiece without bytes":
        sentencepiece(artifacts, path, 0)
        unknown = "中"
    else:
        rewritten(source, path, {"tokenizer.ggml.pre": pre})
        unknown = ""
    done = subprocess.run(
        [sys.executable, "-c", TOKENISE, str(path), unknown],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "alive the text" in done.stdout
    assert "has 500000 characters, more than the 400000" in done.stdout


def test_a_question_of_many_equal_characters_does_not_stop_a_run(artifacts, tmp_path):
    source = artifacts("nano-llama", "gguf-q8_0") / "model.gguf"
    rewritten(source, tmp_path / "m.gguf", {"tokenizer.ggml.pre": "deepseek-llm"})
    write_questions(tmp_path / "q.csv", ["Do bats see?", "a" * 30_000])
    done = edge_in(tmp_path, "run", "m.gguf", "--questions", "q.csv", "--out", "run", "--quiet")
    assert done.returncode == 0, done.stderr[-500:]
    first, second = Run.open(tmp_path / "run").answers().to_pylist()
    assert first["tokens"] > 0
    assert second["stop_reason"] == "context"


def test_questions_of_the_hub_may_hold_half_characters(artifacts, tmp_path):
    row = {
        "question": "\ud800?",
        "best_answer": "Yes",
        "correct_answers": ["\udfff"],
        "incorrect_answers": ["No"],
    }
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"question": "Why?"}))
    questions = read_questions(tmp_path / "q.jsonl")
    assert len(questions[0].question_id) == 12
    assert replace(questions[0], index=1).question_id == questions[0].question_id
    write_questions(tmp_path / "q.csv", ["Why?"])
    path = str(artifacts("nano-llama"))
    for command, code in (("run", 0), ("score", 2)):  # each of these has an answer with half a character
        arguments = [command, path, "--questions", "{q.jsonl}", "--out", f"{{{command}}}", "--quiet"]
        assert call(edge.cli.app.main, arguments, tmp_path) == code
    assert Run.open(tmp_path / "run").answers().column("stop_reason").to_pylist()[0] == "refused"


def test_a_template_that_refuses_or_cuts_one_question_refuses_that_question_alone(artifacts, tmp_path):
    template = (
        "{{ bos_token }}{% if 'weapons' in messages[0].content %}{{ raise_exception('not that') }}"
        "{% endif %}"
        "{{ messages[0].content.split('</think>')[-1] }}"
    )
    artifact = with_template(Artifact.open(artifacts("nano-llama")), tmp_path / "a", template)
    questions = asked(("Do bats see?", "Why weapons?", "first </think> last", "Why?"))
    run(artifact, questions, tmp_path / "run", DecodeSettings(2), runtime=ONE_THREAD)
    rows = Run.open(tmp_path / "run").answers().to_pylist()
    assert [row["tokens"] > 0 for row in rows] == [True, False, False, True]
    assert "the chat template fails (not that)" in rows[1]["note"]
    assert "the chat template leaves the question 'first </think> last' out" in rows[2]["note"]
    with pytest.raises(UserError, match="not that"):
        list(answer(artifact, "Why weapons?", DecodeSettings(2), runtime=ONE_THREAD))


def test_a_run_whose_only_question_was_refused_is_said_to_have_no_answer(artifacts, tmp_path, capsys):
    artifact = Artifact.open(artifacts("nano-llama"))
    run(artifact, asked(["half \ud800"]), tmp_path / "run", DecodeSettings(2), runtime=ONE_THREAD)
    force(artifact, tmp_path / "run", tmp_path / "forced", runtime=ONE_THREAD)
    for command in (["paper", "{run}"], ["compare", "{run}", "{forced}"]):
        assert call(edge.cli.app.main, command, tmp_path) == 2
        assert "has no traced tokens: no question was answered (see the notes" in capsys.readouterr().err
    write_report([Run.open(tmp_path / "run")], tmp_path / "r.html")
    assert "fitted the context" not in (tmp_path / "r.html").read_text(encoding="utf-8")
