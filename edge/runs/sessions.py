"""Which machine and versions answered which questions of a job that was continued elsewhere.

Promise: a session is in run.json before its first part is written. The last one's questions are those that
no earlier session has, so that a process killed at any moment loses nothing; `settled` fills them in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from edge.fields import FieldError, Fields, integer, list_of, mapping_of, text
from edge.machine.device import Device
from edge.questions.question import parse_shard

MACHINE = ("board", "processor", "machine", "simd", "core_kinds")  # fields of Device that may change numbers


class Indices(NamedTuple):
    """Every `step`-th question_index from `first` to `last`, both among them."""

    first: int
    last: int
    step: int

    @staticmethod
    def from_json(value: object) -> Indices:
        numbers = list_of(integer)(value)
        if len(numbers) != 3 or not 0 <= numbers[0] <= numbers[1] or numbers[2] < 1:
            raise FieldError(f"is {value!r:.80}, which is no first, last and step")
        return Indices(*numbers)


@dataclass(frozen=True, kw_only=True)
class Session:
    """One machine's part of a job, with one set of versions.

    `started` is ISO. `questions` are those that it answered; the last session of an unfinished job may lack
    some.
    """

    device: Device = field(default_factory=Device)
    versions: Mapping[str, str] = field(default_factory=dict)
    started: str = ""
    questions: tuple[Indices, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "device": self.device.to_json(),
            "versions": dict(self.versions),
            "started": self.started,
            "questions": [list(indices) for indices in self.questions],
        }

    @staticmethod
    def from_json(value: object) -> Session:
        with Fields(value) as fields:
            return Session(
                device=fields.take("device", Device.from_json),
                versions=fields.take("versions", mapping_of(text)),
                started=fields.take("started", text),
                questions=fields.take("questions", list_of(Indices.from_json)),
            )

    @property
    def count(self) -> int:
        """Number of questions that it answered."""
        return sum(len(range(first, last + 1, step)) for first, last, step in self.questions)

    @property
    def description(self) -> str:
        """Its machine and versions in words."""
        versions = (f"{name} {version}" for name, version in self.versions.items())
        return ", ".join(part for part in (self.device.name, self.device.machine, *versions) if part)


class Worked(Protocol):
    """What a manifest of a job says of its machines."""

    @property
    def device(self) -> Device: ...
    @property
    def versions(self) -> Mapping[str, str]: ...
    @property
    def created(self) -> str: ...


def sessions_json(sessions: Sequence[Session]) -> dict[str, Any]:
    """The entry of a manifest: none for a job that one machine did with one set of versions."""
    return {"sessions": [session.to_json() for session in sessions]} if sessions else {}


def session_of(manifest: Worked) -> Session:
    """The session that a job's manifest begins with, its questions not filled in."""
    return Session(device=manifest.device, versions=manifest.versions, started=manifest.created)


def compress(numbers: Iterable[int]) -> tuple[Indices, ...]:
    """Question indices as few arithmetic progressions, in order: those of a shard are one."""
    left, found = sorted(set(numbers)), list[Indices]()
    place = 0
    while place < len(left):
        first, end = left[place], place + 1
        step = left[end] - first if end < len(left) else 1
        while end < len(left) and left[end] - left[end - 1] == step:
            end += 1
        if end - place == 2 and step > 1:  # two numbers with a gap say nothing of the next
            end, step = place + 1, 1
        found.append(Indices(first, left[end - 1], step))
        place = end
    return tuple(found)


def shard_indices(shard: str, count: int) -> tuple[Indices, ...]:
    """The places of shard I/N among `count` questions."""
    number, shards = parse_shard(shard)
    return compress(range(number - 1, count, shards))


def expanded(questions: Iterable[Indices]) -> Iterator[int]:
    """Every question_index."""
    for first, last, step in questions:
        yield from range(first, last + 1, step)


def settled(sessions: Sequence[Session], done: Collection[int]) -> tuple[Session, ...]:
    """The sessions with their questions among those that are done: the last one has what no other has.

    Sessions without questions are left out: what they answered was lost and is another's now.
    """
    left, known = set(done), list[Session]()
    for session in sessions[:-1]:
        own = left.intersection(expanded(session.questions))
        left -= own
        known.append(replace(session, questions=compress(own)))
    known += [replace(session, questions=compress(left)) for session in sessions[-1:]]
    return tuple(session for session in known if session.questions)


def changes(before: Session, now: Session, *, versions: bool = True) -> list[str]:
    """What differs between two sessions, each as "name new (was old)"; what either does not know is left
    out."""
    pairs = [(name, getattr(before.device, name), getattr(now.device, name)) for name in MACHINE]
    if versions:
        pairs += [(name, before.versions.get(name), new) for name, new in now.versions.items()]
    return [
        f"{name} {said(new)} (was {said(old)})" for name, old, new in pairs if old and new and old != new
    ]


def said(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def together(sessions: Iterable[Session]) -> tuple[Session, ...]:
    """Sessions on machines and with versions that do not differ, as one."""
    kept: list[Session] = []
    for session in sessions:
        for place, other in enumerate(kept):
            if not changes(other, session):
                both = (*expanded(other.questions), *expanded(session.questions))
                started = min(other.started, session.started)
                kept[place] = replace(other, questions=compress(both), started=started)
                break
        else:
            kept.append(session)
    return tuple(kept)


def cautions(jobs: Sequence[tuple[str, Sequence[Session]]]) -> list[str]:
    """Sentences where the numbers of jobs, by name, come from several machines or versions.

    The first job is what the others are compared with.
    """
    found = []
    for name, sessions in jobs:
        if len(together(sessions)) > 1:
            parts = "; ".join(f"{session.count} questions on {session.description}" for session in sessions)
            found.append(f"{name} comes from several machines or versions ({parts}): its numbers mix them")
    for name, sessions in jobs[1:]:
        first, reference = jobs[0]
        if sessions and reference and (differing := changes(reference[0], sessions[0], versions=False)):
            found.append(
                f"{first} and {name} come from different machines ({', '.join(differing)}): "
                "quantised models answer a little differently on each, and speeds cannot be compared"
            )
    return found
