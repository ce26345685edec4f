"""`edge questions`: the paper's questions, fetched from their authors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge.cli_common import console
from edge.errors import UserError
from edge.fetch import fetch as fetch_file
from edge.questions import fetched_path, read_questions
from edge.terminal import unmarked

ADDRESS = "https://raw.githubusercontent.com/sylinrl/TruthfulQA/main/TruthfulQA.csv"
COUNT = 790

questions = typer.Typer(help="Fetch TruthfulQA's questions, which `edge run` then asks by default.", no_args_is_help=True)


@questions.callback()
def top() -> None:
    """Fetch TruthfulQA's questions, which `edge run` then asks by default."""


@questions.command(epilog="Example: edge questions fetch")
def fetch(
    url: Annotated[str, typer.Option(help="Where the authors' CSV is.")] = ADDRESS,
    sha256: Annotated[str | None, typer.Option(help="Refuse a file with another SHA-256.")] = None,
) -> None:
    """Download the authors' CSV of 790 questions (TruthfulQA of January 2025, Apache-2.0), whole or not at all."""
    if sha256 is not None and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise UserError(f"--sha256 is {sha256!r:.80}: give 64 hexadecimal digits")
    target = fetched_path()
    found = fetch_file(url, target, sha256, check if url == ADDRESS else read_questions)
    count = len(read_questions(target))
    console.print(unmarked(f"{target}: {count} questions, SHA-256 {found}; 'edge run' asks them by default"), soft_wrap=True)


def check(path: Path) -> None:
    """Raises UserError unless it holds the questions of 2025, each with its best pair."""
    found = read_questions(path)
    paired = sum(bool(question.best and question.best_incorrect) for question in found)
    if len(found) != COUNT or paired != COUNT:
        raise UserError(f"{len(found)} questions, {paired} with a best pair, instead of {COUNT}")
