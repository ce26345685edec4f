"""Live answers: one question, token by token, with the statistics of the answer so far."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.backends.runtime import open_backend
from edge.errors import OnNote, UserError, ignore
from edge.jobs.decode import ChosenTokens, DecodeSettings, decode
from edge.jobs.interrupt import stop_on_signal
from edge.jobs.item import Item
from edge.jobs.session import capacity_for, record_of, tell_lost_taps
from edge.machine.telemetry import Sensors
from edge.questions.prompt import Prompter
from edge.runs.record import AnswerRecord, Step, value_of
from edge.signals.groups import BY_NAME, shown_in
from edge.signals.metric import Shown
from edge.signals.reader import SignalReader

SENSE_EVERY = 1.0  # seconds between two readings of the sensors


class Gauge:
    """Temperature and memory, read at most every SENSE_EVERY seconds to save time."""

    def __init__(self, sensors: Sensors) -> None:
        self._sensors = sensors
        self._read = -SENSE_EVERY
        self.temperature_c: float | None = None  # of the hottest zone
        self.rss_bytes: int | None = None  # of this process

    def look(self) -> None:
        """Reads the sensors if they are due."""
        if time.monotonic() - self._read >= SENSE_EVERY:
            self.temperature_c, self.rss_bytes = self._sensors.temperature(), self._sensors.rss()
            self._read = time.monotonic()


class LiveStep(NamedTuple):
    """A step, what it adds to the answer's text ("" while a character is incomplete), the answer so far, and
    the machine's state."""

    step: Step
    text: str
    record: AnswerRecord
    gauge: Gauge


def answer(
    artifact: Artifact,
    question: str,
    settings: DecodeSettings,
    *,
    prompt: str | None = None,
    date: str | None = None,
    control_tokens: bool = False,
    runtime: Runtime | None = None,
    on_note: OnNote = ignore,
) -> Iterator[LiveStep]:
    """Answers one question step by step.

    `prompt` is a style of Prompter, `control_tokens` its choice. Raises UserError when the question cannot
    be asked or does not fit the context, Interrupted on a signal.
    """
    prompter = Prompter(artifact, prompt, date, control_tokens=control_tokens)
    item = Item(0, "", question, "", prompter.prompt(question))
    ids, limit = item.prompt.ids, artifact.manifest.model.context
    if len(ids) > limit:
        raise UserError(
            f"the question has {len(ids)} tokens, the artifact was built for {limit}: ask a shorter one"
        )
    if item.prompt.note:
        on_note(f"{item.prompt.note} (see --control-tokens)")
    capacity = capacity_for([item.prompt], settings, limit)
    backend = open_backend(artifact, runtime or Runtime(), capacity, on_note)
    with closing(backend), stop_on_signal() as check:
        gauge, record = Gauge(Sensors()), record_of(item, backend, prompter)
        source = ChosenTokens(settings, backend.spec.stop_ids)
        stream = prompter.stream()
        loss_noted = False
        for step, _ in decode(backend, SignalReader(backend.spec), ids, source):
            if backend.taps_lost and not loss_noted:
                loss_noted = True
                tell_lost_taps(backend, on_note)
            record.add(step)
            text = stream.add(step.token_id, last=step.stop_reason is not None)
            gauge.look()
            yield LiveStep(step, text, record, gauge)
            check()


def plain(value: Any) -> Any:
    """Converts an array to a list; returns other values as they are."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def as_json(live: LiveStep) -> dict[str, Any]:
    """A step as plain values for a line of JSON; None stands for undefined and unreadable values."""
    step, record = live.step, live.record
    return {
        "step": step.step,
        "phase": step.phase,
        "position": step.position,
        "token_id": step.token_id,
        "token": live.text,
        "text": live.text,
        **{name: plain(value_of(BY_NAME[name], step, None)) for name in shown_in(Shown.LIVE)},
        "output_entropy_mean": record.statistics.live("output_entropy")[0],
        "step_ms": step.step_ms,
        "temperature_c": live.gauge.temperature_c,
        "rss_bytes": live.gauge.rss_bytes,
        "stop_reason": step.stop_reason,
    }
