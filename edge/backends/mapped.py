"""Memory that loading a model needed and running it does not."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any, NamedTuple

from edge.machine.system import SYSTEM, read_text

DONTNEED = 4  # MADV_DONTNEED of Linux
HEADING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)")


class Mapping(NamedTuple):
    """Part of a file in this process's address space; `clean` where nothing was written to it."""

    start: int
    length: int
    path: str
    clean: bool


def mappings(smaps: str) -> list[Mapping]:
    """The mappings that the text of /proc/self/smaps lists."""
    listed: list[Mapping] = []
    for line in smaps.splitlines():
        heading = HEADING.fullmatch(line)
        if heading:
            start, end = int(heading[1], 16), int(heading[2], 16)
            listed.append(Mapping(start, end - start, heading[3], clean=False))
        elif listed and line.startswith("Anonymous:"):
            listed[-1] = listed[-1]._replace(clean=line.split()[1] == "0")
    return listed


def trim() -> None:
    """Gives freed memory that glibc keeps back to the system; does nothing with other C libraries."""
    give: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give is not None:
        give(ctypes.c_size_t(0))


def let_go(*paths: Path, root: Path = SYSTEM) -> int:
    """Takes the files' pages out of this process's memory; those that are used come back by themselves from
    the kernel's cache.

    Loading reads every weight to lay it out; what the kernels use afterwards is the layout, not the weight.
    Gives the bytes of the mappings that were let go; 0 where the system does not tell of mappings.
    """
    advise: Any = getattr(ctypes.CDLL(None, use_errno=True), "madvise", None)
    if advise is None:
        return 0
    names, length = {str(path.resolve()) for path in paths}, 0
    for mapping in mappings(read_text(root / "proc/self/smaps") or ""):
        if mapping.path in names and mapping.clean:
            advise(ctypes.c_void_p(mapping.start), ctypes.c_size_t(mapping.length), DONTNEED)
            length += mapping.length
    return length
