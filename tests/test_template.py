"""edge.questions.template: what transformers gives to templates, bounds for hostile ones, and the question
in the prompt."""

from __future__ import annotations

import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import UserError
from edge.questions.template import ChatTemplate, compile_template

DAY = datetime.date(2026, 1, 2)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
GENERATION = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
    "{% generation %}{% set x = 'in' %}{{ x }}{% endgeneration %}{{ x }}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}"
    "{% endif %}{% endfor %}{% endfor %}"
)
FEATURES = (
    GENERATION,
    "{% for m in messages %}{{ m | tojson }}{{ m.content | trim }}"
    "{{ {'b': 'ä<', 'a': [1]} | tojson(indent=1) }}{% endfor %}",
    "{% macro say(x) -%} <{{ x }}> {%- endmacro %}{% for m in messages recursive %}{{ say(m['content']) }}"
    "{{ loop.index }}{% endfor %}{{ tools is none }}{{ documents is none }}{{ nothing is defined }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ m.content }}"
    "{% if ns.n > 3 %}{% break %}{% endif %}{% endfor %}{{ strftime_now('%Y') | length }}{{ '-' * 3 }}",
    "{%- for m in messages %}\n    {%- if m.content is string %}{{ m.content }}"
    "{% else %}{{ m.content[0].text }}{% endif %}\n{% endfor %}",
)


def chat(source: str) -> ChatTemplate:
    return ChatTemplate(compile_template(source, "t"), "the template t", SPECIAL, DAY)


@pytest.mark.parametrize("source", FEATURES)
def test_texts_are_those_of_transformers(source):
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    for question in ("Why?", "  two\n\nlines ", 'a "quote" <b> & \\ ☃'):
        messages = [[{"role": "user", "content": question}]]
        (wanted,), _ = utils.render_jinja_template(
            messages, chat_template=source, add_generation_prompt=True, **SPECIAL
        )
        assert chat(source).render(question) == wanted


def test_a_template_that_takes_parts_is_given_parts():
    template = chat(PARTS)
    assert template.render("Why?") == "[user]Why?"
    assert list(template.pieces) == ["[user]", ""]


@pytest.mark.parametrize(
    "source",
    [
        "chatml",
        "",
        "{{ bos_token }}Answer me.",
        "{{ messages[0].content | upper }}",
        "{% if false %}{% endif %}",
    ],
)
def test_a_template_without_the_question_is_refused_at_once(source):
    with pytest.raises(UserError, match="without the question: use --prompt raw or qa") as refused:
        chat(source)
    assert "\n" not in str(refused.value)


HOSTILE = {
    "a huge range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a long product": "{{ 'x' * 10**9 }}",
    "a product of lists": "{{ ([1] * 10**9) | length }}",
    "a power": "{{ 10 ** 10 ** 8 }}",
    "doubling": "{% set ns = namespace(s='x') %}{% for i in range(60) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "squaring": "{% set ns = namespace(s='xxxxxxxxxx') %}{% for i in range(9) %}"
    "{% set ns.s = ns.s | replace('x', ns.s) %}{% endfor %}",
    "calls that branch": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(90) }}",
    "a wide field": "{{ '%9999999999d' | format(1) }}",
    "a constant": "{{ 'x' | center(9999999999) }}",
    "a long text": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "deep nesting": "{% if 1 %}" * 300 + "{% endif %}" * 300,
    "many loops": "{% for a in [1] %}" * 40 + "{% endfor %}" * 40,
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.slow
def test_a_hostile_template_is_refused_in_one_sentence_and_in_time(source):
    before = time.monotonic()
    with pytest.raises(UserError) as refused:
        chat(source)
    assert time.monotonic() - before < 30
    assert "\n" not in str(refused.value)
    assert "use --prompt raw" in str(refused.value)
    assert chat("{{ messages[0].content }}").render("x" * 10**7) == "x" * 10**7  # no limit is left behind


@given(st.text(alphabet="{}%# \n-'\"|x()[]<>.:0", max_size=60))
def test_any_source_renders_or_is_refused(source):
    try:
        chat(source)
    except UserError as error:
        assert "\n" not in str(error)
