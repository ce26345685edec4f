"""Readers of what one kind of board gives: a Raspberry Pi's firmware, a Jetson's rails, Intel's counters.

Sources: throttling flags and a Pi 5's supply rails through vcgencmd
(raspberrypi.com/documentation/computers/os.html, get_throttled and pmic_read_adc); the INA3221 of a Jetson
(Jetson Linux Developer Guide, power and thermal management); powercap below /sys (Documentation/ABI of
Linux). What cannot be read is None, no error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from edge.machine.system import read_integer, read_text

# Bits of get_throttled: under-voltage, frequency capped, throttled, soft temperature limit.
THROTTLED_NOW = 0b1111
THROTTLED_SINCE_BOOT = THROTTLED_NOW << 16
COMMAND_EVERY = 5.0  # seconds between two calls of vcgencmd with the same command, each takes milliseconds
COMMAND_SECONDS = 2.0  # after which a call is given up
PMIC_LINE = re.compile(r"(\w+)_(A|V) (?:current|volt)\(\d+\)=([0-9.]+)[AV]")
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "SYS5V")  # a Jetson's rail that carries all power, by module


class Vcgencmd:
    """A Raspberry Pi's vcgencmd, looked for in `path` (default: PATH).

    Each command is run at most every COMMAND_EVERY seconds.
    """

    def __init__(self, path: str | None) -> None:
        self._program = shutil.which("vcgencmd", path=path)
        self._outputs: dict[str, tuple[float, str | None]] = {}  # time and output by command

    def output(self, command: str) -> str | None:
        """Output of a command, None where there is none."""
        called, output = self._outputs.get(command, (-COMMAND_EVERY, None))
        if self._program and time.monotonic() - called >= COMMAND_EVERY:
            output = self._run(self._program, command)
            self._outputs[command] = (time.monotonic(), output)
        return output

    def _run(self, program: str, command: str) -> str | None:
        try:
            process = subprocess.run(  # noqa: S603 - a fixed word to the board's own tool
                [program, command],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            self._program = None  # a program that failed once is not called again
            return None
        return process.stdout if process.returncode == 0 else None


class Rail(NamedTuple):
    """Files of one power rail, in millivolts and milliamperes."""

    volts: Path
    amperes: Path

    def watts(self) -> float | None:
        """Power through the rail now, None where a file cannot be read."""
        volts, amperes = read_integer(self.volts), read_integer(self.amperes)
        return None if volts is None or amperes is None else volts * amperes / 1e6


def jetson_rails(root: Path) -> list[Rail]:
    """Rails of an INA3221 (Jetson): the input rail where there is one, else every labelled rail."""
    rails: dict[str, Rail] = {}
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if not (read_text(folder / "name") or "").startswith("ina3221"):
            continue
        for label in sorted(folder.glob("in[0-9]*_label")):
            number = label.name.removeprefix("in").removesuffix("_label")
            rail = Rail(folder / f"in{number}_input", folder / f"curr{number}_input")
            name = read_text(label)
            if name and all(path.exists() for path in rail):
                rails[name] = rail
    inputs = [rail for name, rail in rails.items() if name in INPUT_RAILS]
    return inputs or list(rails.values())


def pmic_watts(text: str) -> float | None:
    """Watts through the rails of a Pi 5's `pmic_read_adc`: those of the chips, not of the whole board."""
    values: dict[str, dict[str, float]] = {}
    for name, kind, number in PMIC_LINE.findall(text):
        try:
            values.setdefault(name, {})[kind] = float(number)
        except ValueError:
            continue
    watts = [rail["A"] * rail["V"] for rail in values.values() if len(rail) == 2]
    return sum(watts) if watts else None


class EnergyCounter(NamedTuple):
    """An energy counter's file, and where it starts again, in microjoules."""

    path: Path
    wraps_at: int | None


class EnergyCounters:
    """Energy counters of the processor packages (Intel RAPL), read from now on."""

    def __init__(self, root: Path) -> None:
        self._counters = [
            EnergyCounter(folder / "energy_uj", read_integer(folder / "max_energy_range_uj"))
            for folder in sorted(root.glob("sys/class/powercap/intel-rapl:[0-9]*"))
            if folder.name.count(":") == 1  # packages; their parts would count twice
        ]
        self._last: dict[Path, int] = {}
        self.joules()

    def joules(self) -> float | None:
        """Joules since the last call; None where no counter was read both times."""
        total, counted = 0, False
        for counter in self._counters:
            before, now = self._last.get(counter.path), read_integer(counter.path)
            if now is None:
                self._last.pop(counter.path, None)
                continue
            self._last[counter.path] = now
            if before is None or (now < before and counter.wraps_at is None):
                continue
            total += now - before + ((counter.wraps_at or 0) if now < before else 0)
            counted = True
        return total / 1e6 if counted else None
