"""Commands that a command runs as processes: `edge` may not import `export`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import typer

from edge.cli.common import SAID
from edge.machine.early import SIGNALLED

MODULES = {"edge": "edge", "edge-export": "export"}  # command -> module that `python -m` runs


def run_command(command: list[str], output: int | None = None, said: str = "") -> None:
    """Runs a command of ours and waits for it; raises typer.Exit with its exit code where it fails.

    `output` is the descriptor that its standard output goes to, by default ours. `said` is the notice of a
    model that has been printed already, which the command then leaves out. Ctrl-C reaches the command
    itself: we wait until it has ended, and end, too. Any other signal to us ends it first.
    """
    # -P: a folder `edge` or `export` of the user's must not be imported instead.
    arguments = [sys.executable, "-P", "-m", MODULES[command[0]], *command[1:]]
    environment = os.environ | {SAID: said} if said else None
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        with subprocess.Popen(arguments, stdout=output, env=environment) as process:  # noqa: S603
            try:
                code = process.wait()
            except BaseException:
                process.terminate()  # it removes what it has half done
                raise
    finally:
        signal.signal(signal.SIGINT, before)
    if code < 0:  # ended by a signal
        raise typer.Exit(SIGNALLED - code)
    if code or pressed:
        raise typer.Exit(code or SIGNALLED + signal.SIGINT)
