"""Prompts of an artifact beside those that transformers makes of its checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edge.artifact import Artifact
from edge.errors import UserError
from edge.questions.prompt import STYLES, Prompter
from export.extra import import_extra
from export.tokenizer import PROBES
from export.tokenizer_rules import READER
from export.verdict import PROMPTS, Check

PLAIN = PROBES[0]


def check_tokens(artifact: Artifact, folder: Path) -> list[Check]:
    """One check for each prompt style that the artifact has: the number of texts with other ids.

    Control tokens in a text are parsed, as transformers does. There is no check where the build has noted
    that transformers refuses the files. Raises UserError when transformers is not installed.
    """
    transformers = import_extra("transformers", "edge-export verify")
    rules = artifact.manifest.tokenizer_rules
    try:
        known = transformers.AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:  # whatever its many classes raise
        if rules is not None and any(READER in note for note in rules.notes):
            return []
        detail = f"transformers cannot read the tokenizer ({' '.join(str(error).split())[:100]})"
        return [Check("ids", PROMPTS, math.nan, 0.0, detail, "")]
    checks = []
    for style in STYLES:
        try:
            prompter = Prompter(artifact, style, control_tokens=True)
        except UserError:
            continue  # no template, or none that can be used: there are no such prompts
        other = [text for text in PROBES if ids(prompter, text) != ids_of(known, artifact, style, text)]
        where = f"first in {other[0][:40]!r}" if other else ""
        checks.append(Check(f"{style} ids", PROMPTS, float(len(other)), 0.0, where, where))
    return checks


def ids(prompter: Prompter, text: str) -> list[int] | None:
    """Ids of a prompt; None for one that is refused."""
    try:
        return list(prompter.prompt(text).ids)
    except UserError:
        return None


def ids_of(known: Any, artifact: Artifact, style: str, text: str) -> list[int] | None:
    """transformers' ids of a prompt; None where it fails, or gives none that the model has."""
    try:
        if style == "chat":
            turn = [{"role": "user", "content": text}]
            made = list(known.apply_chat_template(turn, add_generation_prompt=True))
        else:
            around = Prompter(artifact, style).prompt(PLAIN).text.split(PLAIN)
            made = list(known(text.join(around))["input_ids"])
    except Exception:  # a template's own errors, and those of the library
        return None
    return made if made and max(made) < artifact.manifest.model.vocabulary else None
