"""`edge questions`: the paper's questions, fetched from their authors."""

from __future__ import annotations

import enum
import os
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
HUB = "truthfulqa/truthful_qa"
HUB_COUNT = 817
REVISION = "741b8276f2d1982aa3d5b832d3ee81ed3b896490"  # of the data set


class Form(enum.StrEnum):
    """The hub data set's configurations."""

    generation = "generation"
    multiple_choice = "multiple_choice"


questions = typer.Typer(help="Fetch TruthfulQA's questions, which `edge run` then asks by default.", no_args_is_help=True)


@questions.callback()
def top() -> None:
    """Fetch TruthfulQA's questions, which `edge run` then asks by default."""


@questions.command(epilog="Example: edge questions fetch")
def fetch(
    url: Annotated[str | None, typer.Option(help="Another address of the authors' CSV.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Refuse a file with another SHA-256.")] = None,
    hub: Annotated[
        Form | None, typer.Option(help=f"Instead the 817 questions of the hub's {HUB} in this form, as Parquet (HF_ENDPOINT).")
    ] = None,
    revision: Annotated[str, typer.Option(help="Commit of the hub's data set.", show_default=REVISION[:8])] = REVISION,
) -> None:
    """Download the authors' CSV of 790 questions (TruthfulQA of January 2025, Apache-2.0), whole or not at all."""
    if sha256 is not None and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise UserError(f"--sha256 is {sha256!r:.80}: give 64 hexadecimal digits")
    if hub is None:
        target = fetched_path()
        found = fetch_file(url or ADDRESS, target, sha256, read_questions if url else check)
        use = "'edge run' asks them by default"
    else:
        if url is not None:
            raise UserError("--url and --hub are two places: give one of them")
        target = fetched_path().with_name(f"truthful_qa-{hub}-{plain(revision)[:12]}.parquet")
        found = fetch_file(hub_address(hub, revision), target, sha256, check_hub if revision == REVISION else read_questions)
        use = f"ask them with --questions {target}"
    count = len(read_questions(target))
    console.print(unmarked(f"{target}: {count} questions, SHA-256 {found}; {use}"), soft_wrap=True)


def plain(revision: str) -> str:
    """The revision as it was given; raises UserError unless it can stand in an address and in a file's name."""
    if not revision or set(revision.lower()) - set("0123456789abcdefghijklmnopqrstuvwxyz-_.") or revision.startswith("."):
        raise UserError(f"--revision is {revision!r:.80}: give a commit, branch or tag of letters, digits, '-', '_' and '.'")
    return revision


def hub_address(hub: Form, revision: str) -> str:
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    return f"{endpoint}/datasets/{HUB}/resolve/{revision}/{hub}/validation-00000-of-00001.parquet"


def check_hub(path: Path) -> None:
    """Raises UserError unless it holds as many questions as the pinned revision."""
    found = len(read_questions(path))
    if found != HUB_COUNT:
        raise UserError(f"{found} questions instead of {HUB_COUNT}")


def check(path: Path) -> None:
    """Raises UserError unless it holds the questions of 2025, each with its best pair."""
    found = read_questions(path)
    paired = sum(bool(question.best and question.best_incorrect) for question in found)
    if len(found) != COUNT or paired != COUNT:
        raise UserError(f"{len(found)} questions, {paired} with a best pair, instead of {COUNT}")
