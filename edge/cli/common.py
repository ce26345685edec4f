"""Functions of both command lines: consoles, notes, JSON output, user errors with exit code 2."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from edge.cli.terminal import escaped, unmarked
from edge.errors import UserError
from edge.files import write_whole
from edge.questions.question import EMBEDDED, default_questions

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
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
    """Writes a value as JSON to a file, or to standard output for "-"."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    write_whole(Path(target), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def print_notice(notice: str) -> None:
    """Prints the notice that belongs to a model's numbers; nothing for a model without one."""
    if notice:
        console.print(unmarked(notice), style="dim", soft_wrap=True)


def run_app(app: Callable[[], Any]) -> None:
    """Runs the app; a UserError is printed as one sentence on stderr and ends with exit code 2."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As on stderr: a character that the terminal's encoding lacks does not end the program.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        sentence = " ".join(str(error).split())
        errors.print(f"error: {escaped(sentence)}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
