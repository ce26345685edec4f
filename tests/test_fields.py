"""edge.fields: what is read from JSON is of the kind that was asked for, or the field is named."""

from __future__ import annotations

import re

import pytest

from edge.fields import (
    FieldError,
    Fields,
    anything,
    check_schema,
    flag,
    integer,
    list_of,
    mapping_of,
    number,
    optional,
    text,
)


@pytest.mark.parametrize(
    ("read", "values"),
    [
        (text, ["", "a"]),
        (integer, [0, -3]),
        (number, [0, 0.5, -1e9]),
        (flag, [True, False]),
        (optional(integer), [None, 4]),
        (mapping_of(integer), [{}, {"a": 1}]),
        (mapping_of(anything), [{"a": [None, {"b": 1}]}]),
    ],
)
def test_values_are_given_as_they_stand(read, values):
    for value in values:
        given = Fields({"name": value}).take("name", read)
        assert given == value
        assert type(given) is type(value)


def test_a_list_becomes_a_tuple():
    assert Fields({"name": [1, 2]}).take("name", list_of(integer)) == (1, 2)


@pytest.mark.parametrize(
    ("read", "value", "complaint"),
    [
        (text, 5, "name is 5, which is no text"),
        (text, None, "name is None, which is no text"),
        (integer, "5", "name is '5', which is no integer"),
        (integer, 5.0, "name is 5.0, which is no integer"),
        (integer, True, "name is True, which is no integer"),
        (number, False, "name is False, which is no number"),
        (flag, 1, "name is 1, which is neither true nor false"),
        (optional(integer), "x", "name is 'x', which is no integer"),
        (list_of(integer), "12", "name is '12', which is no list"),
        (list_of(integer), [1, "2"], "name.1 is '2', which is no integer"),
        (mapping_of(text), ["a"], "name is ['a'], which is no object"),
        (mapping_of(text), {"a": {}}, "name.a is {}, which is no text"),
        (text, ["x" * 200], f"name is {str(['x' * 200])[:80]}, which is no text"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_its_field(read, value, complaint):
    with pytest.raises(FieldError, match=f"^{re.escape(complaint)}$"):
        Fields({"name": value}).take("name", read)


def test_fields_of_objects_within_are_named_from_the_outermost():
    def inner(value: object) -> str:
        with Fields(value) as fields:
            return fields.take("seed", text)

    def outer(value: object) -> str:
        with Fields(value) as fields:
            return fields.take("settings", inner)

    assert outer({"settings": {"seed": "x"}}) == "x"
    for value, complaint in (
        ([], "is [], which is no object"),
        ({}, "settings is missing"),
        ({"settings": {}}, "settings.seed is missing"),
        ({"settings": {"seed": 1}}, "settings.seed is 1, which is no text"),
        ({"settings": {"seed": "x", "b": 1, "a": 1}}, "settings.a is not known to Edgetrace"),
        ({"settings": {"seed": "x"}, "z": 1}, "z is not known to Edgetrace"),
    ):
        with pytest.raises(FieldError, match=f"^{re.escape(complaint)}"):
            outer(value)


def test_a_default_stands_for_a_field_that_is_not_there_and_for_no_other():
    fields = Fields({"there": 5, "wrong": "x"})
    assert (fields.get("there", integer, 0), fields.get("absent", integer, 7)) == (5, 7)
    with pytest.raises(FieldError, match="wrong is 'x'"):
        fields.get("wrong", integer, 0)


def test_an_error_within_is_not_hidden_by_fields_that_nobody_took():
    with pytest.raises(ZeroDivisionError), Fields({"left": 1}):
        raise ZeroDivisionError


def test_without_with_other_fields_are_ignored():
    assert Fields({"a": 1, "b": 2}).take("a", integer) == 1


def test_another_schema_is_refused():
    check_schema(Fields({"schema_version": 1}), 1)
    with pytest.raises(ValueError, match="schema_version is 2, this Edgetrace reads 1"):
        check_schema(Fields({"schema_version": 2}), 1)
