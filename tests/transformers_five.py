"""What transformers 5 makes of the checkpoint forms: tests/data/transformers-5.24.0.json, and its figures.

transformers 5 cannot be installed beside 4.57.6, so that the record is made in three steps:

    python -m tests.transformers_five write FORMS [--random 400]   # here
    python3 -m venv five && five/bin/pip install transformers==5.24.0
    five/bin/python tests/transformers_five.py record FORMS RECORD.json
    python -m tests.transformers_five compare FORMS RECORD.json    # here; prints the figures of the docs

The record holds for each form its levels, and either why transformers 5 refuses it, or its class, a digest
of the ids of all texts, and the special tokens by role.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import importlib.metadata
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SEED = 4179
Encode = Callable[[str, bool], Sequence[int]]


def digest(encode: Encode, texts: Sequence[str]) -> str:
    """Of the ids of each text, without and with what goes around a text."""
    ids = [[list(encode(text, add)) for text in texts] for add in (False, True)]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]


def levels(form: dict[str, str]) -> str:
    """The form as one text, so that a record of other forms is noticed."""
    return "; ".join(form.values())


def known(folder: Path, texts: Sequence[str]) -> dict[str, Any]:
    """What the installed transformers makes of a folder."""
    from transformers import AutoTokenizer

    try:
        made = AutoTokenizer.from_pretrained(str(folder))
        ids = digest(lambda text, add: made(text, add_special_tokens=add)["input_ids"], texts)
    except Exception as error:  # whatever its many classes raise
        return {"refused": f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"}
    roles = {
        role: list(map(str, value)) if isinstance(value, list) else str(value)
        for role, value in made.special_tokens_map.items()
    }
    return {"class": type(made).__name__, "ids": ids, "roles": roles}


def write(out: Path, more: int) -> None:
    """Writes the forms that hold every pair, and `more` at random."""
    from tests import checkpoint_forms as forms

    rng = random.Random(SEED)
    every = [*forms.choose(), *(forms.any_form(rng) for _ in range(more))]
    for number, form in enumerate(every):
        forms.write(form, out / f"{number:04}")
    index = {"texts": forms.TEXTS, "forms": every}
    (out / "forms.json").write_text(json.dumps(index), encoding="utf-8")


def record(out: Path, file: Path) -> None:
    """Records what the installed transformers makes of the forms."""
    index = json.loads((out / "forms.json").read_text("utf-8"))
    rows = [
        {"form": levels(form), **known(out / f"{number:04}", index["texts"])}
        for number, form in enumerate(index["forms"])
    ]
    versions = {name: importlib.metadata.version(name) for name in ("transformers", "tokenizers")}
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = f'{{"versions": {json.dumps(versions)}, "forms": [\n{lines}\n]}}\n'
    file.write_text(text, encoding="utf-8")


def compare(out: Path, file: Path) -> None:
    """Counts the forms that our rules and our reading of transformers 5 get right, and prints the others."""
    from tokenizers import Tokenizer

    from export.checkpoint import Checkpoint
    from export.tokenizer_files import read_sources
    from export.tokenizer_five import FIVE_PLAIN, REBUILT, class_of, read
    from export.tokenizer_rules import resolve

    index = json.loads((out / "forms.json").read_text("utf-8"))
    texts, rows = index["texts"], json.loads(file.read_text("utf-8"))["forms"]

    def ids(tokenizer: Tokenizer) -> str:
        return digest(lambda text, add: tokenizer.encode(text, add_special_tokens=add).ids, texts)

    counts: collections.Counter[str] = collections.Counter()
    for number, (form, five) in enumerate(zip(index["forms"], rows, strict=True)):
        assert five["form"] == levels(form), "the record has other forms: make it again"
        folder = out / f"{number:04}"
        with Checkpoint(folder) as checkpoint:
            sources = read_sources(checkpoint)
        four = known(folder, texts)
        counts["4: as predicted" if ids(resolve(sources).tokenizer) == four.get("ids") else "4: OTHER"] += 1
        name = class_of(sources)
        if name not in (*REBUILT, FIVE_PLAIN):
            counts["5: class not compared"] += 1
            continue
        try:
            made = read(sources, name)
            ours: object = ids(made.tokenizer), made.special_tokens
        except Exception as error:  # the library raises bare Exception
            ours = f"{error}"
        theirs = (five["ids"], five["roles"]) if "ids" in five else None
        right = ours == theirs if theirs else isinstance(ours, str)
        counts["5: as predicted" if right else "5: OTHER"] += 1
        if not right:
            print(f"form {number}: {five}; predicted {ours}")
    for what, count in sorted(counts.items()):
        print(f"{what}: {count}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("step", choices=("write", "record", "compare"))
    parser.add_argument("forms", type=Path)
    parser.add_argument("record", type=Path, nargs="?")
    parser.add_argument("--random", type=int, default=0)
    given = parser.parse_args()
    if given.step == "write":
        write(given.forms, given.random)
    elif given.record is None:
        parser.error("give the record's file")
    else:
        (record if given.step == "record" else compare)(given.forms, given.record)


if __name__ == "__main__":
    main()
