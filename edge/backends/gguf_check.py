"""A GGUF file is loaded once by another process before this one loads it.

llama.cpp trusts a file's head: numbers that make no model can end the process by an assertion, a division by
zero or a bad address, which no Python code can catch. The verdict is kept by the file's SHA-256 and the
library's version in the user's cache folder, where there is one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from edge.artifact import FileRecord, record_file
from edge.backends.llama_library import version
from edge.errors import UserError
from edge.files import write_whole
from edge.version import __version__

MAGIC = b"GGUF"
PROBE = "edge.backends.gguf_probe"
SECONDS = 120  # by the clock, and as many more as the file takes at the slowest rate
SLOWEST = 5_000_000  # bytes a second
# How it tells why: an assertion, an end by itself, an exception of C++ that nothing catches.
REASON = re.compile(r"[^\s/]+:\d+: (?=\S)(.+)|what\(\):\s*(.+)")
SOUND = "sound"


def checked_record(path: Path) -> FileRecord:
    """The record of a file that llama.cpp can load without harm to the process, or refuses by itself.

    Raises UserError when it cannot be read, and when the process that loaded it died or did not end.
    """
    try:
        record = record_file(path)
        with path.open("rb") as stream:
            begin = stream.read(len(MAGIC))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error}): give a GGUF file") from error
    if begin == MAGIC and (fault := known_fault(path, record)):
        raise UserError(f"llama.cpp {version()} cannot load {path} ({fault}): download it or build it again")
    return record


def known_fault(path: Path, record: FileRecord) -> str:
    """What goes wrong when the file is loaded, "" for nothing; remembered where that is possible."""
    place = verdict_path(record)
    if place is not None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            kept = place.read_text(encoding="utf-8").rstrip("\n")
            if kept:
                return "" if kept == SOUND else kept
    fault, final = try_load(path, record.size)
    if place is not None and final:
        # Without a verdict the file is tried again the next time, which is no fault of the user's.
        with contextlib.suppress(OSError, UserError):
            place.parent.mkdir(parents=True, exist_ok=True)
            text = f"{fault or SOUND}\n"
            write_whole(place, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return fault


def verdict_path(record: FileRecord) -> Path | None:
    """The file of the verdict below $XDG_CACHE_HOME or ~/.cache; None where there is no such folder."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # neither HOME nor an entry of this user in the system's list
        return None
    key = hashlib.sha256(f"{record.sha256} {version()} {__version__}".encode()).hexdigest()
    return cache / "edgetrace" / "gguf" / key[:32]


def try_load(path: Path, size: int) -> tuple[str, bool]:
    """Loads the file in another process: what went wrong, and whether that is certain to come again."""
    if not sys.executable:  # Python inside another program
        return "", False
    limit = SECONDS + size / SLOWEST
    places = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
    own = {"PYTHONPATH": places, "GGML_NO_BACKTRACE": "1", "OPENBLAS_NUM_THREADS": "1"}
    command: list[str | bytes] = [sys.executable, "-P", "-m", PROBE, os.fsencode(path)]
    try:
        ended = subprocess.run(  # noqa: S603  (our own module)
            command, env=os.environ | own, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"it does not end within {limit:.0f} s", False
    except OSError:  # no memory or no right for another process: the file is loaded unchecked
        return "", False
    if ended.returncode >= 0:
        return "", ended.returncode == 0
    if -ended.returncode in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        return "", False  # someone stopped it
    if -ended.returncode == signal.SIGXCPU:
        return "it does not end", False  # or this machine is very slow
    if -ended.returncode == signal.SIGKILL:
        return "it takes more memory than there is", False
    said = ended.stderr.decode("utf-8", "replace")
    reasons = [match[1] or match[2] for line in said.splitlines() if (match := REASON.search(line))]
    reason = " ".join((reasons or ["it damages the process"])[0].split())[:200]
    return f"{signal.Signals(-ended.returncode).name}: {reason}", True
