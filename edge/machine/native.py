"""C code compiled on the machine it runs on, once, and cached for its user.

All compiled code has a twin in Python or numpy, which a machine without a compiler uses; it is slower.
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

from edge.files import file_sha256, user_folder

FLAGS = ("-std=c11", "-O2", "-shared", "-fPIC")
LINK_FLAGS = ("-lm",)
COMPILERS = ("cc", "gcc", "clang")
DIGITS = 16  # of a digest in a file's name
SECONDS = 120.0  # the longest compilation, on a slow SD card


class Compiled(NamedTuple):
    """The loaded library, or None and the reason why there is none."""

    library: ctypes.CDLL | None
    problem: str


def cache_folder() -> Path:
    """The folder of compiled code: $XDG_CACHE_HOME/edgetrace, by default below ~/.cache.

    Raises RuntimeError for a user without a home folder.
    """
    folder = user_folder("XDG_CACHE_HOME", ".cache")
    if folder is None:
        raise RuntimeError("no home folder to keep compiled code in: set HOME or XDG_CACHE_HOME")
    return folder / "edgetrace"


def cache_stem(source: Path, flags: tuple[str, ...] = ()) -> Path:
    """Path of the cached library without its own digest and suffix.

    It differs with the source, the flags, the machine and the Python version.
    """
    build = repr(((*FLAGS, *flags), sysconfig.get_config_var("SOABI"))).encode()
    digest = hashlib.sha256(source.read_bytes() + build).hexdigest()
    return cache_folder() / f"{source.stem}-{digest[:DIGITS]}"


@functools.cache
def compiled(source: Path, flags: tuple[str, ...] = ()) -> Compiled:
    """Loads the library of a source, compiled with FLAGS and `flags` unless it is in the cache."""
    try:
        stem = cache_stem(source, flags)
        for path in stem.parent.glob(f"{stem.name}-*.so"):
            if is_ours(path) and is_whole(path):
                return Compiled(ctypes.CDLL(str(path)), "")
            path.unlink(missing_ok=True)
        return Compiled(ctypes.CDLL(str(compile_to(stem, source, flags))), "")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        return Compiled(None, " ".join(detail.split())[:200])


def is_ours(path: Path) -> bool:
    """Whether only this user can have written a file."""
    entries = (path.stat(), path.parent.stat())
    return all(entry.st_uid == os.geteuid() and not entry.st_mode & 0o022 for entry in entries)


def is_whole(path: Path) -> bool:
    """Whether a cached library is undamaged; loading a damaged one would end the process."""
    return path.stem.endswith(f"-{file_sha256(path)[:DIGITS]}")


def compile_to(stem: Path, source: Path, flags: tuple[str, ...]) -> Path:
    """Compiles into the cache; returns the library's path.

    Raises OSError, RuntimeError or SubprocessError, and leaves no file then.
    """
    compiler = next((program for name in COMPILERS if (program := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeError("no C compiler is installed")
    stem.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stem.parent) as folder:
        library = Path(folder, "made.so")
        subprocess.run(  # noqa: S603 - our own source, a compiler from PATH
            [compiler, *FLAGS, *flags, "-o", str(library), str(source), *LINK_FLAGS],
            check=True,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        ctypes.CDLL(str(library))  # a library that cannot be loaded is not kept
        return keep(library, stem)


def keep(library: Path, stem: Path) -> Path:
    """Moves a library into the cache, whole even when the power fails; returns its path."""
    library.chmod(0o700)
    with library.open("rb") as stream:
        os.fsync(stream.fileno())
    return library.replace(stem.with_name(f"{stem.name}-{file_sha256(library)[:DIGITS]}.so"))
