"""What the runs of a study say: by kind of answer, by precision, by layer, along the answer, by outcome."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge.analysis.classes import DynamicsClass, classify
from edge.analysis.divergence import Divergence, compare
from edge.analysis.dynamics import CURVE_BINS, head_map, matrix, mean_vectors, numbers, trajectory
from edge.analysis.intervals import Float64, Interval, bootstrap
from edge.analysis.labels import read_labels
from edge.analysis.loops import loops
from edge.analysis.paper import PaperRun, analyse_paper
from edge.analysis.scores import scores_of
from edge.analysis.tokens import MeanTrajectory, TokenPass, mean_trajectory, read_tokens
from edge.analysis.truth import Truth, analyse_truth
from edge.precision import FULL
from edge.runs.record import REPETITION, STOP_TOKEN
from edge.runs.run_directory import Run
from tools.study.steps import Plan

FINISHED, CUT, LOOPING = "finished", "cut", "looping"
KINDS = (FINISHED, CUT, LOOPING)
ALL = "all"
ALONG = (
    "output_entropy",
    "attention_entropy",
    "attention_entropy_normalised",
    "sink_mass",
    "head_dispersion",
)
ATTENTION = "attention_entropy_layer"
TASKS = ("mc1", "mc2", "binary")
Mask = npt.NDArray[np.bool_]


class Group(NamedTuple):
    """Answers of one kind: their number, mean length in tokens, and class."""

    answers: int
    tokens: float
    model_class: DynamicsClass


class Along(NamedTuple):
    """A metric along answers of one kind: early and late part, their difference, and its trajectory (None
    without answers)."""

    early: Interval
    late: Interval
    shift: Interval
    trajectory: MeanTrajectory | None


@dataclass(frozen=True)
class Single:
    """One precision that decodes alone.

    `groups` has ALL and each of KINDS, `truth` ALL and FINISHED; `scores` is by task.
    """

    name: str
    bytes: int
    groups: dict[str, Group]
    truth: dict[str, Truth]
    scores: dict[str, Interval]
    paper: PaperRun


class Layers(NamedTuple):
    """Damage by layer.

    `error` [L+1] is the relative error of the residual stream, `largest_jump` the layer in which it grows
    most (0 is the embedding). `change` [L] is the mean change of attention entropy over questions in nats,
    `effect` [L] that change over its standard deviation over questions (paired).
    """

    error: Float64
    largest_jump: int
    change: Float64
    effect: Float64


@dataclass(frozen=True)
class Damage:
    """One precision on the reference's tokens, and its own answers beside the reference's.

    `kl` is over questions, by ALL and each of KINDS of the reference's answers.
    """

    name: str
    forced: Divergence
    free: Divergence
    kl: dict[str, Interval]
    layers: Layers | None


@dataclass(frozen=True)
class StudyResults:
    """Everything that the page shows.

    `tokens` is the length limit. `along` is of the reference, by metric and then by kind, `sinks` its mean
    attention on position 0 by layer [L].
    """

    model_id: str
    notice: str
    questions: int
    tokens: int
    singles: tuple[Single, ...]
    damages: tuple[Damage, ...]
    along: dict[str, dict[str, Along]]
    sinks: Float64

    @property
    def full(self) -> Single:
        """The reference."""
        return self.singles[0]


def read_study(plan: Plan) -> StudyResults:
    """The results of a study whose commands have run."""
    full = read_one(plan, FULL)
    others = (read_one(plan, name) for name in plan.artifacts if name != FULL)
    singles, damages = [read_single(plan, full)], []
    for other in others:  # one at a time: each holds its tokens
        singles.append(read_single(plan, other))
        damages.append(read_damage(plan, full, other))
    run = full.run
    return StudyResults(
        model_id=run.manifest.model_id,
        notice=run.manifest.notice,
        questions=run.answers(["question_index"]).num_rows,
        tokens=plan.tokens,
        singles=tuple(singles),
        damages=tuple(damages),
        along=along_of(*full[1:]),
        sinks=head_map(run, "sink_mass").mean(axis=1),
    )


class ReadRun(NamedTuple):
    """One precision that decodes alone, with what its steps say: they are read once."""

    name: str
    run: Run
    tokens: TokenPass
    masks: dict[str, Mask]


def read_one(plan: Plan, name: str) -> ReadRun:
    """The run of one precision that decodes alone."""
    run = Run.open(plan.run(name))
    return ReadRun(name, run, read_tokens(run), kinds_of(run))


def read_single(plan: Plan, one: ReadRun) -> Single:
    """One precision's own answers, labels and scores."""
    name, run, tokens, masks = one
    return Single(
        name=name,
        bytes=run.manifest.artifact.bytes or 0,
        groups=groups_of(run, masks),
        truth=truths_of(run, tokens, masks),
        scores=read_scores(plan, name),
        paper=analyse_paper(run, tokens=tokens),
    )


def kinds_of(run: Run) -> dict[str, Mask]:
    """Which answers of a run, in the order of its table, are of which kind.

    An answer that ends by itself and does not loop is finished. One that loops is looping, whether it was
    cut or not, as is one that was ended for repeating a token. Any other with tokens is cut. A question
    without an answer is of no kind.
    """
    answers = run.answers(["question_index", "stop_reason", "tokens"])
    looping = {
        index: loops(steps.column("token_id").to_pylist())
        for index, steps in run.each_question(["token_id"])
    }
    reasons = answers.column("stop_reason").to_pylist()
    answered = numbers(answers, "tokens") > 0
    looped = np.array([looping.get(i, False) for i in answers.column("question_index").to_pylist()])
    looped |= np.array([reason == REPETITION for reason in reasons])
    ended = np.array([reason == STOP_TOKEN for reason in reasons])
    return {
        ALL: answered,
        FINISHED: answered & ended & ~looped,
        CUT: answered & ~ended & ~looped,
        LOOPING: answered & looped,
    }


def groups_of(run: Run, masks: dict[str, Mask]) -> dict[str, Group]:
    """Number, length and class of the answers of each kind."""
    answers = run.answers(["question_index", "tokens", "output_entropy_shift"])
    shifts, lengths = numbers(answers, "output_entropy_shift"), numbers(answers, "tokens")
    return {
        kind: Group(
            int(mask.sum()), float(lengths[mask].mean()) if mask.any() else 0.0, classify(shifts[mask])
        )
        for kind, mask in masks.items()
    }


def along_of(run: Run, tokens: TokenPass, masks: dict[str, Mask]) -> dict[str, dict[str, Along]]:
    """Each of ALONG, for answers of each kind."""
    answers = run.answers()
    indices = answers.column("question_index").to_pylist()
    found: dict[str, dict[str, Along]] = {}
    for metric in ALONG if run.manifest.artifact.tapped else ALONG[:1]:
        parts = {part: numbers(answers, f"{metric}_{part}") for part in ("early", "late", "shift")}
        trajectories = tokens.trajectories.get(metric)
        if trajectories is None:
            trajectories = head_trajectories(run, metric)
        found[metric] = {}
        for kind, mask in masks.items():
            chosen = {index for index, member in zip(indices, mask, strict=True) if member}
            rows = trajectories[[question in chosen for question in tokens.questions]]
            trajectory = mean_trajectory(metric, rows) if len(rows) else None
            found[metric][kind] = Along(
                *(bootstrap(values[mask]) for values in parts.values()), trajectory=trajectory
            )
    return found


def head_trajectories(run: Run, metric: str) -> Float64:
    """Trajectory of the mean over layers and heads of a by-head metric, [questions with rows, bins]."""
    rows = [
        trajectory(matrix(steps.column(metric)).mean(axis=1), CURVE_BINS)
        for _, steps in run.each_question([metric])
        if steps.num_rows
    ]
    return np.stack(rows)


def truths_of(run: Run, tokens: TokenPass, masks: dict[str, Mask]) -> dict[str, Truth]:
    """Whether metrics tell untrue answers, over all answers and over finished ones; empty without labels."""
    labels = read_labels(run)
    if labels is None:
        return {}
    scores = scores_of(run, tokens)
    indices = run.answers(["question_index"]).column("question_index").to_pylist()
    finished = {index for index, member in zip(indices, masks[FINISHED], strict=True) if member}
    chosen = {ALL: labels.outcome, FINISHED: {i: o for i, o in labels.outcome.items() if i in finished}}
    return {
        kind: analyse_truth(run, labels._replace(outcome=outcome), tokens, scores)
        for kind, outcome in chosen.items()
        if outcome
    }


def read_scores(plan: Plan, name: str) -> dict[str, Interval]:
    """mc1, mc2 and binary with their intervals, those that the questions allow."""
    path = plan.scores(name).with_name(f"{plan.scores(name).name}.json")
    tasks = json.loads(path.read_text(encoding="utf-8"))["tasks"]
    return {
        task: Interval(*(tasks[task][part] for part in ("value", "low", "high", "few")))
        for task in TASKS
        if task in tasks
    }


def read_damage(plan: Plan, full: ReadRun, other: ReadRun) -> Damage:
    """What one precision changed, forced and free."""
    forced = Run.open(plan.forced(other.name))
    kl = numbers(forced.answers(["question_index", "kl_mean"]), "kl_mean")
    divergence = compare(full.run, forced, outcomes=False)
    return Damage(
        name=other.name,
        forced=divergence,
        free=compare(full.run, other.run, outcomes=False),
        kl={kind: bootstrap(kl[mask]).within(0.0) for kind, mask in full.masks.items()},
        layers=read_layers(divergence, full.run, forced),
    )


def read_layers(divergence: Divergence, full: Run, forced: Run) -> Layers | None:
    """Where a forced run leaves its reference; None if one of them was not tapped."""
    error = divergence.forced.hidden_error if divergence.forced else None
    if error is None:
        return None
    before, after = (
        mean_vectors(run.answers(), ATTENTION, full.manifest.model.layers) for run in (full, forced)
    )
    change = (after - before)[~np.isnan(after).any(axis=1)]
    spread = change.std(axis=0, ddof=1) if len(change) > 1 else np.full(change.shape[1], np.nan)
    mean = next(layers.mean for layers in divergence.layers if layers.metric == ATTENTION)
    return Layers(
        error=error.mean,
        largest_jump=int(np.argmax(np.diff(error.mean, prepend=0.0))),
        change=mean,
        effect=mean / spread,
    )
