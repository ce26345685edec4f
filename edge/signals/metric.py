"""What a row of the table of metrics says."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import NamedTuple

from edge.artifact import ModelSpec


class Source(enum.StrEnum):
    """What a metric is computed from."""

    LOGITS = "logits"
    ATTENTION = "attention row"
    HIDDEN = "residual stream"
    FORCED = "both models"


class Level(enum.StrEnum):
    """TOKEN: a column of `steps`. ANSWER: in `answers` alone."""

    TOKEN = "token"  # noqa: S105 - a level
    ANSWER = "answer"


class Shape(enum.StrEnum):
    """Numbers in one cell: K kept tokens, L layers, H query heads; row-major."""

    SCALAR = ""
    KEPT = "K"
    LAYERS = "L"
    STREAMS = "L+1"
    HEADS = "L*H"

    def size(self, model: ModelSpec) -> int:
        """Numbers in a cell for a model of this shape; KEPT, which a run chooses, counts as none."""
        return {
            Shape.SCALAR: 1,
            Shape.KEPT: 0,
            Shape.LAYERS: model.layers,
            Shape.STREAMS: model.layers + 1,
            Shape.HEADS: model.layers * model.heads,
        }[self]


class Range(NamedTuple):
    """The least and the largest number that something can be."""

    least: float
    most: float

    @property
    def change(self) -> Range:
        """The range of a difference of two numbers of this range."""
        return Range(self.least - self.most, self.most - self.least)


ANY = Range(-math.inf, math.inf)
NOT_NEGATIVE = Range(0.0, math.inf)
SHARE, COSINE = Range(0.0, 1.0), Range(-1.0, 1.0)
OF_UNIT = {"share": SHARE, "probability": SHARE, "cosine": COSINE}  # other units are not negative


class Kind(enum.StrEnum):
    """Which runs have a metric."""

    EVERY = ""
    REFERENCE = "`--reference`"
    FORCED = "forced"
    EXACT = "forced, `--exact`"


class Summary(enum.Enum):
    """Whether `answers` has METRIC_STATISTIC of each answer, and whether those are tried as predictions."""

    NONE = enum.auto()
    KEPT = enum.auto()
    PREDICTS = enum.auto()


class Shown(enum.Enum):
    """Tables and figures that show a metric."""

    COMPARE = enum.auto()  # `edge compare`: change by metric
    LAYERS = enum.auto()  # change by layer, in the terminal and in the report
    GLANCE = enum.auto()  # the report: what changes, at a glance
    MATRIX = enum.auto()  # the report: models by precision
    CURVE = enum.auto()  # the report: along the answer
    PAPER_LAYERS = enum.auto()  # `edge paper`: means by layer
    LIVE = enum.auto()  # `edge ask --json`: a field of each token


HIGHER, LOWER = 1, -1  # the direction that is taken to mean "less certain", before looking at any outcome


@dataclass(frozen=True)
class Metric:
    """One metric.

    `first_row` is the first row of an answer that has it. `less_certain` is HIGHER or LOWER. `kind` says
    which runs have it, `dtype` what a number is in Parquet. `series` is the column of `steps` whose mean
    over layers is the metric's one number a token, where that is not its own. `summaries` are the statistics
    that `edge compare` shows beside the mean, `warnings` those by which it says whether the metric warns of
    untrue answers. `since` is the first version whose runs have it, "" for 0.2.0 and before.
    """

    name: str
    source: Source
    shape: Shape
    unit: str
    title: str
    definition: str
    level: Level = Level.TOKEN
    first_row: int = 0
    less_certain: int = HIGHER
    kind: Kind = Kind.EVERY
    dtype: str = "float32"
    summary: Summary = Summary.NONE
    series: str = ""
    summaries: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    shown: frozenset[Shown] = frozenset()
    since: str = ""

    @property
    def range(self) -> Range:
        """The range of one number, and so of every mean; of lists that have no mean any."""
        return ANY if self.shape == Shape.KEPT else OF_UNIT.get(self.unit, NOT_NEGATIVE)

    def range_of(self, statistic: str) -> Range:
        """The range of a statistic of one answer's numbers."""
        least, most = self.range
        others = {
            "sd": Range(0.0, (most - least) / 2),
            "shift": self.range.change,
            "slope": ANY,
            "slope_per_token": ANY,
            "spearman": COSINE,
        }
        return others.get(statistic, self.range)

    @property
    def is_list(self) -> bool:
        return self.shape != Shape.SCALAR

    @property
    def is_tapped(self) -> bool:
        """Whether it needs attention rows or hidden states."""
        return self.source in (Source.ATTENTION, Source.HIDDEN)

    @property
    def is_summarised(self) -> bool:
        return self.summary != Summary.NONE

    @property
    def series_column(self) -> str:
        """The column of `steps` that gives one number a token, "" for a metric without one: a mean over
        heads would need every head's number of every token."""
        own = self.level == Level.TOKEN and self.shape != Shape.HEADS
        return self.series or (self.name if own and self.is_summarised and self.kind == Kind.EVERY else "")

    @property
    def first_layer(self) -> int:
        """Number of the first layer in a cell: 0 is the embedding output."""
        return 0 if self.shape == Shape.STREAMS else 1


def places(*shown: Shown) -> frozenset[Shown]:
    return frozenset(shown)
