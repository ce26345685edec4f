"""How the machine feels while it works: temperature, clock, throttling, power, memory. What cannot be read
is null, no error.

Sources: the kernel's thermal zones, cooling devices, cpufreq, hwmon and powercap below /sys
(Documentation/ABI of Linux); a Raspberry Pi's throttling flags
(raspberrypi.com/documentation/computers/os.html, get_throttled) and a Pi 5's supply rails (pmic_read_adc)
through vcgencmd; a Jetson's INA3221 and over-current counters (Jetson Linux Developer Guide, power and
thermal management). docs/device.md says which board has what.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from edge.errors import OnNote
from edge.machine.device import SYSTEM, available_memory, meminfo, read_integer, read_text

PLAUSIBLE = (-40.0, 150.0)  # degrees Celsius: zones that are switched off give -256 or nothing
NOW, SINCE_BOOT = (
    0b1111,
    0b1111 << 16,
)  # get_throttled: under-voltage, frequency capped, throttled, soft temperature limit
# Cooling devices that slow the processor down, as drivers name them; others are fans.
SLOWING = re.compile(r"cpufreq|cpu-freq|cpu_freq|throttle|Processor", re.IGNORECASE)
COMMAND_EVERY = 5.0  # seconds between two questions to vcgencmd, which takes milliseconds
COMMAND_SECONDS = 2.0
RAIL = re.compile(r"(\w+)_(A|V) (?:current|volt)\(\d+\)=([0-9.]+)[AV]")
TOTAL_INPUT = ("VDD_IN", "POM_5V_IN", "SYS5V")  # a Jetson's rail through which everything flows, by module


class Sample(NamedTuple):
    """One telemetry row: what was done, and what the machine said.

    `unix_time` in seconds since 1970; `question_index` just finished; bytes; degrees Celsius of the hottest
    zone; MHz of the fastest core and the most it may have now; `throttle_flags` the firmware's bits
    (Raspberry Pi); `throttled` whether the processor is slowed down now, whatever says so,
    `throttled_before` since boot; `over_current_events` since boot (Jetson); watts drawn now; joules since
    the last sample (a counter); seconds waited for the machine to cool since the last sample.
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


class Vcgencmd:
    """A Raspberry Pi's firmware, asked at most every COMMAND_EVERY seconds; None for whatever it does not
    answer."""

    def __init__(self, path: str | None) -> None:
        self._program = shutil.which("vcgencmd", path=path)
        self._answers: dict[str, tuple[float, str | None]] = {}

    def ask(self, question: str) -> str | None:
        asked, answer = self._answers.get(question, (-COMMAND_EVERY, None))
        if self._program and time.monotonic() - asked >= COMMAND_EVERY:
            answer = self._run(self._program, question)
            self._answers[question] = (time.monotonic(), answer)
        return answer

    def _run(self, program: str, question: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603 - a fixed word to the board's own tool
                [program, question],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            self._program = None  # what does not answer once is not asked again
            return None
        return done.stdout if done.returncode == 0 else None


class Counter(NamedTuple):
    """An energy counter's file and where it starts again, in microjoules."""

    path: Path
    wraps_at: int | None


class Sensors:
    """Everything readable below `root`; `path` is where vcgencmd is looked for (default: PATH). Sensors are
    looked for once."""

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
        self._throttled_file = next(
            iter(sorted(root.glob("sys/devices/platform/*/*firmware/get_throttled"))), None
        )
        self._rails = list(rails(root))
        self._over_current = sorted(root.glob("sys/class/hwmon/hwmon*/oc[0-9]*_event_cnt"))
        self._counters = [
            Counter(folder / "energy_uj", read_integer(folder / "max_energy_range_uj"))
            for folder in sorted(root.glob("sys/class/powercap/intel-rapl:[0-9]*"))
            if folder.name.count(":") == 1  # packages; what is inside them would count twice
        ]
        self._energy: dict[Path, int] = {}
        self._vcgencmd = Vcgencmd(path)
        self._joules()  # from now on

    def temperature(self) -> float | None:
        """Degrees Celsius of the hottest thermal zone."""
        found = [value / 1000 for path in self._zones if (value := read_integer(path)) is not None]
        return max((value for value in found if PLAUSIBLE[0] < value < PLAUSIBLE[1]), default=None)

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
            throttled_before=None if flags is None else bool(flags & SINCE_BOOT),
            over_current_events=self._sum(self._over_current),
            power_w=self._watts(),
            energy_j=self._joules(),
            paused_s=paused_s,
        )

    def _megahertz(self, name: str) -> float | None:
        return max(
            (
                value / 1000
                for folder in self._policies
                if (value := read_integer(folder / name)) is not None
            ),
            default=None,
        )

    def _flags(self) -> int | None:
        """The firmware's bits: from the kernel where it passes them on, else by asking."""
        text = read_text(self._throttled_file) if self._throttled_file else None
        if text is None:
            text = (self._vcgencmd.ask("get_throttled") or "").strip().removeprefix("throttled=")
        try:
            flags = int(text, 16)
        except ValueError:
            return None
        return flags if 0 <= flags < 1 << 31 else None

    def _throttled(self, flags: int | None) -> bool | None:
        states = [state for path in self._coolers if (state := read_integer(path)) is not None]
        if flags is None and not states:
            return None
        return bool((flags or 0) & NOW) or any(state > 0 for state in states)

    def _watts(self) -> float | None:
        if self._rails:
            drawn = [
                volts * amperes / 1e6  # millivolts and milliamperes
                for volt, ampere in self._rails
                if (volts := read_integer(volt)) is not None
                and (amperes := read_integer(ampere)) is not None
            ]
            return sum(drawn) if len(drawn) == len(self._rails) else None
        return pmic_watts(self._vcgencmd.ask("pmic_read_adc") or "")

    def _joules(self) -> float | None:
        """Since the last call; None where no counter was read both times."""
        total, counted = 0, False
        for counter in self._counters:
            before, now = self._energy.get(counter.path), read_integer(counter.path)
            if now is None:
                self._energy.pop(counter.path, None)
                continue
            self._energy[counter.path] = now
            if before is None or (now < before and counter.wraps_at is None):
                continue
            total += now - before + ((counter.wraps_at or 0) if now < before else 0)
            counted = True
        return total / 1e6 if counted else None

    @staticmethod
    def _sum(paths: list[Path]) -> int | None:
        found = [value for path in paths if (value := read_integer(path)) is not None]
        return sum(found) if found else None


def rails(root: Path) -> list[tuple[Path, Path]]:
    """Voltage and current files of an INA3221 (Jetson): of the input rail where there is one, else of every
    labelled rail."""
    found: dict[str, tuple[Path, Path]] = {}
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if not (read_text(folder / "name") or "").startswith("ina3221"):
            continue
        for label in sorted(folder.glob("in[0-9]*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            pair = folder / f"in{number}_input", folder / f"curr{number}_input"
            name = read_text(label)
            if name and all(path.exists() for path in pair):
                found[name] = pair
    total = [pair for name, pair in found.items() if name in TOTAL_INPUT]
    return total or list(found.values())


def pmic_watts(text: str) -> float | None:
    """Watts through the rails whose current and voltage a Pi 5's `pmic_read_adc` gives: the chips' part, not
    the whole board."""
    values: dict[str, dict[str, float]] = {}
    for name, kind, number in RAIL.findall(text):
        try:
            values.setdefault(name, {})[kind] = float(number)
        except ValueError:
            continue
    drawn = [rail["A"] * rail["V"] for rail in values.values() if len(rail) == 2]
    return sum(drawn) if drawn else None


def telemetry_table(samples: list[Sample]) -> pa.Table:
    return pa.Table.from_pylist([sample._asdict() for sample in samples], schema=TELEMETRY)


HYSTERESIS = 5.0  # degrees Celsius to cool down by, so that it does not stop again at once
LOOK_EVERY = 2.0  # seconds between two looks at the sensor


class Cooling:
    """Waits while the machine is hotter than `above` degrees Celsius, until it is HYSTERESIS degrees cooler.

    `check` is called while waiting (it may raise), `on_note` hears about each pause. Does nothing where
    `above` is None.
    """

    def __init__(
        self,
        sensors: Sensors,
        above: float | None,
        check: Callable[[], None],
        on_note: OnNote,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sensors, self._above, self._check, self._on_note, self._sleep = (
            sensors,
            above,
            check,
            on_note,
            sleep,
        )
        self._looked = -LOOK_EVERY
        self._paused = 0.0

    def wait(self) -> None:
        """To be called often: looks at the sensor at most every LOOK_EVERY seconds."""
        if self._above is None or time.monotonic() - self._looked < LOOK_EVERY:
            return
        started = self._looked = time.monotonic()
        found = self._sensors.temperature()
        if found is None or found <= self._above:
            return
        self._on_note(
            f"{found:.1f} °C, above {self._above:g}: waiting until it is {self._above - HYSTERESIS:g}"
        )
        while found is not None and found > self._above - HYSTERESIS:
            self._check()
            self._sleep(LOOK_EVERY)
            found = self._sensors.temperature()
        self._looked = time.monotonic()
        self._paused += self._looked - started

    def taken(self) -> float:
        """Seconds waited since this was asked last."""
        paused, self._paused = self._paused, 0.0
        return paused
