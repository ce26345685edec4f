"""The data of a report: runs grouped by model, with a reference, comparisons and the layers that change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge.analysis.divergence import Divergence, compare
from edge.analysis.dynamics import (
    Curve,
    Dynamics,
    curves,
    describe,
    head_map,
    layer_means,
    numbers,
    recorded,
)
from edge.analysis.intervals import Float64
from edge.analysis.layers import LayerChange
from edge.analysis.study import Study, study
from edge.artifact import ModelSpec
from edge.errors import UserError
from edge.precision import PRECISIONS
from edge.registry import read_registry
from edge.runs.columns import mean_column
from edge.runs.run_directory import Run
from edge.signals.groups import BY_NAME, shown_in
from edge.signals.metric import Shown

LAYER_METRICS = shown_in(Shown.LAYERS)
OUTPUT, ATTENTION, NORMALISED, DISPERSION = (
    "output_entropy",
    "attention_entropy",
    "attention_entropy_normalised",
    "head_dispersion",
)


@dataclass(frozen=True)
class RunData:
    """One run with all data of its figures and tables.

    `name` is unique in its group. `heads` is [L, H], None without taps. `without_rows` counts questions that
    did not fit the context, so that nothing was traced. `curves` is empty where nothing was traced. Curves
    of attention are of each step's mean over layers (and heads). Only free runs with tokens have a `study`.
    """

    run: Run
    name: str
    dynamics: Dynamics
    curves: dict[str, Curve]
    shifts: Float64
    heads: Float64 | None
    layers: dict[str, Float64]
    without_rows: int
    study: Study | None

    @property
    def forced(self) -> bool:
        """Whether the run followed the reference's tokens."""
        return self.run.manifest.kind == "force"


class LayerStart(NamedTuple):
    """The layers in which a metric changes beyond chance: their 95% interval leaves out 0.

    `layers` is the number of layers and `sure` that of changed ones. `first` is the first of these and
    `largest` the one with the largest relative change, which is `relative`. Layers count from 1, 0 is the
    embedding.
    """

    metric: str
    layers: int
    sure: int
    first: int | None
    largest: int | None
    relative: float


@dataclass(frozen=True)
class Comparison:
    """A run of the group against its reference."""

    quantised: RunData
    divergence: Divergence
    starts: tuple[LayerStart, ...]


@dataclass(frozen=True)
class ModelGroup:
    """All runs of one model id. `paper_class` is "" for a model that the paper does not treat."""

    model_id: str
    spec: ModelSpec
    notice: str
    paper_class: str
    reference: RunData
    comparisons: tuple[Comparison, ...]
    several_checkpoints: bool

    @property
    def runs(self) -> tuple[RunData, ...]:
        """All runs, the reference first."""
        return (self.reference, *(c.quantised for c in self.comparisons))


def build_groups(runs: Sequence[Run], delta: float) -> list[ModelGroup]:
    """Groups runs by model, in the order in which the models first come. A folder given twice counts once.

    An artifact that was forced on a model's run belongs to that model, whatever name its file gives it.
    Raises UserError when there are no runs, a model has no free run, or runs of a model cannot be compared.
    """
    if not runs:
        raise UserError("there is nothing to report: give at least one run directory")
    followed = {
        run.manifest.artifact: run.manifest.like.artifact.model_id for run in runs if run.manifest.like
    }
    by_model: dict[str, list[Run]] = {}
    for run in {run.folder.resolve(): run for run in runs}.values():
        model_id = followed.get(run.manifest.artifact, run.manifest.model_id)
        by_model.setdefault(model_id, []).append(run)
    classes = paper_classes()
    return [
        build_group(model_id, members, classes.get(model_id, ""), delta)
        for model_id, members in by_model.items()
    ]


def paper_classes() -> dict[str, str]:
    """The paper's verdicts by model id; none where the registry is not installed."""
    try:
        return {entry.model_id: entry.paper_class for entry in read_registry().values()}
    except UserError:
        return {}


def build_group(model_id: str, runs: list[Run], paper_class: str, delta: float) -> ModelGroup:
    """Reads all runs of one model and compares them with its most exact free run."""
    free = [run for run in runs if run.manifest.kind == "run"]
    if not free:
        raise UserError(
            f"{runs[0].folder} is a forced run and has nothing to stand beside: "
            "give the run it is --like, too"
        )
    reference = min(free, key=exactness)  # the most exact is what the others are compared with
    others = [run for run in runs if run is not reference]
    # Forced before free: only forced runs are compared position by position, so figures show them first.
    ordered = [reference, *sorted(others, key=lambda run: (exactness(run), run.manifest.kind != "force"))]
    names = unique_names(ordered)
    first = read_run(reference, names[0], delta)
    return ModelGroup(
        model_id=model_id,
        spec=reference.manifest.model,
        notice=reference.manifest.notice,
        paper_class=paper_class,
        reference=first,
        comparisons=tuple(
            comparison(first, read_run(run, name, delta), delta)
            for run, name in zip(ordered[1:], names[1:], strict=True)
        ),
        several_checkpoints=not all(run.manifest.same_checkpoint(reference.manifest) for run in others),
    )


def exactness(run: Run) -> int:
    """Place in the order of exactness; precisions not in the table come last."""
    known = PRECISIONS.get(run.manifest.precision)
    return len(PRECISIONS) if known is None else known.rank


def unique_names(runs: Iterable[Run]) -> list[str]:
    """A name for each run: precision and kind, and the folder's name where two would be the same."""
    plain = [f"{run.manifest.precision}{' forced' if run.manifest.kind == 'force' else ''}" for run in runs]
    count = Counter(plain)
    names = [
        f"{name} ({run.folder.name})" if count[name] > 1 else name
        for name, run in zip(plain, runs, strict=True)
    ]
    seen: Counter[str] = Counter()
    for i, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[i] = f"{name} #{seen[name]}"
    return names


def read_run(run: Run, name: str, delta: float) -> RunData:
    """Reads and analyses one run."""
    tapped = run.manifest.artifact.tapped
    dynamics = describe(run, delta)
    has_rows = dynamics.tokens > 0  # where no question was answered there is nothing to take means of
    answers = run.answers(["question_index", "tokens", "output_entropy_shift"])
    by_layer = recorded(LAYER_METRICS, run.columns("answers"), column=mean_column)
    return RunData(
        run=run,
        name=name,
        dynamics=dynamics,
        curves=curves(run),
        shifts=numbers(answers, "output_entropy_shift"),
        heads=head_map(run) if tapped and has_rows else None,
        layers={name: layer_means(run, name) for name in by_layer} if tapped and has_rows else {},
        without_rows=int(np.sum(numbers(answers, "tokens") == 0)),
        study=study(run, name=name, delta=delta) if has_rows and run.manifest.kind == "run" else None,
    )


def comparison(full: RunData, quantised: RunData, delta: float) -> Comparison:
    """Compares a run with the reference."""
    divergence = compare(full.run, quantised.run, delta, outcomes=False)  # outcomes are in the studies
    changes = {change.metric: change for change in divergence.layers}
    answered = quantised.dynamics.questions - quantised.without_rows
    starts = tuple(
        layer_start(changes[metric], full.layers[metric], answered)
        for metric in LAYER_METRICS
        if metric in changes and metric in full.layers
    )
    return Comparison(quantised, divergence, starts)


def layer_start(change: LayerChange, full: Float64, answered: int) -> LayerStart:
    """The layers in which one metric changes; `full` [L] are the reference's values."""
    sure = ((change.low > 0) | (change.high < 0)) & (answered > 1)  # a single answer has no interval
    offset = BY_NAME[change.metric].first_layer
    relative = relative_to(full, change.mean)
    comparable = np.flatnonzero(sure & ~np.isnan(relative))
    if comparable.size == 0:
        return LayerStart(change.metric, len(sure), int(sure.sum()), None, None, float("nan"))
    largest = int(comparable[np.argmax(np.abs(relative[comparable]))])
    return LayerStart(
        change.metric,
        len(sure),
        int(sure.sum()),
        int(comparable[0]) + offset,
        largest + offset,
        float(relative[largest]),
    )


def relative_to(full: Float64, change: Float64) -> Float64:
    """The relative change, change / |full|; NaN where |full| is at most 1e-6."""
    size = np.abs(full)
    return np.divide(change, size, out=np.full_like(size, np.nan), where=size > 1e-6)
