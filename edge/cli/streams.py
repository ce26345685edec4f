"""The standard streams of a program: closed ones, full ones, and encodings that lack characters."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

OUTPUT = "standard output"  # its name in errors


class Output(io.TextIOWrapper):
    """Standard output. An OSError of it says so; a character that its encoding lacks is escaped."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            error.filename = OUTPUT
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            error.filename = OUTPUT
            raise


class Messages(io.TextIOWrapper):
    """Standard error. Where it cannot be written (a log on a full disk), work goes on without messages."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            return


def open_streams() -> None:
    """Puts these in the place of Python's own streams, and gives a closed stream a file.

    Without one the next file that is opened would take its number. Writing to a closed standard output
    remains an error.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="backslashreplace")
    # Other streams are those of a test or a notebook.
    if sys.stdout is sys.__stdout__:
        sys.stdout = renewed(Output, 1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = renewed(Messages, 2, sys.stderr)


def renewed(kind: type[io.TextIOWrapper], number: int, before: TextIO | None) -> TextIO:
    """A stream of this kind for the same file; `before` is None where it was closed."""
    if not isinstance(before, io.TextIOWrapper):
        closed = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        return kind(closed, encoding="utf-8", errors="backslashreplace")
    return kind(
        before.buffer,
        encoding=before.encoding,
        errors="backslashreplace",
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )


def silence(stream: TextIO) -> None:
    """Sends what cannot be written to nowhere: Python would report it once more when it ends."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
