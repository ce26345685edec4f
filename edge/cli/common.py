"""Functions of both command lines: consoles, notes, JSON output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from edge.cli.terminal import escaped, unmarked
from edge.errors import UserError
from edge.files import write_whole
from edge.questions.question import EMBEDDED, default_questions

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
# Environment variable: the notice that the command which started this one has said already.
SAID = "EDGE_NOTICE_SAID"
QUESTIONS_HELP = (
    "CSV in TruthfulQA's columns, or the hub's Parquet or JSON lines "
    "(default: those fetched, else embedded ones)."
)


def print_note(text: str) -> None:
    """Prints a note on stderr."""
    errors.print(f"note: {escaped(text)}", style="yellow", markup=False, soft_wrap=True)


def chosen_questions(given: Path | None) -> Path:
    """The file given, or the fetched or the embedded one; prints which of the two it is."""
    if given is not None:
        return given
    path = default_questions()
    which = "the embedded questions" if path == EMBEDDED else f"TruthfulQA's questions in {path}"
    errors.print(f"questions: {escaped(which)}", style="dim", markup=False, soft_wrap=True)
    return path


def check_json(target: str | None) -> None:
    """Raises UserError where no JSON file can be written; called before the work starts."""
    if target is None or target == "-":
        return
    path = Path(target)
    if not target or not path.parent.is_dir() or (path.exists() and not path.is_file()):
        raise UserError(
            f"--json {target!r} is no place for a file: give one in a folder that is there, "
            "or - for standard output"
        )


def write_json_line(value: Any) -> None:
    """Prints a value as one line of JSON, in ASCII: the text does not depend on the terminal's encoding."""
    print(json.dumps(value, allow_nan=False), flush=True)


def write_json(target: str, value: Any) -> None:
    """Writes a value as JSON to a file, or to standard output for "-".

    The file is UTF-8. On a terminal or pipe in another encoding what is not ASCII is escaped. What is not
    UTF-8 in a name is the same lone surrogate that Python has for it, escaped.
    """
    utf8 = target != "-" or "utf" in (sys.stdout.encoding or "").lower()
    text = json.dumps(value, indent=2, ensure_ascii=not utf8, allow_nan=False) + "\n"
    whole = text.encode("utf-8", "backslashreplace")  # of a surrogate this is the escape of JSON
    if target == "-":
        sys.stdout.write(whole.decode())
        return
    write_whole(Path(target), lambda temporary: temporary.write_bytes(whole))


def print_notice(notice: str) -> None:
    """Prints the notice that belongs to a model's numbers; nothing for a model without one."""
    if unsaid(notice):
        console.print(unmarked(notice), style="dim", soft_wrap=True)


def unsaid(notice: str) -> str:
    """The notice, or "" where the command that started this one has printed it: it is said once."""
    return "" if notice == os.environ.get(SAID) else notice
