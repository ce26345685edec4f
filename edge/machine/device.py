"""What machine this is: board, processor, memory. What cannot be read is None, never an error."""

from __future__ import annotations

import os
import platform
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.fields import Fields, integer, list_of, optional, text

SYSTEM = Path("/")


def read_text(path: Path) -> str | None:
    """A small file without NULs and white space around, None when it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip("\0 \t\n") or None
    except OSError:
        return None


def read_integer(path: Path) -> int | None:
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class Device:
    """Board or machine name, processor, cores this process may use, memory and swap in bytes, operating
    system.

    `simd` are the instruction sets of FEATURES that the processor says it has, `core_kinds` how many cores
    of which part. What is not known has its default.
    """

    board: str | None = None
    processor: str | None = None
    machine: str = ""
    cores: int = 0
    memory_bytes: int | None = None
    system: str = ""
    swap_bytes: int | None = None
    simd: tuple[str, ...] = ()
    core_kinds: str = ""

    @property
    def name(self) -> str:
        """Board or processor, "" where neither is known."""
        return self.board or self.processor or ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> Device:
        """Reads what to_json() gave. A device describes and decides nothing: what another version told
        beside these fields is ignored. Raises FieldError for a field of another kind."""
        fields = Fields(value)
        return Device(
            board=fields.get("board", optional(text), None),
            processor=fields.get("processor", optional(text), None),
            machine=fields.get("machine", text, ""),
            cores=fields.get("cores", integer, 0),
            memory_bytes=fields.get("memory_bytes", optional(integer), None),
            system=fields.get("system", text, ""),
            swap_bytes=fields.get("swap_bytes", optional(integer), None),
            simd=fields.get("simd", list_of(text), ()),
            core_kinds=fields.get("core_kinds", text, ""),
        )


# What speeds quantised arithmetic up, as /proc/cpuinfo names it: on ARM (asimd is NEON, asimddp the dot
# product, i8mm the matrix product of bytes, asimdhp half precision) and on x86.
FEATURES = (
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
)
# CPU part of ARM's cores in /proc/cpuinfo.
PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
}


def describe(root: Path = SYSTEM) -> Device:
    """Reads /proc and /sys below `root`."""
    cpuinfo, memory = read_text(root / "proc/cpuinfo") or "", read_text(root / "proc/meminfo") or ""
    return Device(
        board=read_text(root / "proc/device-tree/model")
        or read_text(root / "sys/class/dmi/id/product_name"),
        processor=processor(cpuinfo),
        machine=platform.machine(),
        cores=usable_cores(),
        memory_bytes=meminfo(memory, "MemTotal"),
        system=f"{platform.system()} {platform.release()}",
        swap_bytes=meminfo(memory, "SwapTotal"),
        simd=simd(cpuinfo),
        core_kinds=core_kinds(cpuinfo),
    )


def usable_cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor(cpuinfo: str) -> str | None:
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip() or None
    return None


def entries(cpuinfo: str, *names: str) -> list[str]:
    """Values of the lines with one of these names, in order."""
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return [value.strip() for name, _, value in pairs if name.strip() in names]


def simd(cpuinfo: str) -> tuple[str, ...]:
    """Those of FEATURES that the first processor lists."""
    listed = {word for line in entries(cpuinfo, "flags", "Features")[:1] for word in line.split()}
    return tuple(name for name in FEATURES if name in listed)


def core_kinds(cpuinfo: str) -> str:
    """Such as "4 Cortex-A76", from ARM's part numbers; "" where there are none."""
    counts = Counter(PARTS.get(part.lower(), part) for part in entries(cpuinfo, "CPU part"))
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def meminfo(text: str, key: str) -> int | None:
    """A /proc/meminfo entry in bytes."""
    for line in text.splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if name == key and words and words[0].isdigit():
            return int(words[0]) * 1024
    return None


def available_memory(root: Path = SYSTEM) -> int | None:
    """Bytes of memory that this process can still take: what the machine has left, or its control group
    where that is less."""
    free = [meminfo(read_text(root / "proc/meminfo") or "", "MemAvailable"), *group_memory(root)]
    return min((size for size in free if size is not None), default=None)


# Of a control group: folder below /sys/fs/cgroup, files of limit and use, and what of memory.stat can be
# dropped.
GROUPS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def group_memory(root: Path = SYSTEM) -> list[int]:
    """Bytes left in each limited control group around this process (container, systemd unit), its file cache
    not counted."""
    left = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        kind = "memory" if "memory" in controllers.split(",") else controllers
        if kind not in GROUPS or line.count(":") < 2:
            continue
        name, *files = GROUPS[kind]
        base = root / "sys/fs/cgroup" / name
        group = base / path.strip("/")
        around = [folder for folder in (group, *group.parents) if folder.is_relative_to(base)]
        left += [room for folder in around if (room := group_room(folder, *files)) is not None]
    return left


def group_room(folder: Path, limit_name: str, usage_name: str, droppable: str) -> int | None:
    """Bytes left in one control group, None where it has no limit."""
    limit, usage = read_integer(folder / limit_name), read_integer(folder / usage_name)
    if limit is None or usage is None:
        return None
    cached = entry(read_text(folder / "memory.stat") or "", droppable)
    return max(0, limit - usage + cached)


def entry(stat: str, name: str) -> int:
    """A number of memory.stat, 0 where it is not there."""
    rows = (line.split() for line in stat.splitlines())
    return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == name and row[1].isdigit()), 0)


def amount(size: float) -> str:
    """Bytes for a person: "1.2 GB" or "3.4 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
