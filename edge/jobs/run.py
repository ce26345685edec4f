"""The main job: questions through a model into a run directory."""

from __future__ import annotations

import datetime
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from edge.artifact import Artifact
from edge.backends.base import Backend, Runtime
from edge.backends.runtime import check_runtime, llama_settings, open_backend, versions
from edge.errors import OnNote, UserError, ignore
from edge.jobs.decode import DecodeSettings, generate
from edge.machine import device, telemetry
from edge.questions.prompt import Prompt, Prompter
from edge.questions.question import Question, questions_sha256, select
from edge.runs.disk import check_disk, disk_needed
from edge.runs.manifest import RunManifest, read_manifest
from edge.runs.record import AnswerRecord, PartBuffer
from edge.runs.records import ArtifactIdentity, QuestionSet, RunSettings
from edge.runs.run_directory import RunWriter
from edge.signals.reader import SignalReader

FLUSH_SECONDS = 5.0  # work that a killed process can lose, beside the question in flight
FLUSH_ROWS = 4096


class Progress(NamedTuple):
    """After each token: how many questions are done of how many, and the record that it belongs to (None at
    the start).

    `finished` says that this record is over and counted in `done`.
    """

    done: int
    total: int
    record: AnswerRecord | None
    finished: bool = False


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; what was finished is on disk. `code` is the exit code, 128 + the signal's
    number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"interrupted by signal {code - 128}")
        self.code = code


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], None]]:
    """Gives a function that raises Interrupted once SIGINT or SIGTERM has come, so that a token is never cut
    in half.

    Reading a long prompt can take a minute on a small board: a second signal raises Interrupted between two
    chunks of it.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            check()

    def check() -> None:
        if received:
            raise Interrupted(128 + received[0])

    # Python delivers signals to the main thread only; a job in another thread leaves them to its program.
    numbers = (
        (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    )
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield check
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def dated(out: Path, date: str | None) -> str | None:
    """The day that templates see: the one given, that of the run being resumed, or today."""
    if date is None and (out / "run.json").is_file():
        return read_manifest(out).settings.date
    return date


def sensors_for(pause_above: float | None) -> telemetry.Sensors:
    """This machine's; raises UserError when it is to be cooled by a temperature that it does not tell."""
    sensors = telemetry.Sensors()
    if pause_above is not None and sensors.temperature() is None:
        raise UserError("--pause-above needs a temperature sensor and this machine shows none: leave it out")
    return sensors


def tell_damaged(writer: RunWriter, on_note: OnNote) -> None:
    """Says what of a run that is continued did not hold what its checksum says."""
    for name in writer.damaged:
        on_note(f"{writer.folder / name} was damaged: removed, its questions are traced again")


class Recorder:
    """Puts finished answers and telemetry into a run directory, in parts that are due by time or by size.

    Where the backend has lost its taps, run.json says so before the rows without them are written, and
    `on_note` hears it.
    """

    def __init__(
        self,
        writer: RunWriter,
        buffer: PartBuffer,
        backend: Backend,
        sensors: telemetry.Sensors,
        on_note: OnNote,
    ) -> None:
        self.writer, self.buffer, self.backend, self._on_note = writer, buffer, backend, on_note
        self.note_lost_taps()
        self._samples: list[telemetry.Sample] = []
        self._sensors = sensors
        self._flushed = time.monotonic()

    @property
    def done(self) -> int:
        """Questions that are finished, on disk or about to be."""
        return len(self.writer.done) + len(self.buffer)

    def note_lost_taps(self) -> None:
        if self.backend.taps_lost and not self.writer.manifest.taps_lost:
            self.writer.note_lost_taps(self.backend.taps_lost)
            self._on_note(f"attention and hidden states are not traced: {self.backend.taps_lost}")

    def add(self, record: AnswerRecord, paused_s: float) -> None:
        self.note_lost_taps()
        self.buffer.add(record)
        self._samples.append(self._sensors.sample(record.index, paused_s))
        if self.buffer.rows >= FLUSH_ROWS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        if len(self.buffer):
            self.writer.write_part(*self.buffer.tables())
            self.writer.write_device(telemetry.telemetry_table(self._samples))
            self.buffer.clear()
            self._samples.clear()
        self._flushed = time.monotonic()


def capacity_for(prompts: Sequence[Prompt], settings: DecodeSettings, context: int) -> int:
    """Positions that the longest answer to any of the prompts can take, at most the context: a cache is no
    larger than needed."""
    longest = max((len(made.ids) for made in prompts), default=1)
    return min(context, longest + settings.max_new_tokens)


def check_run_disk(
    out: Path,
    artifact: Artifact,
    runtime: Runtime,
    tokens: int,
    answers: int,
    *,
    longest: int | None = None,
    reference_k: int = 0,
    forced: bool = False,
) -> None:
    """Raises UserError where so many tokens of so many answers do not fit on the disk at `out`; see
    check_disk for `longest`."""
    if runtime.anyway:
        return
    tapped = runtime.taps != "none" and artifact.manifest.taps != "none"
    needed = disk_needed(
        artifact.manifest.model, tokens, answers, reference_k=reference_k, forced=forced, taps=tapped
    )
    check_disk(out, needed, longest)


def run(
    artifact: Artifact,
    questions: Sequence[Question],
    out: Path,
    settings: DecodeSettings,
    *,
    prompt: str | None = None,
    date: str | None = None,
    limit: int | None = None,
    shard: str = "1/1",
    runtime: Runtime | None = None,
    pause_above: float | None = None,
    on_progress: Callable[[Progress], None] = ignore,
    on_note: OnNote = ignore,
) -> RunManifest:
    """Traces the answers to `questions`, or to those that `limit` and `shard` select, into the run directory
    `out`.

    Continues an unfinished run of the same settings, does nothing for a finished one. Waits while the
    machine is hotter than `pause_above` degrees Celsius. `on_note` hears what the user should know although
    the run goes on. Raises UserError for bad input and Interrupted on SIGINT or SIGTERM, after writing what
    is finished.
    """
    runtime = runtime or Runtime()
    check_runtime(artifact, runtime)
    sensors = sensors_for(pause_above)
    chosen = select(questions, limit, shard)
    prompter = Prompter(artifact, prompt, dated(out, date))
    # All at once, so that a template or a question that cannot work is refused before anything is written.
    prompts = {question.index: prompter.prompt(question.question) for question in chosen}
    manifest = RunManifest(
        kind="run",
        artifact=ArtifactIdentity.of(artifact),
        model=artifact.manifest.model,
        settings=RunSettings(
            **asdict(settings),
            prompt=prompter.style,
            date=prompter.date.isoformat(),
            limit=limit,
            shard=shard,
            llama=llama_settings(artifact, runtime),
        ),
        # The hash is of the whole list: shards and limited runs of one file know that they belong together.
        questions=QuestionSet(questions_sha256(questions), len(questions), len(chosen)),
        like=None,
        device=device.describe(),
        versions=versions(artifact),
        created=now(),
    )
    with RunWriter(out, manifest) as writer:
        tell_damaged(writer, on_note)
        if writer.complete(question.index for question in chosen):
            return writer.manifest
        with writer.or_nothing():
            left, longest = len(chosen) - len(writer.done), settings.max_new_tokens
            check_run_disk(
                out,
                artifact,
                runtime,
                left * longest,
                left,
                longest=longest,
                reference_k=settings.reference_k,
            )
            backend = open_backend(
                artifact,
                runtime,
                capacity_for(list(prompts.values()), settings, artifact.manifest.model.context),
                on_note,
            )
        reader = SignalReader(backend.spec)
        recorder = Recorder(
            writer, PartBuffer(reference=settings.reference_k > 0), backend, sensors, on_note
        )
        on_progress(Progress(recorder.done, len(chosen), None))
        with stop_on_signal() as check:
            cooling = telemetry.Cooling(sensors, pause_above, check, on_note)
            try:
                for question in chosen:
                    if question.index in writer.done:
                        continue
                    made = prompts[question.index]
                    record = AnswerRecord(
                        backend.spec,
                        prompter,
                        made,
                        question.index,
                        question.question_id,
                        question.question,
                        question.category,
                        cache_bytes_each=backend.cache_bytes_each,
                    )
                    for step in generate(backend, reader, made.ids, settings, question.index):
                        record.add(step)
                        on_progress(Progress(recorder.done, len(chosen), record))
                        check()
                        cooling.wait()
                    recorder.add(record, cooling.taken())
                    on_progress(Progress(recorder.done, len(chosen), record, finished=True))
            finally:
                recorder.flush()
                backend.close()
        writer.finish()
        return writer.manifest
