"""Telemetry: temperature, clock, throttling, power and memory while the machine works.

Sources: the kernel's thermal zones, cooling devices, cpufreq and hwmon below /sys (Documentation/ABI of
Linux), and what `edge.machine.boards` reads. What cannot be read is None, no error. docs/device.md says
which board has what.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from edge.machine.boards import (
    THROTTLED_NOW,
    THROTTLED_SINCE_BOOT,
    EnergyCounters,
    Vcgencmd,
    jetson_rails,
    pmic_watts,
)
from edge.machine.device import available_memory, meminfo
from edge.machine.system import SYSTEM, read_integer, read_text

PLAUSIBLE = (-40.0, 150.0)  # degrees Celsius: zones that are switched off give -256 or nothing
# Cooling devices that slow the processor down, as drivers name them; others are fans.
SLOWING = re.compile(r"cpufreq|cpu-freq|cpu_freq|throttle|Processor", re.IGNORECASE)


class Sample(NamedTuple):
    """One telemetry row, taken when the question `question_index` is finished.

    `unix_time` is in seconds since 1970, sizes are in bytes. `temperature_c` is that of the hottest zone.
    `frequency_mhz` is that of the fastest core, `frequency_limit_mhz` the most it may have now.
    `throttle_flags` are the firmware's bits (Raspberry Pi). `throttled` says whether the processor is slowed
    down now, by any source, `throttled_before` whether it was since boot. `over_current_events` counts since
    boot (Jetson). `power_w` is drawn now. `energy_j` (from a counter) and `paused_s` (waited for the machine
    to cool) are since the last sample.
    """

    unix_time: float
    question_index: int
    rss_bytes: int | None
    memory_available_bytes: int | None
    swap_used_bytes: int | None
    temperature_c: float | None
    frequency_mhz: float | None
    frequency_limit_mhz: float | None
    throttle_flags: int | None
    throttled: bool | None
    throttled_before: bool | None
    over_current_events: int | None
    power_w: float | None
    energy_j: float | None
    paused_s: float


TELEMETRY = pa.schema(
    [
        ("unix_time", pa.float64()),
        ("question_index", pa.int32()),
        ("rss_bytes", pa.int64()),
        ("memory_available_bytes", pa.int64()),
        ("swap_used_bytes", pa.int64()),
        ("temperature_c", pa.float32()),
        ("frequency_mhz", pa.float32()),
        ("frequency_limit_mhz", pa.float32()),
        ("throttle_flags", pa.int32()),
        ("throttled", pa.bool_()),
        ("throttled_before", pa.bool_()),
        ("over_current_events", pa.int64()),
        ("power_w", pa.float32()),
        ("energy_j", pa.float64()),
        ("paused_s", pa.float32()),
    ]
)


class Sensors:
    """The sensors below `root`, looked for once; `path` is where vcgencmd is looked for (default: PATH)."""

    def __init__(self, root: Path = SYSTEM, path: str | None = None) -> None:
        self._root = root
        self._zones = sorted(root.glob("sys/class/thermal/thermal_zone*/temp"))
        self._coolers = [
            folder / "cur_state"
            for folder in sorted(root.glob("sys/class/thermal/cooling_device*"))
            if SLOWING.search(read_text(folder / "type") or "")
        ]
        policies = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy*"))
        self._policies = policies or sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"))
        firmware = sorted(root.glob("sys/devices/platform/*/*firmware/get_throttled"))
        self._throttled_file = firmware[0] if firmware else None
        self._rails = jetson_rails(root)
        self._over_current = sorted(root.glob("sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt"))
        self._energy = EnergyCounters(root)
        self._vcgencmd = Vcgencmd(path)

    def temperature(self) -> float | None:
        """Degrees Celsius of the hottest thermal zone."""
        degrees = [value / 1000 for value in read_integers(self._zones)]
        return max((value for value in degrees if PLAUSIBLE[0] < value < PLAUSIBLE[1]), default=None)

    def rss(self) -> int | None:
        """Bytes of memory that this process has now."""
        statm = (read_text(self._root / "proc/self/statm") or "").split()
        return int(statm[1]) * os.sysconf("SC_PAGE_SIZE") if len(statm) > 1 and statm[1].isdigit() else None

    def sample(self, question_index: int, paused_s: float = 0.0) -> Sample:
        memory = read_text(self._root / "proc/meminfo") or ""
        total, free = meminfo(memory, "SwapTotal"), meminfo(memory, "SwapFree")
        flags = self._flags()
        return Sample(
            unix_time=time.time(),
            question_index=question_index,
            rss_bytes=self.rss(),
            memory_available_bytes=available_memory(self._root),
            swap_used_bytes=None if total is None or free is None else total - free,
            temperature_c=self.temperature(),
            frequency_mhz=self._megahertz("scaling_cur_freq"),
            frequency_limit_mhz=self._megahertz("scaling_max_freq"),
            throttle_flags=flags,
            throttled=self._throttled(flags),
            throttled_before=None if flags is None else bool(flags & THROTTLED_SINCE_BOOT),
            over_current_events=self._over_current_events(),
            power_w=self._watts(),
            energy_j=self._energy.joules(),
            paused_s=paused_s,
        )

    def _megahertz(self, name: str) -> float | None:
        """MHz of the fastest core, from the cpufreq file of this name."""
        kilohertz = read_integers([folder / name for folder in self._policies])
        return max(kilohertz) / 1000 if kilohertz else None

    def _flags(self) -> int | None:
        """The firmware's bits, from the kernel where it has them, else from vcgencmd."""
        text = read_text(self._throttled_file) if self._throttled_file else None
        if text is None:
            text = (self._vcgencmd.output("get_throttled") or "").strip().removeprefix("throttled=")
        try:
            flags = int(text, 16)
        except ValueError:
            return None
        return flags if 0 <= flags < 1 << 31 else None

    def _throttled(self, flags: int | None) -> bool | None:
        """Whether the firmware or a cooling device slows the processor down now."""
        states = read_integers(self._coolers)
        if flags is None and not states:
            return None
        return bool((flags or 0) & THROTTLED_NOW) or any(state > 0 for state in states)

    def _watts(self) -> float | None:
        """Power drawn now; None where one of a Jetson's rails cannot be read."""
        if self._rails:
            watts = [power for rail in self._rails if (power := rail.watts()) is not None]
            return sum(watts) if len(watts) == len(self._rails) else None
        return pmic_watts(self._vcgencmd.output("pmic_read_adc") or "")

    def _over_current_events(self) -> int | None:
        """Sum of the over-current counters (Jetson)."""
        counts = read_integers(self._over_current)
        return sum(counts) if counts else None


def read_integers(paths: list[Path]) -> list[int]:
    """The integers in these files, without those that cannot be read."""
    return [value for path in paths if (value := read_integer(path)) is not None]


def telemetry_table(samples: list[Sample]) -> pa.Table:
    """Rows of device.parquet."""
    return pa.Table.from_pylist([sample._asdict() for sample in samples], schema=TELEMETRY)
