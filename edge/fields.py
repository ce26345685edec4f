"""Reading JSON objects field by field: every value is checked, and a complaint names the field it is about.

A record's parser takes each field by its name with a function that reads the value, itself or another
record's parser:

    with Fields(json.loads(text)) as fields:
        return Record(seed=fields.take("seed", integer), notice=fields.get("notice", text, ""))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from edge.version import __version__

T = TypeVar("T")


class FieldError(ValueError):
    """A field is missing, holds something else than it must, or is not known.

    `path` are the names from the outermost object to the field: the message begins with them, as in
    "settings.seed is 'x', which is no integer".
    """

    def __init__(self, complaint: str, *path: str) -> None:
        super().__init__(f"{'.'.join(path)} {complaint}".strip())
        self.complaint, self.path = complaint, path


class Fields:
    """The fields of one JSON object. Raises FieldError when the value is no object.

    As a context manager it refuses, at the end, the fields that were not taken; without `with` they are
    ignored.
    """

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise _wrong(value, "object")
        self._left = dict(value)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, read: Callable[[object], T]) -> T:
        """read(value) of a field that must be there."""
        if name not in self._left:
            raise FieldError("is missing", name)
        return _within(name, read, self._left.pop(name))

    def get(self, name: str, read: Callable[[object], T], default: T) -> T:
        """read(value) of a field, `default` where it is not there."""
        return self.take(name, read) if name in self else default

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._left:
            raise FieldError(f"is not known to Edgetrace {__version__}", sorted(self._left)[0])


def check_schema(fields: Fields, reads: int) -> None:
    """Takes `schema_version`; raises ValueError when it is another than the one that is read."""
    version = fields.take("schema_version", integer)
    if version != reads:
        raise ValueError(f"schema_version is {version}, this Edgetrace reads {reads}")


# Functions that read a value; each raises FieldError when it is of another kind.


def text(value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(value, "text")
    return value


def integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(value, "integer")
    return value


def number(value: object) -> float:
    """An integer stays one, so that it is written as it was read."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise _wrong(value, "number")
    return value


def flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise FieldError(f"is {value!r:.80}, which is neither true nor false")
    return value


def anything(value: object) -> object:
    return value


def optional(read: Callable[[object], T]) -> Callable[[object], T | None]:
    """A reader that takes null too."""
    return lambda value: None if value is None else read(value)


def list_of(read: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """A reader of a list, each entry by `read`."""

    def read_list(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise _wrong(value, "list")
        return tuple(_within(str(place), read, entry) for place, entry in enumerate(value))

    return read_list


def mapping_of(read: Callable[[object], T]) -> Callable[[object], Mapping[str, T]]:
    """A reader of an object with any names, each value by `read`."""

    def read_mapping(value: object) -> Mapping[str, T]:
        if not isinstance(value, dict):
            raise _wrong(value, "object")
        return {name: _within(name, read, entry) for name, entry in value.items()}

    return read_mapping


def _within(name: str, read: Callable[[object], T], value: object) -> T:
    """read(value), a complaint with the name before it."""
    try:
        return read(value)
    except FieldError as error:
        raise FieldError(error.complaint, name, *error.path) from None


def _wrong(value: object, kind: str) -> FieldError:
    return FieldError(f"is {value!r:.80}, which is no {kind}")
