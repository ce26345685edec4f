"""Several artifacts against one full-precision run: what each costs, what it damages, and the best that
fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pyarrow.compute as pc

from edge.analysis.divergence import Divergence, compare, plain
from edge.analysis.dynamics import DELTA
from edge.analysis.intervals import UNDEFINED, Interval
from edge.analysis.pairs import check_pair
from edge.errors import UserError
from edge.runs.parts import read_part
from edge.runs.records import ArtifactIdentity
from edge.runs.run_directory import DEVICE_NAME, Run

GB = 1e9


class Cost(NamedTuple):
    """`bytes` of the artifact's files, None where the run does not say; the largest resident memory after
    any question, bytes; decoded tokens a second. The last two are None where they were not measured, or with
    the full model in the same process."""

    bytes: int | None
    rss_bytes: int | None
    tokens_per_second: float | None


class Damage(NamedTuple):
    """From a forced run, positions aligned. `kl` is the mean over tokens, `kl_error` its standard error over
    questions; a lower bound unless `exact`; NaN where the reference kept no distributions. `log_ppl_ratio`
    is ln(PPL(Q)/PPL(base)); `hidden_error` the relative L2 error of the residual stream after the last
    layer, undefined unless exact and tapped."""

    kl: float
    kl_error: float
    exact: bool
    same_top1: Interval
    log_ppl_ratio: Interval
    hidden_error: Interval


@dataclass(frozen=True)
class Line:
    """One artifact, from its runs against the full one: a forced one gives `damage`, one that decodes alone
    its class. Changes of entropies are means over questions, of the forced run where there is one."""

    label: str
    precision: str
    cost: Cost
    damage: Damage | None
    identical: Interval | None
    entropy_change: Interval
    attention_change: Interval
    model_class: str
    same_class: bool
    alone: bool
    folders: tuple[str, ...]


@dataclass(frozen=True)
class ArtifactComparison:
    """`full` is the reference's own line, without damage; `lines` are in the order given; `runs` every
    single comparison."""

    full: Line
    notice: str
    questions: int
    lines: tuple[Line, ...]
    runs: tuple[Divergence, ...]

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; NaN becomes None."""
        value: dict[str, Any] = plain(asdict(self))
        return value | {"runs": [run.to_json() for run in self.runs]}


def compare_artifacts(full: Run, others: Sequence[Run], delta: float = DELTA) -> ArtifactComparison:
    """Runs of one artifact share a line. Raises UserError when any does not belong to the full one, before
    the first is read."""
    for run in others:
        check_pair(full, run)
    found = [compare(full, run, delta) for run in others]
    own = found[0].full_class.label
    return ArtifactComparison(
        full=Line(
            full.manifest.label,
            full.manifest.precision,
            cost([full]),
            None,
            None,
            UNDEFINED,
            UNDEFINED,
            own,
            True,
            True,
            (str(full.folder),),
        ),
        notice=full.manifest.notice,
        questions=found[0].questions,
        lines=tuple(lines_of(list(zip(others, found, strict=True)))),
        runs=tuple(found),
    )


def lines_of(pairs: Sequence[tuple[Run, Divergence]]) -> list[Line]:
    """One for each artifact, in the order in which they come."""
    by_artifact: dict[ArtifactIdentity, list[tuple[Run, Divergence]]] = {}
    for run, divergence in pairs:
        by_artifact.setdefault(run.manifest.artifact, []).append((run, divergence))
    return [line(members) for members in by_artifact.values()]


def line(members: Sequence[tuple[Run, Divergence]]) -> Line:
    """Of the runs of one artifact. Of several forced ones the exact one says more."""
    forced = sorted((d for _, d in members if d.forced), key=lambda d: not (d.forced and d.forced.exact))
    alone = [d for _, d in members if d.free]
    aligned, decided = (forced or alone)[0], (alone or forced)[0]
    changes = {change.metric: change.change for change in aligned.changes}
    manifest = members[0][0].manifest
    return Line(
        label=manifest.label.removesuffix(" forced"),
        precision=manifest.precision,
        cost=cost([run for run, _ in members]),
        damage=damage(forced[0]) if forced else None,
        identical=alone[0].free.identical if alone and alone[0].free else None,
        entropy_change=changes["output_entropy"],
        attention_change=changes["attention_entropy"],
        model_class=decided.quantised_class.label,
        same_class=decided.same_class,
        alone=bool(alone),
        folders=tuple(str(run.folder) for run, _ in members),
    )


def damage(found: Divergence) -> Damage | None:
    part = found.forced
    if part is None:
        return None
    last = (
        UNDEFINED
        if part.hidden_error is None
        else Interval(*(float(bound[-1]) for bound in part.hidden_error[1:4]))
    )
    kl, error = (math.nan, math.nan) if part.kl is None else (part.kl.mean, part.kl.error)
    return Damage(kl, error, part.exact, part.same_top1, part.perplexity.log_ratio, last)


def cost(runs: Sequence[Run]) -> Cost:
    """From the runs that decode alone, the largest memory and the best speed; without one from those that
    are forced, which hold the reference too, but never with the full model beside."""
    alone = [run for run in runs if run.manifest.kind == "run"]
    single = alone or [run for run in runs if not run.manifest.exact]
    memory = [size for run in single if (size := rss(run)) is not None]
    speeds = [speed for run in single if (speed := tokens_per_second(run)) is not None]
    size = runs[0].manifest.artifact.bytes
    return Cost(size, max(memory, default=None), max(speeds, default=None))


def rss(run: Run) -> int | None:
    """The largest resident memory after any question, bytes; None where it was not measured or cannot be
    read any more."""
    path = run.folder / DEVICE_NAME
    if not path.is_file():
        return None
    try:
        table = read_part(path)
    except UserError:  # telemetry decides nothing else
        return None
    if "rss_bytes" not in table.column_names:
        raise UserError(f"{path} lacks the column rss_bytes: trace the run again into another folder")
    largest = pc.max(table.column("rss_bytes")).as_py()
    return None if largest is None else int(largest)


def tokens_per_second(run: Run) -> float | None:
    """Of decoding: tokens after the first of each answer over the time that they took; None where there was
    none."""
    answers = run.answers(["question_index", "tokens", "decode_ms"])
    tokens, spent = (
        pc.sum(pc.subtract(answers.column("tokens"), 1)).as_py(),
        pc.sum(answers.column("decode_ms")).as_py(),
    )
    return 1e3 * tokens / spent if tokens and spent else None


@dataclass(frozen=True)
class Fit:
    """The answer to "the best that fits in `gigabytes` of memory" (1e9 bytes): a line, or None; `text` is a
    sentence."""

    gigabytes: float
    best: Line | None
    text: str

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = plain(asdict(self))
        return value


def check_room(gigabytes: float) -> None:
    """Raises UserError for a number that is no size."""
    if not 0.0 < gigabytes < math.inf:
        raise UserError(f"--fits is {gigabytes}: a number of gigabytes above 0 is needed")


def best_fit(found: ArtifactComparison, gigabytes: float) -> Fit:
    """The least mean KL among the artifacts whose measured memory is at most so many gigabytes; full
    precision itself, where it fits, damages nothing. Raises UserError for a number that is no size, and
    where memory or KL was measured of none."""
    check_room(gigabytes)
    judged = [each for each in found.lines if each.damage and not math.isnan(each.damage.kl)]
    known = [
        (each, each.cost.rss_bytes) for each in (found.full, *judged) if each.cost.rss_bytes is not None
    ]
    if not known:
        raise UserError(
            "--fits needs runs whose memory and KL were measured: give those of 'edge run' and of 'edge "
            "force'"
        )
    room = [each for each, size in known if size <= gigabytes * GB]
    if not room:
        least, size = min(known, key=lambda pair: pair[1])
        return Fit(
            gigabytes,
            None,
            f"Nothing fits in {gigabytes:g} GB: the least is {least.precision} with {size / GB:.3g} GB.",
        )
    best = min(room, key=lambda each: each.damage.kl if each.damage else 0.0)
    held = f"which took {(best.cost.rss_bytes or 0) / GB:.3g} GB"
    if best.damage is None:
        return Fit(
            gigabytes,
            best,
            f"Best that fits in {gigabytes:g} GB: full precision itself, {best.precision}, {held}.",
        )
    bound = "" if best.damage.exact else "at least "
    error = "" if math.isnan(best.damage.kl_error) else f" ± {best.damage.kl_error:.2g}"
    told = f"mean KL {bound}{best.damage.kl:.3g}{error} nats"
    return Fit(gigabytes, best, f"Best that fits in {gigabytes:g} GB: {best.precision}, {held}, {told}.")
