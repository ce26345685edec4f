"""Errors as a sentence and an exit code."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from edge.errors import NotFetched, UserError
from edge.version import __version__

BUG, REFUSED, UNFETCHED = 1, 2, 3  # exit codes
LONGEST = 300  # characters of an unexpected error that are shown
OURS = ("edge", "export")
PLACE = Path(__file__).parents[2]


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and sentence: REFUSED for what a user can mend, UNFETCHED where a model cannot be fetched,
    BUG for a fault of ours."""
    detail = " ".join(str(error).split())[:LONGEST]
    match error:
        case NotFetched():
            return UNFETCHED, str(error)
        case UserError():
            return REFUSED, str(error)
        case MemoryError():
            return REFUSED, "memory ran out: end other programs, or give less at once"
        case RecursionError():
            return REFUSED, "an input is nested too deeply to be read: look for a damaged file"
        case OSError():
            return REFUSED, of_system(error, detail)
        case ImportError() if (error.name or "").partition(".")[0] not in OURS:
            name = error.name or "a library"
            return REFUSED, f"{name} cannot be loaded ({detail}): install Edgetrace again"
        case UnicodeEncodeError() if error.encoding == "utf-8":
            return REFUSED, f"a name is not UTF-8 ({detail}) and cannot be used here: rename it"
        case RuntimeError() if "home directory" in detail:
            return REFUSED, "this user has no home folder: set HOME"
    what = f"{type(error).__name__}: {detail}" if detail else type(error).__name__
    return BUG, (
        f"a fault in Edgetrace {__version__} ({what}, {where(error)}): please report it with the command; "
        "--debug right after the program's name shows more"
    )


def of_system(error: OSError, detail: str) -> str:
    """What the operating system refused, and for which file."""
    reason = error.strerror or detail or type(error).__name__
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"the system opens no more files ({reason}): raise the limit on open files (ulimit -n)"
    if error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        return f"cannot use {name} ({reason})"
    if isinstance(error, FileNotFoundError) and not here():
        return "the current folder is gone: change to one that is there"
    return f"the system refused a step ({reason}): free space or memory, or look at the disk"


def here() -> bool:
    """Whether the current folder still exists."""
    try:
        os.getcwd()  # noqa: PTH109 - Path.cwd() says no more
    except FileNotFoundError:
        return False
    return True


def where(error: BaseException) -> str:
    """The innermost place of our own code that an error passed, as in "edge/files.py line 40"."""
    import traceback  # only here: it is slow to import

    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PLACE) and path.relative_to(PLACE).parts[0] in OURS:
            return f"{path.relative_to(PLACE)} line {frame.lineno}"
    return "outside its code"
