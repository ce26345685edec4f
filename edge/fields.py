"""JSON objects read field by field: every value is checked, and errors name the field.

A class's parser takes each field by its name, with a function that reads the value. That may be the parser
of another class:

    with Fields(json.loads(text)) as fields:
        return Record(seed=fields.take("seed", integer), notice=fields.get("notice", text, ""))
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from edge.version import __version__

T = TypeVar("T")
DEEPEST = 100  # levels of a JSON value; ours have five
TOO_DEEP = f"its values are nested more than {DEEPEST} levels deep"
SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # the others stand for bytes of a path


def parse_json(content: str | bytes) -> object:
    """A JSON value; raises ValueError when the content is none, or nests deeper than DEEPEST.

    What goes through a deeper value level by level would exhaust Python's stack.
    """
    try:
        value: object = json.loads(content)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    level, depth = [value], 0
    while level := [inner for outer in level for inner in children(outer)]:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(TOO_DEEP)
    return value


def children(value: object) -> list[object]:
    """The values directly inside a JSON value."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


class FieldError(ValueError):
    """A field is missing, has a wrong value, or is not known.

    `path` are the names from the outermost object to the field. The message begins with them, as in
    "settings.seed is 'x', which is no integer".
    """

    def __init__(self, complaint: str, *path: str) -> None:
        super().__init__(f"{'.'.join(path)} {complaint}".strip())
        self.complaint, self.path = complaint, path


class Fields:
    """The fields of one JSON object. Raises FieldError when the value is no object.

    As a context manager it raises FieldError at the end for fields that were not taken. Without `with` they
    are ignored.
    """

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise _wrong(value, "object")
        self._left = dict(value)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, read: Callable[[object], T]) -> T:
        """read(value) of a required field; raises FieldError where it is missing."""
        if name not in self._left:
            raise FieldError("is missing", name)
        return _within(name, read, self._left.pop(name))

    def get(self, name: str, read: Callable[[object], T], default: T) -> T:
        """read(value) of a field, `default` where it is missing."""
        return self.take(name, read) if name in self else default

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._left:
            raise FieldError(f"is not known to Edgetrace {__version__}", sorted(self._left)[0])


def check_schema(fields: Fields, reads: int) -> None:
    """Takes `schema_version`; raises ValueError when it is not `reads`."""
    version = fields.take("schema_version", integer)
    if version != reads:
        raise ValueError(f"schema_version is {version}, this Edgetrace reads {reads}")


# Functions that read a value; each raises FieldError when it is of another kind.


def text(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "text")
    if SURROGATES.search(value):
        raise FieldError(f"is {value!a:.80}, which is half a character")
    return value


def integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(value, "integer")
    return value


def number(value: object) -> float:
    """Reads a number; an integer stays one, so that it is written as it was read."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(value, "number")
    if abs(value) > sys.float_info.max or math.isnan(value):
        raise FieldError(f"is {shown(value)}, which is no finite number")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise FieldError(f"is {value!r:.80}, which is neither true nor false")
    return value


def anything(value: object) -> object:
    return value


def optional(read: Callable[[object], T]) -> Callable[[object], T | None]:
    """A reader that also takes null, as None."""
    return lambda value: None if value is None else read(value)


def list_of(read: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """A reader of a list that reads each entry with `read`."""

    def read_list(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _wrong(value, "list")
        return tuple(_within(str(place), read, entry) for place, entry in enumerate(value))

    return read_list


def mapping_of(read: Callable[[object], T]) -> Callable[[object], Mapping[str, T]]:
    """A reader of an object with any names that reads each value with `read`."""

    def read_mapping(value: object) -> Mapping[str, T]:
        if not isinstance(value, dict):
            raise _wrong(value, "object")
        return {name: _within(name, read, entry) for name, entry in value.items()}

    return read_mapping


def _within(name: str, read: Callable[[object], T], value: object) -> T:
    """read(value); puts the name before an error's path."""
    try:
        return read(value)
    except FieldError as error:
        raise FieldError(error.complaint, name, *error.path) from None


def shown(value: object) -> str:
    """A value of a file as messages show it: one line, at most 80 characters."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"


def _wrong(value: object, kind: str) -> FieldError:
    return FieldError(f"is {shown(value)}, which is no {kind}")
