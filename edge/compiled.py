"""C beside Python: a source file compiled on the machine it runs on, once, and kept for its user.

What is compiled always has a twin in Python or numpy, so that a machine without a compiler does the same, more slowly.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC")
COMPILERS = ("cc", "gcc", "clang")
SECONDS = 120.0  # a compiler on a slow card


class Compiled(NamedTuple):
    """The loaded library, or None and the reason why there is none."""

    library: ctypes.CDLL | None
    problem: str


def cache_folder() -> Path:
    """Where compiled code is kept: $XDG_CACHE_HOME/edgetrace, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgetrace"


def kept_at(source: Path, flags: tuple[str, ...] = ()) -> Path:
    """Where the library of a source and further flags is kept: by both, and by the kind of machine and Python."""
    made_of = repr(((*FLAGS, *flags), sysconfig.get_config_var("SOABI"))).encode()
    return cache_folder() / f"{source.stem}-{hashlib.sha256(source.read_bytes() + made_of).hexdigest()[:16]}.so"


@functools.cache
def compiled(source: Path, flags: tuple[str, ...] = ()) -> Compiled:
    """Compiles a source with these flags beside FLAGS, unless an earlier process of this user has, and loads it."""
    try:
        path = kept_at(source, flags)
        if is_ours(path):
            with contextlib.suppress(OSError):  # damaged: compiled anew
                return Compiled(ctypes.CDLL(str(path)), "")
        compile_to(path, source, (*FLAGS, *flags))
        return Compiled(ctypes.CDLL(str(path)), "")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return Compiled(None, " ".join(detail.split())[:200])


def is_ours(path: Path) -> bool:
    """Whether a file is there that this user alone can have written."""
    try:
        found, folder = path.stat(), path.parent.stat()
    except FileNotFoundError:
        return False
    return all(entry.st_uid == os.geteuid() and not entry.st_mode & 0o022 for entry in (found, folder))


def compile_to(path: Path, source: Path, flags: tuple[str, ...]) -> None:
    """Raises OSError, RuntimeError or SubprocessError, and leaves nothing then."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError("no C compiler is installed")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder, path.name)
        subprocess.run(  # noqa: S603 - our own source, a compiler from PATH
            [compiler, *flags, "-o", str(made), str(source)], check=True, capture_output=True, text=True, timeout=SECONDS
        )
        made.chmod(0o700)
        ctypes.CDLL(str(made))  # what cannot be loaded is not kept
        made.replace(path)
