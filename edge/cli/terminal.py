"""Text for a terminal: escaped model text, colours of entropy, bars, and views drawn in place."""

from __future__ import annotations

import math
import time
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.segment import Segment, Segments
from rich.text import Text

# Unicode categories that control a terminal instead of being printed: controls, format characters (they
# reorder or hide text), halves of surrogate pairs, line and paragraph separators. The two joiners are format
# characters that scripts and emoji need.
CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"
BARS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 60
FIRST_LINE = 10.0  # seconds until the first line of a log
GROWTH = 1.5  # each time of a line over the time of the last: a job of a day logs some 25 lines
HIDE, SHOW, NO_WRAP, WRAP = "\x1b[?25l", "\x1b[?25h", "\x1b[?7l", "\x1b[?7h"
CLEAR_LINE, CLEAR_BELOW, NEXT = "\x1b[2K", "\x1b[J", "\n"


def escaped(text: str, kept: str = "\n\t") -> str:
    """The text with control characters written as \\x1b, \\u202e and so on, except those in `kept`."""
    if text.isprintable():
        return text
    safe = kept + JOINERS
    return "".join(
        c if c in safe or unicodedata.category(c) not in CONTROL else c.encode("unicode_escape").decode()
        for c in text
    )


def unmarked(text: str) -> str:
    """The escaped text where rich reads markup: [bold] is printed as it stands."""
    return escape(escaped(text))


def one_line(text: str, label: str = "", style: str = "dim") -> Text:
    """A label and untrusted text as one line, which a view cuts to its width."""
    flat = escaped(" ".join(text[:2000].split()))  # a terminal is narrower
    return Text(f"{label}{flat}", style=style, no_wrap=True, overflow="ellipsis")


class Level(NamedTuple):
    """Style of entropies up to `edge` nats: `colour`, or `plain` without colours (NO_COLOR)."""

    edge: float
    colour: str
    plain: str


# From sure to unsure. Shade and hue both change, so that the order survives colour blindness.
LEVELS = (
    Level(0.1, "grey62", "dim"),
    Level(0.7, "green", "none"),
    Level(1.5, "yellow", "underline"),
    Level(2.5, "dark_orange", "bold"),
    Level(math.inf, "bold red", "reverse"),
)


def style_of(entropy: float, *, coloured: bool = True) -> str:
    """The style of rich for an entropy in nats."""
    level = next(level for level in LEVELS if entropy <= level.edge)
    return level.colour if coloured else level.plain


def legend(*, coloured: bool = True) -> Text:
    """One line with each level in its style."""
    line = Text("entropy in nats: ")
    for level in LEVELS:
        name = f"to {level.edge:g}" if math.isfinite(level.edge) else "above"
        line.append(name, style=level.colour if coloured else level.plain).append(" ")
    return line


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH, least: float = 1.0) -> str:
    """The last `width` values as bars; NaN is a gap.

    The tallest bar stands for the largest of them, or for `least` where all are smaller.
    """
    latest = values[-width:]
    top = max(least, *(v for v in latest if not math.isnan(v)), 0.0)
    return "".join(
        " " if math.isnan(v) else BARS[min(len(BARS) - 1, max(0, int(v / top * len(BARS))))] for v in latest
    )


def bar(share: float, width: int) -> Text:
    """A bar of `width` columns, `share` (0 to 1) of it filled."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return Text("━" * filled, style="green").append("─" * (width - filled), style="dim")


def duration(seconds: float) -> str:
    """A duration written as 0:07, 1:02:03 or 2 d 03:04:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02}:{minute:02}:{second:02}"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


class LogSchedule:
    """The times of a log's lines: FIRST_LINE seconds after the start, then GROWTH times the last time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started, self._next = clock, clock(), FIRST_LINE

    def due(self) -> bool:
        """Whether a line is due; if so, sets the time of the next."""
        passed = self._clock() - self._started
        if passed < self._next:
            return False
        self._next = passed * GROWTH
        return True


def can_draw(console: Console) -> bool:
    """Whether the console is a terminal whose cursor can be moved.

    rich alone does not tell: FORCE_COLOR makes it take a pipe for a terminal.
    """
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


def up(rows: int) -> str:
    return f"\x1b[{rows}A" if rows else ""


class Frame:
    """A view that is redrawn in the same place; `due` once in `every` seconds.

    Each drawing is one write that begins and ends with the terminal in its normal state: cursor visible,
    colours reset, long lines wrapped. A process that ends between two drawings therefore leaves the terminal
    in order. Within a drawing lines are not wrapped. Where terminal and program disagree on the width of a
    character, only that line is cut.
    """

    def __init__(self, console: Console, every: float = 0.1) -> None:
        self._console, self._every = console, every
        self._widths: list[int] = []  # columns of each line on the screen
        self._lines: list[str] = []  # the lines on the screen as they were written
        self._size = (0, 0)
        self._drawn = -math.inf

    @property
    def due(self) -> bool:
        return time.monotonic() - self._drawn >= self._every

    def draw(self, view: RenderableType) -> None:
        """Draws the changed lines of the view over the last one.

        Of a view that is higher than the terminal, only the end is drawn.
        """
        size = self._console.width, self._console.height
        whole = self._console.render_lines(view, self._console.options.update(height=None), pad=False)
        lines = whole[-max(1, size[1] - 1) :]
        written = [self._ansi(line) for line in lines]
        same = [size == self._size and old == new for old, new in zip(self._lines, written, strict=False)]
        same += [False] * (len(written) - len(same))
        body = "".join(
            NEXT if kept else f"{CLEAR_LINE}{line}{NEXT}" for kept, line in zip(same, written, strict=True)
        )
        self._write(f"{HIDE}{NO_WRAP}{self._to_top()}{body}{CLEAR_BELOW}{WRAP}{SHOW}")
        self._lines, self._size = written, size
        self._widths = [Segment.get_line_length(line) for line in lines]
        self._drawn = time.monotonic()

    def clear(self) -> None:
        """Removes the view, so that other text can be printed in its place."""
        rows = self._rows()
        # Line by line: a terminal may keep a screen that is cleared as a whole in its scrollback.
        self._write(f"{self._to_top()}{(CLEAR_LINE + NEXT) * rows}{up(rows)}" if rows else "")
        self._widths, self._lines = [], []

    def _rows(self) -> int:
        """Rows of the view on the screen; a terminal that became narrower has wrapped its lines."""
        width = max(1, self._console.width)
        return sum(max(1, -(-line // width)) for line in self._widths)

    def _to_top(self) -> str:
        return f"\r{up(self._rows())}"

    def _ansi(self, line: list[Segment]) -> str:
        with self._console.capture() as captured:
            self._console.print(Segments(Segment.simplify(line)), end="", soft_wrap=True)
        return captured.get()

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
