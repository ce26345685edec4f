"""Pauses while the machine is too hot."""

from __future__ import annotations

import time
from collections.abc import Callable

from edge.errors import OnNote
from edge.machine.telemetry import Sensors

HYSTERESIS = 5.0  # degrees Celsius to cool down by, so that it does not stop again at once
LOOK_EVERY = 2.0  # seconds between two readings of the sensor


class Cooling:
    """Waits while the machine is hotter than `above` degrees Celsius, until it is HYSTERESIS degrees cooler.

    `check` is called while waiting (it may raise), `on_note` at each pause. Does nothing where `above` is
    None.
    """

    def __init__(
        self,
        sensors: Sensors,
        above: float | None,
        check: Callable[[], None],
        on_note: OnNote,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._sensors, self._above = sensors, above
        self._check, self._on_note, self._sleep = check, on_note, sleep
        self._looked = -LOOK_EVERY
        self._paused = 0.0

    def wait(self) -> None:
        """Waits if needed. May be called often: the sensor is read at most every LOOK_EVERY seconds."""
        if self._above is None or time.monotonic() - self._looked < LOOK_EVERY:
            return
        started = self._looked = time.monotonic()
        temperature = self._sensors.temperature()
        if temperature is None or temperature <= self._above:
            return
        target = self._above - HYSTERESIS
        self._on_note(f"{temperature:.1f} °C, above {self._above:g}: waiting until it is {target:g}")
        while temperature is not None and temperature > target:
            self._check()
            self._sleep(LOOK_EVERY)
            temperature = self._sensors.temperature()
        self._looked = time.monotonic()
        self._paused += self._looked - started

    def taken(self) -> float:
        """Seconds waited since the last call."""
        paused, self._paused = self._paused, 0.0
        return paused
