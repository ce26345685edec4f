"""The device: board, processor, memory. A value that cannot be read is None, never an error."""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.fields import Fields, integer, list_of, optional, text
from edge.machine.processors import usable_cores
from edge.machine.system import SYSTEM, control_groups, read_integer, read_text


@dataclass(frozen=True)
class Device:
    """Description of a computer; unknown values have their defaults.

    `cores` are those that this process may use, `memory_bytes` and `swap_bytes` totals, `system` the
    operating system. `simd` are the instruction sets of FEATURES that the processor lists, `core_kinds` the
    number of cores of each part.
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
        """Reads the object of to_json(); raises FieldError for a field of another kind.

        Further fields, of other versions, are ignored: a device decides no rows.
        """
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


# Instruction sets that speed up quantised arithmetic, by their names in /proc/cpuinfo. The first are ARM's
# (asimd is NEON, asimddp the dot product, i8mm the matrix product of bytes, asimdhp half precision).
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
    """Describes this machine from /proc and /sys below `root`."""
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


def processor(cpuinfo: str) -> str | None:
    """The processor's name in /proc/cpuinfo."""
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
    """The FEATURES that the first processor lists."""
    listed = {word for line in entries(cpuinfo, "flags", "Features")[:1] for word in line.split()}
    return tuple(name for name in FEATURES if name in listed)


def core_kinds(cpuinfo: str) -> str:
    """Counts cores by ARM's part numbers, as in "4 Cortex-A76"; "" where there are none."""
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
    """Bytes of memory that this process can still take: the machine's or its control group's, if less."""
    free = [meminfo(read_text(root / "proc/meminfo") or "", "MemAvailable"), *group_memory(root)]
    return min((size for size in free if size is not None), default=None)


# Files of limit and use in a control group, and the entry of memory.stat that counts the file cache.
MEMORY_FILES = {
    False: ("memory.max", "memory.current", "inactive_file"),
    True: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def group_memory(root: Path = SYSTEM) -> list[int]:
    """Bytes left in each limited control group around this process (container, systemd unit).

    File cache counts as free.
    """
    rooms = (group_room(group.folder, *MEMORY_FILES[group.old]) for group in control_groups("memory", root))
    return [room for room in rooms if room is not None]


def group_room(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> int | None:
    """Bytes left in one control group, None where it has no limit."""
    limit, usage = read_integer(folder / limit_name), read_integer(folder / usage_name)
    if limit is None or usage is None:
        return None
    cached = entry(read_text(folder / "memory.stat") or "", cache_name)
    return max(0, limit - usage + cached)


def entry(stat: str, name: str) -> int:
    """A number of memory.stat, 0 where it is missing."""
    rows = (line.split() for line in stat.splitlines())
    return next((int(row[1]) for row in rows if len(row) == 2 and row[0] == name and row[1].isdigit()), 0)


def amount(size: float) -> str:
    """Bytes for a person: "1.2 GB" or "3.4 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
