"""The loop that answers a stream of items and gives finished records to the writer of a run directory.

`edge run` and `edge force` describe their work as a TraceJob. Only this module decides in which passes of
the model its items are answered.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edge.backends.base import Backend
from edge.backends.runtime import Loader
from edge.errors import OnNote, UserError, asking
from edge.jobs.decode import ChosenTokens, DecodeSettings, GivenTokens, TokenSource, decode
from edge.jobs.exact import FullModel
from edge.jobs.interrupt import stop_on_signal
from edge.jobs.item import Item
from edge.machine.cooling import Cooling
from edge.machine.telemetry import Sample, Sensors, telemetry_table
from edge.questions.prompt import Prompt, Prompter
from edge.runs.disk import check_disk, disk_needed
from edge.runs.job_directory import JobDirectory
from edge.runs.manifest import RunManifest
from edge.runs.record import AnswerRecord, ForcedValues, PartBuffer, Step
from edge.runs.run_directory import RunWriter
from edge.signals.reader import SignalReader
from edge.signals.taps import Taps

FLUSH_SECONDS = 5.0  # work that a killed process can lose, beside the question in flight
FLUSH_ROWS = 4096


class Progress(NamedTuple):
    """Progress after a token: `done` of `total` questions, and the token's record (None at the start).

    `finished` says that this record is complete and counted in `done`.
    """

    done: int
    total: int
    record: AnswerRecord | None
    finished: bool = False


@dataclass(frozen=True)
class TraceJob:
    """The work of `edge run` or `edge force`: items to answer into a run directory, and the models.

    `items` are taken one by one, without those that the directory holds. `tokens` maps question_index to the
    most tokens of its answer. `settings` choose the tokens, None where every item forces its own. `exact` is
    stepped beside a forced model. Both models get a cache of `capacity` positions. The job waits while the
    machine is hotter than `pause_above` degrees Celsius.
    """

    manifest: RunManifest
    loader: Loader
    prompter: Prompter
    items: Iterable[Item]
    tokens: Mapping[int, int]
    capacity: int
    sensors: Sensors
    pause_above: float | None
    settings: DecodeSettings | None = None
    exact: Loader | None = None

    @property
    def forced(self) -> bool:
        return self.settings is None

    @property
    def reference_k(self) -> int:
        """Number of most likely tokens that are kept of each step."""
        return self.settings.reference_k if self.settings else 0

    def buffer(self, *, alone: bool) -> PartBuffer:
        """An empty part with this job's columns; `alone` as in PartBuffer."""
        return PartBuffer(
            reference=self.reference_k > 0, forced=self.forced, exact=self.exact is not None, alone=alone
        )


def trace(out: Path, job: TraceJob, on_progress: Callable[[Progress], None], on_note: OnNote) -> RunManifest:
    """Answers the items that the run directory `out` does not hold yet; does nothing for a finished run.

    Raises UserError where the directory is another job's, disk or memory are too small, or the model cannot
    be loaded; a new directory is then removed. Raises Interrupted on SIGINT or SIGTERM, after writing the
    finished answers.
    """
    with RunWriter(out, job.manifest) as writer:
        tell_damaged(writer, on_note, "traced")
        if not writer.complete(job.tokens):
            with writer.or_nothing():
                check_run_disk(job, out, writer.done)
                with ExitStack() as opened:
                    backend = opened.enter_context(closing(job.loader.load(job.capacity, on_note)))
                    full = FullModel(job.exact.load(job.capacity, on_note)) if job.exact else None
                    opened.pop_all()  # both are open: from here on the loop closes them
            buffer = job.buffer(alone=writer.tokens_alone)
            recorder = Recorder(writer, buffer, backend, job.sensors, on_note)
            writer.go_on(on_note)
            with writer.or_nothing(UserError):
                answer_items(job, backend, full, recorder, on_progress, on_note)
            writer.finish()
        return writer.manifest


def answer_items(
    job: TraceJob,
    backend: Backend,
    full: FullModel | None,
    recorder: Recorder,
    on_progress: Callable[[Progress], None],
    on_note: OnNote,
) -> None:
    """Answers the items that are left, one after another, and closes the models.

    Finished answers are written even when the work is interrupted.
    """
    total, reader = len(job.tokens), SignalReader(backend.spec)
    with ExitStack() as stack:
        check = stack.enter_context(stop_on_signal())
        for model in (backend, full):
            if model:
                stack.enter_context(closing(model))
        stack.push(recorder.leave)
        cooling = Cooling(job.sensors, job.pause_above, check, on_note)
        on_progress(Progress(recorder.done, total, None))
        for item in job.items:
            if item.index in recorder.writer.done:
                continue
            record = record_of(item, backend, job.prompter)
            values = comparison(item, full)
            source = token_source(item, job.settings, backend)
            asked = () if item.prompt.refused else decode(backend, reader, item.prompt.ids, source)
            with asking(item.index):
                for step, taps in asked:
                    record.add(step, values(step, taps) if values else None)
                    on_progress(Progress(recorder.done, total, record))
                    check()
                    cooling.wait()
            recorder.add(record, cooling.taken())
            on_progress(Progress(recorder.done, total, record, finished=True))


def record_of(item: Item, backend: Backend, prompter: Prompter) -> AnswerRecord:
    """An empty record for the item's answer."""
    return AnswerRecord(
        backend.spec,
        prompter,
        item.prompt,
        item.index,
        item.question_id,
        item.question,
        item.category,
        forced=item.forced is not None,
        cache_bytes_each=backend.cache_bytes_each,
    )


def token_source(item: Item, settings: DecodeSettings | None, backend: Backend) -> TokenSource:
    """The tokens that the item forces, or those that the model chooses by the settings."""
    if item.forced is not None:
        return GivenTokens(item.forced.tokens, item.forced.stop_reason)
    if settings is not None:
        return ChosenTokens(settings, backend.spec.stop_ids, item.index)
    raise ValueError(f"question {item.index} forces no tokens, and no settings choose them")


def comparison(item: Item, full: FullModel | None) -> Callable[[Step, Taps], ForcedValues] | None:
    """The function that compares each step of a forced item, None for an item that is not forced.

    It compares with the full model, or with what the reference run kept.
    """
    if item.forced is None:
        return None
    if full is None:
        return item.forced.values
    full.begin(item.prompt.ids)
    return full.values


class Recorder:
    """Writes finished answers and telemetry into a run directory, in parts that are due by time or by size.

    Where the backend has lost its taps, this is noted in run.json before the rows without them are written,
    and `on_note` is called.
    """

    def __init__(
        self, writer: RunWriter, buffer: PartBuffer, backend: Backend, sensors: Sensors, on_note: OnNote
    ) -> None:
        self.writer, self.buffer, self.backend, self._on_note = writer, buffer, backend, on_note
        self.note_lost_taps()
        self._samples: list[Sample] = []
        self._sensors = sensors
        self._flushed = time.monotonic()

    @property
    def done(self) -> int:
        """Number of finished questions, on disk or in the buffer."""
        return len(self.writer.done) + len(self.buffer)

    def note_lost_taps(self) -> None:
        if self.backend.taps_lost and not self.writer.manifest.taps_lost:
            self.writer.note_lost_taps(self.backend.taps_lost)
            tell_lost_taps(self.backend, self._on_note)

    def add(self, record: AnswerRecord, paused_s: float) -> None:
        self.note_lost_taps()
        self.buffer.add(record)
        self._samples.append(self._sensors.sample(record.index, paused_s))
        if self.buffer.rows >= FLUSH_ROWS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def leave(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Writes what is finished at the end of the loop, except where a new run is refused before its first
        part: then nothing is left behind."""
        if not (self.writer.is_empty and isinstance(error, UserError)):
            self.flush()

    def flush(self) -> None:
        if len(self.buffer):
            self.writer.write_part(*self.buffer.tables())
            self.writer.write_device(telemetry_table(self._samples))
            self.buffer.clear()
            self._samples.clear()
        self._flushed = time.monotonic()


# Checks and notes of jobs


def sensors_for(pause_above: float | None) -> Sensors:
    """This machine's sensors; raises UserError when `pause_above` is given and there is no thermometer."""
    sensors = Sensors()
    if pause_above is not None and sensors.temperature() is None:
        raise UserError("--pause-above needs a temperature sensor and this machine shows none: leave it out")
    return sensors


def check_run_disk(job: TraceJob, out: Path, done: set[int]) -> None:
    """Raises UserError where the answers that are left do not fit on the disk at `out`."""
    if job.loader.runtime.anyway:
        return
    left = [tokens for index, tokens in job.tokens.items() if index not in done]
    needed = disk_needed(
        job.manifest.model,
        sum(left),
        len(left),
        reference_k=job.reference_k,
        forced=job.forced,
        taps=job.loader.tapped,
    )
    check_disk(out, needed, job.settings.max_new_tokens if job.settings else None)


def capacity_for(prompts: Sequence[Prompt], settings: DecodeSettings, context: int) -> int:
    """Positions that the cache needs for the longest answer to any of the prompts, at most the context."""
    longest = max((len(prompt.ids) for prompt in prompts), default=1)
    return min(context, longest + settings.max_new_tokens)


def tell_damaged(directory: JobDirectory[Any], on_note: OnNote, done: str) -> None:
    """Notes each damaged file of a directory; `done` is the verb for its questions, such as "traced"."""
    for name in directory.damaged:
        on_note(f"{directory.folder / name} was damaged: removed, its questions are {done} again")


def tell_lost_taps(backend: Backend, on_note: OnNote) -> None:
    """Notes why the backend gives no attention and hidden states."""
    on_note(f"attention and hidden states are not traced: {backend.taps_lost}")


def now() -> str:
    """The time in UTC, in ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
