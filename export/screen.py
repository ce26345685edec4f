"""The progress that `edge-export` shows while it works."""

from __future__ import annotations

import sys
from types import TracebackType

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from edge.cli.common import errors
from export.download import Agree, Download


def say_fetching(where: Console, name: str, size: int) -> None:
    """Prints a line for a file before it is downloaded; `size` in bytes."""
    where.print(f"fetching {name}, {size / 1e6:.1f} MB", style="dim", markup=False)


def agree_to(yes: bool) -> Agree:
    """Decides on large downloads: says what is to come, and asks where a person can answer.

    Without `yes` and without a person the download is refused.
    """

    def agree(download: Download) -> bool:
        asked = sys.stdin.isatty() and sys.stderr.isatty()
        if yes or asked:
            errors.print(f"{download}", markup=False, soft_wrap=True)
        return yes or (asked and typer.confirm("Fetch it?", err=True))

    return agree


class WriteBar:
    """A bar of the bytes of weights written, on stderr. A context manager that ends the bar on leaving."""

    def __init__(self) -> None:
        columns = TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn()
        self._bar = Progress(
            *columns, TimeElapsedColumn(), console=errors, transient=True, disable=not errors.is_terminal
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> WriteBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar.live.is_started:
            self._bar.stop()

    def on_start(self, name: str) -> None:
        """Takes the name of what is written next."""
        self._bar.update(self._task, description=name)

    def on_bytes(self, done: int, total: int) -> None:
        """Shows the bytes written. The bar starts here, so that a refusal stands alone on stderr."""
        self._bar.start()
        self._bar.update(self._task, completed=done, total=total)
