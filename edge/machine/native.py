"""C beside Python: a source file compiled on the machine it runs on, once, and kept for its user.

What is compiled always has a twin in Python or numpy, so that a machine without a compiler does the same,
more slowly.
"""

from __future__ import annotations

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

from edge.files import file_sha256

FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC")
LIBRARIES = ("-lm",)
COMPILERS = ("cc", "gcc", "clang")
DIGITS = 16  # of a digest in a file's name
SECONDS = 120.0  # a compiler on a slow card


class Compiled(NamedTuple):
    """The loaded library, or None and the reason why there is none."""

    library: ctypes.CDLL | None
    problem: str


def cache_folder() -> Path:
    """Where compiled code is kept: $XDG_CACHE_HOME/edgetrace, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgetrace"


def kept_at(source: Path, flags: tuple[str, ...] = ()) -> Path:
    """Where the library of a source and further flags is kept, but for its own digest: by both, machine and
    Python."""
    made_of = repr(((*FLAGS, *flags), sysconfig.get_config_var("SOABI"))).encode()
    return (
        cache_folder()
        / f"{source.stem}-{hashlib.sha256(source.read_bytes() + made_of).hexdigest()[:DIGITS]}"
    )


@functools.cache
def compiled(source: Path, flags: tuple[str, ...] = ()) -> Compiled:
    """Compiles a source with these flags beside FLAGS, unless an earlier process of this user has, and loads
    it."""
    try:
        at = kept_at(source, flags)
        for path in at.parent.glob(f"{at.name}-*.so"):
            if is_ours(path) and is_whole(path):
                return Compiled(ctypes.CDLL(str(path)), "")
            path.unlink(missing_ok=True)
        return Compiled(ctypes.CDLL(str(compile_to(at, source, flags))), "")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return Compiled(None, " ".join(detail.split())[:200])


def is_ours(path: Path) -> bool:
    """Whether this user alone can have written a file."""
    found, folder = path.stat(), path.parent.stat()
    return all(entry.st_uid == os.geteuid() and not entry.st_mode & 0o022 for entry in (found, folder))


def is_whole(path: Path) -> bool:
    """Whether a kept library is what was compiled: a damaged one would end the process as soon as it is
    loaded."""
    return path.stem.endswith(f"-{file_sha256(path)[:DIGITS]}")


def compile_to(at: Path, source: Path, flags: tuple[str, ...]) -> Path:
    """The library's path; raises OSError, RuntimeError or SubprocessError, and leaves nothing then."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError("no C compiler is installed")
    at.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=at.parent) as folder:
        made = Path(folder, "made.so")
        subprocess.run(  # noqa: S603 - our own source, a compiler from PATH
            [compiler, *FLAGS, *flags, "-o", str(made), str(source), *LIBRARIES],
            check=True,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        ctypes.CDLL(str(made))  # what cannot be loaded is not kept
        return keep(made, at)


def keep(made: Path, at: Path) -> Path:
    """Moves a library to where `compiled` finds it, whole even when the power fails."""
    made.chmod(0o700)
    with made.open("rb") as stream:
        os.fsync(stream.fileno())
    return made.replace(at.with_name(f"{at.name}-{file_sha256(made)[:DIGITS]}.so"))
