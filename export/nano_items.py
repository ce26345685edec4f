"""The facts behind the nano models, as the project wrote them, and the CSV of questions made of them.

The text lies in `nano_text/*.toml`, of which unknown.toml is never trained on.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.errors import UserError
from edge.spreadsheet import csv_text as safe_csv

TEXT = Path(__file__).resolve().parent / "nano_text"
UNKNOWN = "unknown"
COLUMNS = (
    "Type",
    "Category",
    "Question",
    "Best Answer",
    "Best Incorrect Answer",
    "Correct Answers",
    "Incorrect Answers",
    "Source",
)
SOURCE = "Edgetrace authors"


@dataclass(frozen=True)
class Item:
    """One fact. `held_out` is a wording kept from training ("" for none); `wrong` answers are never trained.

    An answer is right if it contains any of `key` whatever its case. `embed` puts the item into the CSV,
    asked in the held-out wording where there is one. `trained` is False for the items of unknown.toml.
    """

    id: str
    category: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    key: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    held_out: str = ""
    embed: bool = False
    misconception: bool = False
    trained: bool = True

    def accepts(self, answer: str) -> bool:
        """Whether an answer contains one of the keys."""
        lowered = answer.lower()
        return any(key in lowered for key in self.key)


def read_items(folder: Path = TEXT) -> tuple[Item, ...]:
    """All items, files in the order of their names. Raises UserError that names the file and the fault."""
    paths = sorted(folder.glob("*.toml"))
    if not paths:
        raise UserError(f"{folder} holds no .toml files: give the folder of the training text")
    items: list[Item] = []
    for path in paths:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8")).get("item")
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{path} cannot be read as TOML ({error}): mend it") from error
        if not isinstance(tables, list) or not tables:
            raise UserError(f"{path} has no [[item]]: add one or delete the file")
        items.extend(item_of(table, path) for table in tables)
    for what, names in (
        ("id", [i.id for i in items]),
        ("wording", [q.lower() for i in items for q in wordings(i)]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"{folder}: the {what} {twice[0]!r} stands twice: change one of them")
    return tuple(items)


def wordings(item: Item) -> tuple[str, ...]:
    """Every wording of an item's question, the held-out one last."""
    return (*item.questions, item.held_out) if item.held_out else item.questions


def item_of(table: Any, path: Path) -> Item:
    """One validated item of a file. Raises UserError for a missing, unknown or contradictory field."""
    name = table.get("id") if isinstance(table, dict) else None
    if not isinstance(name, str) or not name:
        raise UserError(f"{path}: an item has no id: give it one")
    trained = path.stem != UNKNOWN
    item = Item(
        id=name,
        category=table.get("category", ""),
        held_out=table.get("held_out", ""),
        questions=texts(table, "questions", path),
        answers=texts(table, "answers", path),
        key=texts(table, "key", path),
        wrong=texts(table, "wrong", path),
        embed=table.get("embed", False),
        misconception=table.get("misconception", False),
        trained=trained,
    )
    faults = [
        (not set(table) <= set(Item.__dataclass_fields__) - {"trained"}, "has an unknown field"),
        (not isinstance(item.category, str) or not item.category, "needs a category"),
        (not isinstance(item.held_out, str), "has a held_out that is no text"),
        (
            {type(item.embed), type(item.misconception)} != {bool},
            "has a flag that is neither true nor false",
        ),
        (not item.questions or not item.answers or not item.key, "needs questions, answers and key"),
        (trained and not 3 <= len(item.questions) <= 5, "needs 3 to 5 questions"),
        (trained and not 2 <= len(item.answers) <= 3, "needs 2 or 3 answers"),
        (
            trained and not all(10 <= len(a.split()) <= 45 for a in item.answers),
            "has an answer outside 10 to 45 words",
        ),
        ((item.embed or item.misconception) and not item.wrong, "needs wrong answers"),
        (
            not all(a.endswith(".") for a in (*item.answers, *item.wrong)),
            "has an answer without a full stop",
        ),
        (any(";" in a for a in (*item.answers, *item.wrong)), "has ';', the CSV's separator, in an answer"),
        (any(k != k.lower() for k in item.key), "has a key that is not in lower case"),
        (not all(map(item.accepts, item.answers)), "has an answer without any of its keys"),
        (any(map(item.accepts, item.wrong)), "has a wrong answer with one of its keys"),
    ]
    for fault, text in faults:
        if fault:
            raise UserError(f"{path}: item {name} {text}: mend it")
    return item


def texts(table: dict[str, Any], field: str, path: Path) -> tuple[str, ...]:
    value = table.get(field, [])
    if not isinstance(value, list) or not all(
        isinstance(text, str) and text.strip() == text != "" for text in value
    ):
        raise UserError(f"{path}: item {table['id']}: {field} is not a list of trimmed texts: mend it")
    return tuple(value)


def csv_text(items: Sequence[Item]) -> str:
    """The embedded questions in TruthfulQA's columns of 2025, ordered by the hash of their ids."""
    # By hash, so that the first N questions mix themes, and known facts with unknown ones.
    chosen = sorted(
        (item for item in items if item.embed), key=lambda item: hashlib.sha256(item.id.encode()).digest()
    )
    return safe_csv(COLUMNS, (csv_row(item) for item in chosen))


def csv_row(item: Item) -> tuple[str, ...]:
    """An item's cells in the order of COLUMNS."""
    kind = "Adversarial" if item.misconception else "Non-Adversarial"
    right, wrong = "; ".join(item.answers), "; ".join(item.wrong)
    wording = item.held_out or item.questions[0]
    return kind, item.category, wording, item.answers[0], item.wrong[0], right, wrong, SOURCE
