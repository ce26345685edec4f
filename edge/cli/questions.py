"""`edge questions`: downloads TruthfulQA's questions from their authors or from the hub."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated

import typer

from edge.cli.common import console
from edge.cli.terminal import unmarked
from edge.errors import UserError
from edge.questions.download import fetch as fetch_file
from edge.questions.question import fetched_path, read_questions

ADDRESS = "https://raw.githubusercontent.com/sylinrl/TruthfulQA/main/TruthfulQA.csv"
COUNT = 790
HUB = "truthfulqa/truthful_qa"
HUB_COUNT = 817
REVISION = "741b8276f2d1982aa3d5b832d3ee81ed3b896490"  # of the data set
LETTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyz-_.")


class Form(enum.StrEnum):
    """Configurations of the hub's data set."""

    generation = "generation"
    multiple_choice = "multiple_choice"


questions = typer.Typer(
    help="Fetch TruthfulQA's questions, which `edge run` then asks by default.", no_args_is_help=True
)


@questions.callback()
def top() -> None:
    """Fetch TruthfulQA's questions, which `edge run` then asks by default."""


@questions.command(epilog="Example: edge questions fetch")
def fetch(
    url: Annotated[str | None, typer.Option(help="Another address of the authors' CSV.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Refuse a file with another SHA-256.")] = None,
    hub: Annotated[
        Form | None,
        typer.Option(
            help=f"Instead the 817 questions of the hub's {HUB}, generation or multiple_choice, as Parquet "
            f"(HF_ENDPOINT)."
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help=f"With --hub: another commit of the data set than {REVISION[:8]}.")
    ] = None,
) -> None:
    """Download the authors' CSV of 790 questions (TruthfulQA of January 2025, Apache-2.0), whole or not at
    all."""
    if sha256 is not None and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise UserError(f"--sha256 is {sha256!r:.80}: give 64 hexadecimal digits")
    if hub is None:
        if revision is not None:
            raise UserError(
                "--revision is of the hub's data set: give --hub generation or --hub multiple_choice, too"
            )
        address, target = ADDRESS if url is None else url, fetched_path()
        by_hand = f"put the file at {target} yourself, or give one with --questions"
        checksum = fetch_file(
            address, target, sha256, check_authors if address == ADDRESS else read_questions, by_hand
        )
        use = "'edge run' asks them by default"
    else:
        if url is not None:
            raise UserError("--url and --hub are two places: give one of them")
        commit = revision_name(REVISION if revision is None else revision)
        target = fetched_path().with_name(f"truthful_qa-{hub}-{commit}.parquet")
        by_hand = "get the file in another way and give it with --questions"
        checksum = fetch_file(
            hub_address(hub, commit),
            target,
            sha256,
            check_hub if commit == REVISION else read_questions,
            by_hand,
        )
        use = f"ask them with --questions {target}"
    count = len(read_questions(target))
    console.print(unmarked(f"{target}: {count} questions, SHA-256 {checksum}; {use}"), soft_wrap=True)


def revision_name(revision: str) -> str:
    """The revision, unchanged; raises UserError unless it fits an address and a file's name."""
    if not revision or len(revision) > 100 or set(revision.lower()) - LETTERS or revision.startswith("."):
        raise UserError(
            f"--revision is {revision!r:.80}: give a commit, branch or tag of letters, digits, '-', '_' and "
            f"'.'"
        )
    return revision


def hub_address(hub: Form, revision: str) -> str:
    """The address of the hub's Parquet file; raises UserError where HF_ENDPOINT is no address."""
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not endpoint.startswith(("https://", "http://")):
        raise UserError(
            f"HF_ENDPOINT is {endpoint!r:.80}: set it to an http or https address, or not at all"
        )
    return f"{endpoint}/datasets/{HUB}/resolve/{revision}/{hub}/validation-00000-of-00001.parquet"


def check_authors(path: Path) -> None:
    """Raises UserError unless a file holds the questions of 2025, each with its best pair."""
    questions = read_questions(path)
    paired = sum(bool(question.best and question.best_incorrect) for question in questions)
    if len(questions) != COUNT or paired != COUNT:
        raise UserError(f"{len(questions)} questions, {paired} with a best pair, instead of {COUNT}")


def check_hub(path: Path) -> None:
    """Raises UserError unless a file holds as many questions as the pinned revision."""
    count = len(read_questions(path))
    if count != HUB_COUNT:
        raise UserError(f"{count} questions instead of {HUB_COUNT}")
