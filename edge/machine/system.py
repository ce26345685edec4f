"""The system's own small files, below /proc and /sys, and the control groups around this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SYSTEM = Path("/")


def read_text(path: Path) -> str | None:
    """A small file's text without NULs and white space around it, None when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \t\n") or None
    except OSError:
        return None


def read_integer(path: Path) -> int | None:
    """The integer in a small file, None when it holds none or cannot be read."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


class ControlGroup(NamedTuple):
    """The folder of a control group; `old` for version 1, whose files have other names."""

    folder: Path
    old: bool


def control_groups(controller: str, root: Path = SYSTEM) -> Iterator[ControlGroup]:
    """Gives every control group around this process that may limit `controller`, the innermost first."""
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        if line.count(":") < 2:
            continue
        listed, _, path = line.partition(":")[2].partition(":")
        old = bool(listed)
        if old and controller not in listed.split(","):
            continue
        base = root / "sys/fs/cgroup" / (controller if old else "")
        group = base / path.strip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(base):
                yield ControlGroup(folder, old)
