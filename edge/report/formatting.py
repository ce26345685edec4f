"""Numbers, intervals and names of metrics as text: what tables, sentences and figures share."""

from __future__ import annotations

import math
from collections.abc import Callable

from edge.analysis.divergence import Divergence
from edge.analysis.intervals import ENOUGH, Interval
from edge.signals.groups import BY_NAME
from edge.signals.streaming import SHORTEST

ABSENT = "–"
FEW = "~"  # before the bounds of an interval of few answers
FEW_NOTE = (
    f"{FEW} before an interval: fewer than {ENOUGH} answers; "
    "that of a mean takes them as normal (Student’s t)"
)
UNDEFINED_NOTE = (
    f"not defined. An answer under {SHORTEST} tokens has no first and last 20% and no shift, "
    "one of a single token no slope"
)


def metric_name(metric: str) -> str:
    """The title of a metric; a name that the table of metrics does not have stays as it is."""
    return BY_NAME[metric].title if metric in BY_NAME else metric


def series_name(series: str) -> str:
    """The title of a series by token: a metric or the position."""
    return "Position (KV cache)" if series == "position" else metric_name(series)


def layer_name(layer: int) -> str:
    """The name of a layer in a sentence: layers count from 1, 0 is the embedding."""
    return "the embedding" if layer == 0 else f"layer {layer}"


def number(value: float, *, signed: bool = False, digits: int = 4) -> str:
    """A number to `digits` significant digits with a true minus; an en dash where it is not finite."""
    if not math.isfinite(value):
        return ABSENT
    text = f"{value:{'+' if signed else ''}.{digits}g}"
    return text.replace("-", "−") if "e" not in text else text.replace("e-0", "e-").replace("-", "−")


def interval(value: Interval, *, signed: bool = False, scale: float = 1.0, unit: str = "") -> str:
    """The text "value [low, high]", to two digits of the interval's half-width.

    Without an interval, as for a single question, it is the value alone. FEW stands before the bounds of few
    answers.
    """
    middle, low, high = (bound * scale for bound in value[:3])
    mark = FEW if value.marked else ""
    if not math.isfinite(low) or not high > low:
        text = number(middle, signed=signed) + (unit if math.isfinite(middle) else "")
        if math.isfinite(low):
            text += f" {mark}[{number(low, signed=signed)}, {number(high, signed=signed)}]"
        return text
    decimals = min(9, max(0, 1 - math.floor(math.log10((high - low) / 2))))
    sign = "+" if signed else ""
    texts = [f"{bound:{sign}.{decimals}f}".replace("-", "−") for bound in (middle, low, high)]
    return f"{texts[0]}{unit} {mark}[{texts[1]}, {texts[2]}]"


def percent(value: Interval) -> str:
    """A share with its interval, in percent."""
    return interval(value, scale=100, unit=" %")


def integer(value: int) -> str:
    """A whole number with narrow spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def kl_text(divergence: Divergence) -> str:
    """Mean KL(full ‖ quantised) in nats and its standard error; an en dash for runs that are not forced."""
    if divergence.forced is None:
        return ABSENT
    kl = divergence.forced.kl
    if kl is None:
        return "reference kept no distributions"
    return f"{number(kl.mean, digits=3)} ± {number(kl.error, digits=2)}"


def change_of(metric: str) -> Callable[[Divergence], str]:
    """A function that writes the change of `metric` with its interval."""

    def change_text(divergence: Divergence) -> str:
        changes = (row.change for row in divergence.changes if row.metric == metric)
        return next((interval(change, signed=True) for change in changes), ABSENT)

    return change_text
