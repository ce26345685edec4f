"""Comparison of several artifacts with one full-precision run: cost, damage, and the best that fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import pyarrow.compute as pc

from edge.analysis.classes import DELTA
from edge.analysis.divergence import Divergence, compare
from edge.analysis.intervals import UNDEFINED, Interval
from edge.analysis.noise_floor import NoiseFloor
from edge.analysis.pairs import check_pair
from edge.analysis.plain import plain
from edge.errors import UserError
from edge.runs.parts import read_part
from edge.runs.provenance import ArtifactIdentity
from edge.runs.run_directory import DEVICE_NAME, Run

GB = 1e9


class Cost(NamedTuple):
    """Size of the artifact's files, largest resident memory after any question (both in bytes), and decoded
    tokens per second. Each is None if the run does not hold it. Memory and speed are also None if the full
    model was in the same process."""

    bytes: int | None
    rss_bytes: int | None
    tokens_per_second: float | None


class Damage(NamedTuple):
    """Differences between a forced run and its reference at the same positions.

    `kl` is the mean over tokens in nats, `kl_error` its standard error over questions. It is a lower bound
    unless `exact`, and NaN if the reference kept no distributions. `noise_floor` is what it must be far
    above, where that is measured. `log_ppl_ratio` is ln(PPL(Q)/PPL(base)).
    `hidden_error` is the relative L2 error of the residual stream after the last layer, undefined unless
    exact and tapped.
    """

    kl: float
    kl_error: float
    exact: bool
    same_top1: Interval
    log_ppl_ratio: Interval
    hidden_error: Interval
    noise_floor: NoiseFloor | None


@dataclass(frozen=True)
class Line:
    """One artifact, from its runs compared with the full one.

    A forced run gives `damage`, a free-running one the class; `alone` says whether there is a free-running
    one. Changes of entropies are means over questions, from the forced run if there is one. `left_out` is
    the number of answers too short for a say in the class. `same_class` is None where a class is undefined.
    """

    label: str
    precision: str
    cost: Cost
    damage: Damage | None
    identical: Interval | None
    entropy_change: Interval
    attention_change: Interval
    model_class: str
    left_out: int
    same_class: bool | None
    alone: bool
    folders: tuple[str, ...]


@dataclass(frozen=True)
class ArtifactComparison:
    """Lines of several artifacts. `full` is the reference's own line, without damage. `lines` are in the
    order given. `runs` has every single comparison."""

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
    """Compare each run with the full one; runs of one artifact share a line. Raises UserError before any is
    read if one does not belong to the full one."""
    for run in others:
        check_pair(full, run)
    comparisons = [compare(full, run, delta) for run in others]
    return ArtifactComparison(
        full=Line(
            label=full.manifest.label,
            precision=full.manifest.precision,
            cost=cost([full]),
            damage=None,
            identical=None,
            entropy_change=UNDEFINED,
            attention_change=UNDEFINED,
            model_class=comparisons[0].full_class.label,
            left_out=comparisons[0].full_class.left_out,
            same_class=True if comparisons[0].full_class.defined else None,
            alone=True,
            folders=(str(full.folder),),
        ),
        notice=full.manifest.notice,
        questions=comparisons[0].questions,
        lines=tuple(lines_of(list(zip(others, comparisons, strict=True)))),
        runs=tuple(comparisons),
    )


def lines_of(pairs: Sequence[tuple[Run, Divergence]]) -> list[Line]:
    """One line for each artifact, in the order of their first runs."""
    by_artifact: dict[ArtifactIdentity, list[tuple[Run, Divergence]]] = {}
    for run, divergence in pairs:
        by_artifact.setdefault(run.manifest.artifact, []).append((run, divergence))
    return [line(members) for members in by_artifact.values()]


def line(members: Sequence[tuple[Run, Divergence]]) -> Line:
    """The line of one artifact from its runs. An exact forced run is preferred to one that is not exact."""
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
        left_out=decided.quantised_class.left_out,
        same_class=decided.same_class,
        alone=bool(alone),
        folders=tuple(str(run.folder) for run, _ in members),
    )


def damage(comparison: Divergence) -> Damage | None:
    """Damage from the comparison of a forced run; None for a free-running one."""
    forced = comparison.forced
    if forced is None:
        return None
    last_layer = UNDEFINED
    if forced.hidden_error is not None:
        error = forced.hidden_error
        last_layer = error.interval(-1)
    kl, kl_error = (math.nan, math.nan) if forced.kl is None else (forced.kl.mean, forced.kl.error)
    return Damage(
        kl,
        kl_error,
        forced.exact,
        forced.same_top1,
        forced.perplexity.log_ratio,
        last_layer,
        forced.noise_floor,
    )


def cost(runs: Sequence[Run]) -> Cost:
    """Size, largest memory and best speed of one artifact's runs. Free-running runs are used if there are
    any, else forced ones. Runs with the full model in the same process are left out."""
    alone = [run for run in runs if run.manifest.kind == "run"]
    single = alone or [run for run in runs if not run.manifest.exact]
    memory = [size for run in single if (size := rss(run)) is not None]
    speeds = [speed for run in single if (speed := tokens_per_second(run)) is not None]
    size = runs[0].manifest.artifact.bytes
    return Cost(size, max(memory, default=None), max(speeds, default=None))


def rss(run: Run) -> int | None:
    """Largest resident memory after any question, in bytes. None if it was not measured or cannot be read.
    Raises UserError if the table lacks the column."""
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
    """Speed of decoding: tokens after the first of each answer over their time. None if there was none."""
    answers = run.answers(["question_index", "tokens", "decode_ms"])
    tokens = pc.sum(pc.subtract(answers.column("tokens"), 1)).as_py()
    milliseconds = pc.sum(answers.column("decode_ms")).as_py()
    return 1e3 * tokens / milliseconds if tokens and milliseconds else None


@dataclass(frozen=True)
class Fit:
    """The best artifact that fits in `gigabytes` of memory (1e9 bytes), None if none fits. `text` says so in
    a sentence."""

    gigabytes: float
    best: Line | None
    text: str

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; NaN becomes None."""
        value: dict[str, Any] = plain(asdict(self))
        return value


def check_room(gigabytes: float) -> None:
    """Raise UserError for a number that is no size."""
    if not 0.0 < gigabytes < math.inf:
        raise UserError(f"--fits is {gigabytes}: a number of gigabytes above 0 is needed")


def best_fit(comparison: ArtifactComparison, gigabytes: float) -> Fit:
    """The artifact with the least mean KL among those whose measured memory is at most `gigabytes`. Full
    precision counts as no damage. Raises UserError for a number that is no size, and if no artifact has both
    memory and KL measured."""
    check_room(gigabytes)
    judged = [each for each in comparison.lines if each.damage and not math.isnan(each.damage.kl)]
    candidates = (comparison.full, *judged)
    known = [(each, each.cost.rss_bytes) for each in candidates if each.cost.rss_bytes is not None]
    if not known:
        raise UserError(
            "--fits needs runs whose memory and KL were measured: give those of 'edge run' and of 'edge "
            "force'"
        )
    fitting = [each for each, size in known if size <= gigabytes * GB]
    if not fitting:
        least, size = min(known, key=lambda pair: pair[1])
        text = f"Nothing fits in {gigabytes:g} GB: the least is {least.precision} with {size / GB:.3g} GB."
        return Fit(gigabytes, None, text)
    best = min(fitting, key=lambda each: each.damage.kl if each.damage else 0.0)
    memory = f"which took {(best.cost.rss_bytes or 0) / GB:.3g} GB"
    start = f"Best that fits in {gigabytes:g} GB:"
    if best.damage is None:
        return Fit(gigabytes, best, f"{start} full precision itself, {best.precision}, {memory}.")
    bound = "" if best.damage.exact else "at least "
    error = "" if math.isnan(best.damage.kl_error) else f" ± {best.damage.kl_error:.2g}"
    kl = f"mean KL {bound}{best.damage.kl:.3g}{error} nats"
    return Fit(gigabytes, best, f"{start} {best.precision}, {memory}, {kl}.")
