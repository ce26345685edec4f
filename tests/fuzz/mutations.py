"""Mutations of bytes and of JSON values. All take a random.Random: the same seed makes the same case."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

LONG = 100_000  # characters of a very long string
DEEP = 10_000  # levels of a deeply nested list
RAW = "\0raw:"  # a string that begins so is written as it is: JSON that json.dumps never writes
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 8, 255, 256, 2047, 2048, 65536),
    *(2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 10**400),
)
FLOATS = (0.5, -0.5, 1e-45, 1e308, float("nan"), float("inf"), float("-inf"))
STRINGS = (
    *("", " ", "\x00", "a\x00b", "\n", "\x1b[31m", "../../etc/passwd", "/", "{{", "{{ 1/0 }}", "{% for %}"),
    *(
        "ü☃😀",
        "\ud800",
        "a\udfffb",
        "\udcff",
        "NaN",
        "null",
        "-1",
        "0",
        "1e999",
        "x" * LONG,
        "\u202e",
        "[bold]",
    ),
)
WILD = tuple(
    RAW + text
    for text in (
        *("1e999", "-0", "9" * 5000, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP),
        *('"\\ud800"', '{"a": 1, "a": 2}'),
    )
)


def scalar(rng: random.Random) -> Any:
    """A value of another type, or of an unusual size."""
    return rng.choice(
        (
            lambda: None,
            lambda: rng.random() < 0.5,
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(NUMBERS),
            lambda: rng.choice(FLOATS),
            lambda: rng.choice(STRINGS),
            lambda: rng.choice(WILD),
            list,
            dict,
            lambda: [None],
            lambda: [[[]]],
            lambda: {"": None},
            lambda: [rng.choice(NUMBERS) for _ in range(rng.randrange(5))],
            lambda: {rng.choice(STRINGS[:19]): rng.choice(NUMBERS)},
        )
    )()


def near(value: Any, rng: random.Random) -> Any:
    """A value of the same type nearby."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, value - 1, -value, value * 2, value // 2, rng.choice(NUMBERS)))
    if isinstance(value, float):
        return rng.choice((value * 2, -value, 0.0, int(value), rng.choice(FLOATS)))
    if isinstance(value, str):
        at = rng.randrange(len(value) + 1)
        return rng.choice(
            (value[:at], value + value, value.upper(), value[:at] + rng.choice(STRINGS) + value[at:])
        )
    return scalar(rng)


def places(root: Any, rng: random.Random) -> list[tuple[Any, Any]]:
    """A way from the root to a random value: (container, key or index) of each level."""
    way: list[tuple[Any, Any]] = []
    value = root
    while isinstance(value, dict | list) and value and (not way or rng.random() < 0.75):
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        way.append((value, key))
        value = value[key]
    return way


def change(root: Any, rng: random.Random) -> None:
    """Changes one place of a JSON value in place."""
    if not (way := places(root, rng)):
        return
    holder, key = way[-1]
    value = holder[key]

    def drop() -> None:
        del holder[key]

    def swap() -> None:
        holder[key] = scalar(rng)

    def shift() -> None:
        holder[key] = near(value, rng)

    def copy() -> None:
        other, name = places(root, rng)[-1]
        holder[key] = json.loads(json.dumps(other[name]))

    def add() -> None:
        if isinstance(holder, dict):
            holder[rng.choice((*STRINGS[:19], f"{key}_2", "type", "content"))] = value
        else:
            holder.insert(key, value)

    def repeat() -> None:
        if isinstance(value, list):
            holder[key] = value * rng.choice((2, 3, 50))
        elif isinstance(value, dict):
            holder[key] = dict(reversed(list(value.items())))
        else:
            holder[key] = [value]

    rng.choice((drop, swap, swap, shift, shift, copy, add, repeat))()


def dump(value: Any) -> bytes:
    """JSON text of a value, with what RAW strings stand for."""

    def written(item: Any) -> str:
        if isinstance(item, dict):
            return "{" + ", ".join(f"{json.dumps(k)}: {written(v)}" for k, v in item.items()) + "}"
        if isinstance(item, list):
            return "[" + ", ".join(written(entry) for entry in item) + "]"
        if isinstance(item, str) and item.startswith(RAW):
            return item.removeprefix(RAW)
        if isinstance(item, int) and not isinstance(item, bool) and abs(item) > 10**300:
            return "1" + "0" * 400
        return json.dumps(item)

    return written(value).encode()


def change_bytes(data: bytes, rng: random.Random, within: int | None = None) -> bytes:
    """Changes bytes at one random place, in the first `within` bytes."""
    end = max(0, min(len(data), len(data) if within is None else within))
    at, other = sorted((rng.randrange(end + 1), rng.randrange(end + 1)))
    some = bytes(rng.randrange(256) for _ in range(rng.choice((1, 1, 2, 4, 8, 64))))
    flip = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 4, 16))):
        if flip:
            flip[rng.randrange(end or 1)] ^= 1 << rng.randrange(8)
    return rng.choice(
        (
            lambda: bytes(flip),
            lambda: bytes(flip),
            lambda: data[:at],
            lambda: data[:at] + data[at + len(some) :],
            lambda: data[:at] + some + data[at:],
            lambda: data[:at] + some + data[at + len(some) :],
            lambda: data[:other] + data[at:],
            lambda: data[:at] + data[other:],
            lambda: b"\xef\xbb\xbf" + data,
            lambda: data.decode("utf-8", "replace").encode("utf-16"),
            lambda: (
                data[:at] + rng.choice((b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\x00", b"\xf8")) + data[at:]
            ),
            lambda: data + rng.choice((b"\n", b"}", b"\x00" * 64, data)),
            lambda: rng.choice((b"", b" ", b"null", b"[]", b"{}", b"0", b'""')),
        )
    )()


def mutated(
    data: bytes, rng: random.Random, *own: Callable[[Any, random.Random], None], share: float = 0.0
) -> bytes:
    """One case of a JSON file: structural changes, most often one, or changed bytes.

    `own` are changes that fit the file, tried with the probability `share` in place of any.
    """
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 1, 2, 5))):
            data = change_bytes(data, rng)
        return data
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 8))):
        (rng.choice(own) if own and rng.random() < share else change)(value, rng)
    return dump(value)
