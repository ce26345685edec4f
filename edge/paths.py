"""Names of files for libraries that take UTF-8 alone. A file of Linux may have any bytes as its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

OPEN = Path("/proc/self/fd")  # each open file and folder of this process, by number


def is_utf8(name: str | Path) -> bool:
    """Whether a name is UTF-8, and not bytes that Python keeps as surrogates."""
    try:
        str(name).encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def utf8_name(path: Path) -> Iterator[str]:
    """A name of the file in UTF-8 that holds while the scope lasts: its own, or one by its open folder.

    A file that is not there yet gets its name in the folder. Raises OSError where the folder, or a file
    whose own name is not UTF-8, cannot be opened.
    """
    if is_utf8(path):
        yield str(path)
        return
    within = is_utf8(path.name)
    descriptor = os.open(path.parent if within else path, os.O_RDONLY)
    try:
        yield str(OPEN / str(descriptor) / path.name if within else OPEN / str(descriptor))
    finally:
        os.close(descriptor)


def readable(name: str | Path) -> str:
    """The name as text; bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")
