"""The search for onnx-int4-mixed: which groups of matrices int4 should keep in 8 bits.

Each group alone in 8 bits shows what its 4 bits cost in KL against full precision, on the full-precision
model's answers to calibration questions. Groups are then added in order of gain for each added byte. Every
step of that order is measured as a whole, since gains do not add up. The best one within the budget is
built. The log has everything that was measured.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from edge.analysis.divergence import compare
from edge.analysis.intervals import Interval
from edge.analysis.plain import plain
from edge.artifact import Artifact
from edge.backends.base import Runtime
from edge.errors import UserError, ignore
from edge.files import write_whole
from edge.jobs.decode import DecodeSettings
from edge.jobs.force import force as force_job
from edge.jobs.run import run as run_job
from edge.precision import FULL, INT4, INT8, MIXED
from edge.questions.question import Question, questions_sha256, select
from edge.runs.run_directory import Run
from export.build import DEFAULT_CONTEXT, build
from export.download import Agree, refuse
from export.graph.architectures import read_config
from export.precision import WIDE_BITS, groups_of
from export.source import open_checkpoint, resolve

REFERENCE_K = 1024
SEARCH_NAME = f"{MIXED}.search.json"
UNBUILT_NAME = f"{MIXED}.unbuilt.json"  # a log whose artifact could not be built


class Trial(NamedTuple):
    """A measured artifact: groups in 8 bits, bytes of its files, mean KL(full || this) in nats."""

    wide: tuple[str, ...]
    bytes: int
    kl: Interval


@dataclass(frozen=True)
class Mix:
    """The result of a search. `artifact` and `recipe` (this log) are paths.

    `alone` has each group by itself. `path` has the groups in order of gain for a byte, one more at a time,
    within the budget. `chosen` has those of the best trial.
    """

    artifact: str
    recipe: str
    model_id: str
    checkpoint_sha256: str
    questions_sha256: str
    questions: int
    max_new_tokens: int
    budget: float
    base: Trial
    eight: Trial
    alone: dict[str, Trial]
    path: tuple[Trial, ...]
    chosen: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the chosen groups as `wide`: what --recipe reads."""
        value: dict[str, Any] = plain(asdict(self))
        return value | {"wide": list(self.chosen)}


def find(
    source: str,
    out: Path,
    questions: Sequence[Question],
    *,
    limit: int | None = None,
    max_new_tokens: int = 64,
    budget: float = 1.15,
    context: int = DEFAULT_CONTEXT,
    revision: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    on_trial: Callable[[str, Trial], None] = ignore,
    on_file: Callable[[str, int], None] = ignore,
    agree: Agree = refuse,
) -> Mix:
    """Searches, builds out/onnx-int4-mixed/ and writes the log beside it.

    `agree` decides on a large download. Raises UserError when the input is bad, or when no group in 8 bits
    helps within the budget.
    """
    if not 1.0 < budget < math.inf:
        raise UserError(f"--budget is {budget}: a multiple of {INT4}'s size above 1 is needed, such as 1.15")
    chosen = select(questions, limit, "1/1")
    origin = resolve(source, revision=revision, on_file=on_file, agree=agree)
    with open_checkpoint(origin) as checkpoint:
        groups, digest = groups_of(checkpoint, read_config(checkpoint.config, context)), checkpoint.sha256()
    try:
        out.mkdir(parents=True, exist_ok=True)
        room_for_trials = tempfile.TemporaryDirectory(prefix=".mix-", dir=out)
    except OSError as error:
        raise UserError(f"cannot write to {out} ({error.strerror}): give another --out") from error
    with room_for_trials as work:
        bench = Bench(source, Path(work), revision, context, Runtime(threads), chosen, max_new_tokens)
        base, eight = bench.trial(INT4), bench.trial(INT8)
        on_trial(INT4, base)
        on_trial(INT8, eight)
        room = budget * base.bytes
        alone = {}
        for name in groups:
            alone[name] = bench.trial(MIXED, (name,))
            on_trial(f"{name} in {WIDE_BITS} bits", alone[name])
        path = []
        for wide in prefixes(base, alone):
            trial = bench.trial(MIXED, wide)
            if trial.bytes <= room:
                path.append(trial)
                on_trial(f"{len(wide)} groups", trial)
    best = min(path, key=lambda trial: trial.kl.value, default=base)
    if best.kl.value >= base.kl.value:
        raise UserError(
            f"no group in {WIDE_BITS} bits lowers the KL of {INT4} within {budget} times its size: give a "
            "larger --budget"
        )
    mix = Mix(
        str(out / MIXED),
        str(out / SEARCH_NAME),
        origin.model_id,
        digest,
        questions_sha256(questions),
        len(chosen),
        max_new_tokens,
        budget,
        base,
        eight,
        alone,
        tuple(path),
        best.wide,
    )
    text = json.dumps(mix.to_json(), indent=1) + "\n"
    log = out / UNBUILT_NAME  # first, so that a search of hours is not lost with the build
    write_whole(log, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    try:
        build(source, [MIXED], out, wide=best.wide, context=context, revision=revision, overwrite=overwrite)
    except UserError as error:
        raise UserError(f"{error}; what was found is in {log}, for 'edge-export build --recipe'") from error
    log.replace(out / SEARCH_NAME)
    return mix


def prefixes(base: Trial, alone: dict[str, Trial]) -> list[tuple[str, ...]]:
    """The groups that help, in order of KL saved for each byte added: the first, the first two, ..."""

    def worth(name: str) -> float:
        trial = alone[name]
        return (base.kl.value - trial.kl.value) / max(1, trial.bytes - base.bytes)

    helping = sorted((name for name in alone if worth(name) > 0), key=worth, reverse=True)
    return [tuple(helping[: n + 1]) for n in range(len(helping))]


class Bench:
    """Builds artifacts in a temporary folder and measures each on the full-precision model's own answers."""

    def __init__(
        self,
        source: str,
        work: Path,
        revision: str | None,
        context: int,
        runtime: Runtime,
        questions: Sequence[Question],
        max_new_tokens: int,
    ) -> None:
        self._source, self._work, self._revision = source, work, revision
        self._context, self._runtime = context, runtime
        self._number = 0
        full = self._build(FULL, ())
        run_job(
            full,
            questions,
            work / "full",
            DecodeSettings(max_new_tokens, reference_k=REFERENCE_K),
            runtime=runtime,
        )
        self._full = Run.open(work / "full")

    def _build(self, precision: str, wide: tuple[str, ...]) -> Artifact:
        self._number += 1
        folder = self._work / str(self._number)
        return build(
            self._source, [precision], folder, wide=wide, context=self._context, revision=self._revision
        )[0].artifact

    def trial(self, precision: str, wide: tuple[str, ...] = ()) -> Trial:
        artifact = self._build(precision, wide)
        size = artifact.manifest.size
        out = self._work / f"run-{self._number}"
        force_job(artifact, self._full.folder, out, runtime=self._runtime)
        forced = compare(self._full, Run.open(out)).forced
        for folder in (artifact.path, out):
            remove(folder)
        if forced is None or forced.kl_by_question is None:
            raise UserError(
                "the full-precision model answered none of the questions: give others with --questions"
            )
        return Trial(wide, size, forced.kl_by_question)


def remove(folder: Path) -> None:
    """A trial's artifact or run: at true size a dozen of them would fill the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def table(mix: Mix) -> Table:
    """A table of the trials: each group alone, and the groups together."""
    title = (
        f"{mix.model_id}: KL against {FULL} on {mix.questions} questions [95% interval], budget "
        f"{mix.budget:g}"
    )
    rows = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("in 8 bits", "MB", "KL"):
        rows.add_column(column, justify="left" if column == "in 8 bits" else "right")

    def row(name: str, trial: Trial, chosen: bool = False) -> None:
        kl = trial.kl
        text = f"{kl.value:.5f} [{kl.low:.5f}, {kl.high:.5f}]"
        rows.add_row(escape(name), f"{trial.bytes / 1e6:.2f}", text, style="bold" if chosen else "")

    row(f"nothing ({INT4})", mix.base)
    for name, trial in mix.alone.items():
        row(name, trial)
    rows.add_section()
    for trial in mix.path:
        row(" + ".join(trial.wide), trial, trial.wide == mix.chosen)
    rows.add_section()
    row(f"everything ({INT8})", mix.eight)
    return rows
