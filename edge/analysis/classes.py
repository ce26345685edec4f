"""Class of a model: whether output entropy falls, rises or stays along its answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge.analysis.intervals import ENOUGH, Interval, bootstrap
from edge.errors import UserError
from edge.signals.streaming import SHORTEST

DELTA = 0.05  # nats: a shift that small either way is called balanced
DETERMINISTIC, EXPLORATORY, BALANCED = "deterministic", "exploratory", "balanced"
UNDEFINED_CLASS = "undefined"  # fewer than ENOUGH answers have a shift
TOO_FEW = "too few answers for a class"


class DynamicsClass(NamedTuple):
    """A model's class, with the early/late shift of output entropy over questions and the delta that decide
    it. `answers` have a shift, `left_out` are under SHORTEST tokens and have none; both are numbers of
    answers."""

    label: str
    shift: Interval
    delta: float
    answers: int
    left_out: int

    @property
    def defined(self) -> bool:
        """Whether there are enough answers for a class."""
        return self.label != UNDEFINED_CLASS


def classify(shifts: npt.ArrayLike, delta: float = DELTA) -> DynamicsClass:
    """Class of a run from its shifts in nats, one for each answer, NaN where an answer has none.

    Deterministic if the 95% interval of the mean shift lies below -delta, exploratory if above +delta, else
    balanced. Undefined with fewer than ENOUGH shifts. Raises UserError for a negative delta.
    """
    if not 0.0 <= delta < float("inf"):
        raise UserError(f"--delta is {delta}: a number of nats from 0 is needed")
    values = np.asarray(shifts, np.float64)
    shift, answers = bootstrap(values), int(np.sum(~np.isnan(values)))
    label = BALANCED
    if answers < ENOUGH:
        label = UNDEFINED_CLASS
    elif shift.high < -delta:
        label = DETERMINISTIC
    elif shift.low > delta:
        label = EXPLORATORY
    return DynamicsClass(label, shift, delta, answers, values.size - answers)


def same_class(one: DynamicsClass, other: DynamicsClass) -> bool | None:
    """Whether two runs have the same class; None if either has none."""
    return one.label == other.label if one.defined and other.defined else None


def class_name(label: str, left_out: int) -> str:
    """A class for a cell of a table: its label or why there is none, and how many answers have no say."""
    name = TOO_FEW if label == UNDEFINED_CLASS else label
    return f"{name} ({left_out} left out)" if left_out else name


def answers_text(model_class: DynamicsClass) -> str:
    """How many answers decide a class, and how many are left out, as part of a sentence."""
    answers, left_out = model_class.answers, model_class.left_out
    text = f"{answers} {'answer has' if answers == 1 else 'answers have'} a shift"
    if not model_class.defined:
        text += f", at least {ENOUGH} are needed"
    return f"{text}; {left_out} under {SHORTEST} tokens left out" if left_out else text
