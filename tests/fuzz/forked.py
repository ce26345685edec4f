"""Commands in forked processes: everything is imported once, a command costs a fork."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

CPU_SECONDS, WALL_SECONDS = 20, 150  # of one command; the second for a machine that others use as well
MEMORY = 5 << 30  # bytes of addresses
LONGEST = 1500  # characters of a sentence
ALLOWED = ("note: ", "questions: ")
OWN = re.compile(r'File ".*?/((?:edge|export)/[^"]+)", line \d+, in (\S+)')


class Command(NamedTuple):
    program: str  # edge or edge-export
    arguments: tuple[str, ...]


class Ended(NamedTuple):
    """How a command ended: exit code, -signal for a killed one; its text; seconds."""

    code: int
    out: str
    err: str
    seconds: float


def entries() -> dict[str, Callable[[], object]]:
    """The entry functions of both programs, with everything imported that their commands may import."""
    import pyarrow.parquet  # noqa: F401

    import edge.cli.app
    import export.__main__
    import export.cli

    logging.getLogger().handlers.clear()  # something among them, not among what commands import, sets one up
    return {"edge": edge.cli.app.main, "edge-export": export.__main__.main}


def warm(commands: Sequence[Command], folder: Path) -> None:
    """Imports what these commands import when they run."""
    modules = folder / ".modules"
    for command in commands:
        modules.unlink(missing_ok=True)
        run(command, folder, modules)
        for name in modules.read_text().splitlines():
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()


def run(command: Command, folder: Path, modules: Path | None = None) -> Ended:
    """Runs a command in a child of this process, with its output in files of `folder`.

    `modules` is where the names of all that it has imported are written.
    """
    mains = entries()
    out, err = folder / ".out", folder / ".err"
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            for descriptor, path in ((0, Path(os.devnull)), (1, out), (2, err)):
                flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                os.dup2(os.open(path, flags, 0o600), descriptor)
            # pytest, where it runs in this process, has replaced them
            sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            code = call(mains[command.program], [command.program, *command.arguments])
            if modules is not None:
                modules.write_text("\n".join(sys.modules))
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    code = wait(child, started + WALL_SECONDS)
    texts = (path.read_bytes().decode("utf-8", "backslashreplace") for path in (out, err))
    return Ended(code, *texts, time.monotonic() - started)


def call(main: Callable[[], object], arguments: list[str]) -> int:
    """The exit code that the program would end with."""
    sys.argv = arguments
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def wait(child: int, deadline: float) -> int:
    """The child's exit code, or minus the signal that ended it."""
    pause = 0.001
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGALRM
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)


def fault(ended: Ended) -> str:
    """What is wrong with how a command ended, "" for nothing. Equal faults have equal texts."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    if ended.code < 0:
        name = {-signal.SIGXCPU: "hang (processor time)", -signal.SIGALRM: "hang"}.get(ended.code)
        told = [line for line in lines if "ASSERT" in line] or lines[-1:] or [""]
        last = re.sub(r"\d+|0x[0-9a-f]+", "N", told[0])[-80:]
        return f"{name or signal.Signals(-ended.code).name} {last}".strip()
    if "Traceback" in ended.err:
        places = OWN.findall(ended.err)
        where = " in ".join(reversed(places[-1])) if places else "?"
        return f"{lines[-1].split(':')[0][:60]} at {where}"
    if ended.code not in (0, 2):
        return f"exit code {ended.code}: {(lines or [''])[-1][:80]}"
    if ended.code == 0:
        return ""
    others = [line for line in lines if not line.startswith(("error: ", *ALLOWED))]
    sentences = [line for line in lines if line.startswith("error: ")]
    if others:
        return f"stray line: {re.sub(chr(92) + 'd+', 'N', others[0])[:60]}"
    if len(sentences) != 1:
        return f"{len(sentences)} sentences"
    if len(sentences[0]) > LONGEST:
        return f"a sentence of over {LONGEST} characters: {sentences[0][-60:]}"
    if any(not c.isprintable() for c in sentences[0]):
        return "a sentence with control characters"
    return ""
