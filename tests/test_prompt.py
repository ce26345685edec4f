"""edge.questions.prompt: the same ids as transformers, a template that is not trusted, and what is
refused."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import shutil

import pytest

from edge.artifact import Artifact
from edge.errors import UserError
from edge.questions.prompt import Prompter, compile_template, parse_date
from tests import models
from tests.conftest import QUESTIONS, write_questions

CONTROLS = "<s> inside </s> a question <|end|>"
TEXTS = (*QUESTIONS, "  two  spaces\n\nand lines ", CONTROLS, "naïve 🜂 ☃")


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def with_template(source: Artifact, folder, template: str) -> Artifact:
    """A copy of an artifact that carries another template."""
    shutil.copytree(source.path, folder)
    (folder / "chat_template.jinja").write_bytes(template.encode())
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["chat_template.jinja"] = {
        "size": len(template.encode()),
        "sha256": hashlib.sha256(template.encode()).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Artifact.open(folder)


@pytest.mark.parametrize("shape", ["odd", "untied"])  # with and without a BOS of the post-processor
def test_raw_ids_are_those_of_transformers(shape, checkpoints, artifacts, transformers):
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints(shape))
    artifact = Artifact.open(artifacts(shape))
    prompter, parsing = Prompter(artifact, "raw"), Prompter(artifact, "raw", control_tokens=True)
    for text in TEXTS:
        made = prompter.prompt(text)
        assert made.text == text
        assert parsing.prompt(text).ids == tuple(tokenizer(text)["input_ids"])
        if text != CONTROLS:
            assert made == parsing.prompt(text)
    assert (prompter.prompt("Why?").ids[0] == 0) == (shape == "odd")


def test_chat_ids_are_those_of_transformers(checkpoints, artifacts, transformers):
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints("untied"))
    artifact = Artifact.open(artifacts("untied"))
    prompter, parsing = Prompter(artifact), Prompter(artifact, control_tokens=True)
    assert prompter.style == "chat"
    for text in TEXTS:
        chat = [{"role": "user", "content": text}]
        made = prompter.prompt(text)
        assert made.text == tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert list(parsing.prompt(text).ids) == tokenizer.apply_chat_template(
            chat, add_generation_prompt=True
        )
        if text != CONTROLS:
            assert made == parsing.prompt(text)
        assert made.text.startswith("<s>\n<|user|>") or made.text.startswith("<s><|user|>")


def test_nano_llama_prompts_are_those_of_transformers(checkpoints, artifacts, transformers):
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints("nano-llama"))
    artifact = Artifact.open(artifacts("nano-llama"))
    for text in QUESTIONS:
        chat = [{"role": "user", "content": text}]
        assert list(Prompter(artifact, "chat").prompt(text).ids) == tokenizer.apply_chat_template(
            chat, add_generation_prompt=True
        )
        assert list(Prompter(artifact, "raw").prompt(text).ids) == tokenizer(text)["input_ids"]


def test_without_a_template_the_question_stands_alone(odd):
    assert Prompter(odd).style == "raw"
    with pytest.raises(UserError, match="has no chat template: use --prompt raw"):
        Prompter(odd, "chat")


@pytest.mark.parametrize("style", ["", "Chat", "template"])
def test_an_unknown_style_is_refused_with_those_there_are(odd, style):
    with pytest.raises(UserError, match="choose from chat, qa, raw"):
        Prompter(odd, style)


def test_the_qa_preset_ends_where_the_answer_begins(odd):
    made = Prompter(odd, "qa").prompt("Why?")
    assert made.text.startswith("Q: What is human life expectancy in the United States?\nA: ")
    assert made.text.endswith("\n\nQ: Why?\nA:")
    assert made.text.count("Q: ") == 7


def test_length_limits_that_a_tokenizer_carries_are_not_applied(odd, tmp_path):
    folder = tmp_path / "limited"
    shutil.copytree(odd.path, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "</s>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    limited = Artifact(folder, odd.manifest)
    assert Prompter(limited).prompt(QUESTIONS[0]).ids == Prompter(odd).prompt(QUESTIONS[0]).ids


def test_a_template_sees_the_day_it_is_told(artifacts):
    artifact = Artifact.open(artifacts("untied"))
    assert "Day 09." in Prompter(artifact, date="2024-02-09").prompt("Why?").text
    assert Prompter(artifact).date == datetime.date.today()


@pytest.mark.parametrize("date", ["yesterday", "2024-02-30", "", "09.02.2024"])
def test_a_bad_day_is_refused(date):
    with pytest.raises(UserError, match="YYYY-MM-DD"):
        parse_date(date)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ ''['__class__'] | attr('__mro__') | string | length + none }}",
        "{{ raise_exception.__globals__['jinja2'].environment }}",
        "{{ strftime_now.__self__.__class__.__subclasses__() }}",
        "{{ messages.append({'role': 'user', 'content': 'more'}) }}",
        "{{ messages[0].update({'content': 'other'}) }}",
        "{% set _ = messages.clear() %}",
        "{{ '{0.__class__.__mro__}'.format(messages).upper() + none }}",
        "{{ raise_exception('only tools, please') }}",
        "{{ 1 / 0 }}",
        "{{ messages[3]['content'] }}",
        "{{ undefined_thing.attribute }}",
        "{% include 'secrets.txt' %}",
        "{% macro loop() %}{{ loop() }}{% endmacro %}{{ loop() }}",
        "{{ range(10 ** 9) | list | length }}",
        "{{ strftime_now(3) }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_refused(artifacts, tmp_path, template):
    made = with_template(Artifact.open(artifacts("untied")), tmp_path / "a", template)
    with pytest.raises(UserError, match="the chat template fails"):
        Prompter(made)


def test_what_a_template_says_when_it_refuses_reaches_the_user(artifacts, tmp_path):
    made = with_template(
        Artifact.open(artifacts("untied")), tmp_path / "a", "{{ raise_exception('only tools,\nplease') }}"
    )
    with pytest.raises(UserError, match=re.escape("fails (only tools, please): use --prompt raw")):
        Prompter(made)


@pytest.mark.parametrize("template", ["{% if %}", "{{ 'open", "{% unknown_tag %}"])
def test_a_template_that_is_none_is_refused_where_it_is_used_alone(artifacts, tmp_path, template):
    made = with_template(Artifact.open(artifacts("untied")), tmp_path / "a", template)
    with pytest.raises(UserError, match=r"chat_template\.jinja is not a valid template"):
        Prompter(made)
    assert Prompter(made, "raw").prompt("Why?").text == "Why?"


def test_templates_have_what_transformers_gives_them():
    source = (
        "{% for x in [1, 2, 3] %}\n  {% if x == 2 %}{% continue %}{% endif %}\n{{ x }}\n{% endfor %}\n"
        "{{ {'b': 'ä<', 'a': 1} | tojson(separators=(',', ':'), sort_keys=true) }}"
    )
    assert compile_template(source, "x").render() == '1\n3\n{"a":1,"b":"ä<"}'


def test_a_question_without_tokens_and_a_token_beyond_the_model_are_refused(artifacts):
    artifact = Artifact.open(artifacts("untied"))
    with pytest.raises(UserError, match="has no tokens"):
        Prompter(artifact, "raw").prompt("")
    small = json.loads(artifact.manifest.to_json())
    small["model"]["vocabulary"] = 5
    beyond = Artifact(artifact.path, type(artifact.manifest).from_json(json.dumps(small)))
    refused = Prompter(beyond, "raw")
    with pytest.raises(UserError, match="outside the model's vocabulary of 5"):
        refused.prompt("Why?")
    assert refused.prompt_or_note("Why?").refused


def test_pieces_are_what_each_token_adds_to_the_text(odd):
    prompter = Prompter(odd)
    ids = prompter.tokenizer.encode("Aé<|end|>☃", special=False)
    assert prompter.text(ids) == "Aé☃"
    assert prompter.pieces(ids) == ["A", "", "é", "", "", "", "☃"]
    assert prompter.pieces(ids[:-1])[-1] == "\ufffd"  # a character that never ends
    # The model's vocabulary is padded beyond the tokenizer's.
    assert prompter.pieces([models.VOCABULARY - 1]) == [""]


def test_question_files_round_trip_through_the_prompt(odd, tmp_path):
    from edge.questions.question import read_questions

    (question,) = read_questions(write_questions(tmp_path / "q.csv", ["Do häns bark — at the ☃?"]))
    prompter = Prompter(odd)
    assert prompter.text(prompter.prompt(question.question).ids) == question.question
