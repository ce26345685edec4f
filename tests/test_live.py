"""The terminal view of an answer: nothing a model says may reach the terminal as a command or break the
layout."""

from __future__ import annotations

import io
import math
import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from edge.analysis.intervals import Interval
from edge.cli import terminal
from edge.cli.screen import Body, Screen
from edge.cli.tables import interval, number


def console(width: int = 80, height: int = 24) -> Console:
    return Console(width=width, height=height, file=io.StringIO(), force_terminal=True, color_system="256")


def test_what_steers_a_terminal_is_written_out() -> None:
    assert terminal.escaped("a\x1b[2Jb\x07c\x9b1md\x7f\r") == r"a\x1b[2Jb\x07c\x9b1md\x7f\r"
    assert (
        terminal.escaped("\u202egnp.exe\u2066\u2028\U000e0041\udc41")
        == r"\u202egnp.exe\u2066\u2028\U000e0041\udc41"
    )
    assert (
        terminal.escaped("line\n\ttab é 漢 🙂 👩\u200d💻 a\u0301")
        == "line\n\ttab é 漢 🙂 👩\u200d💻 a\u0301"
    )
    assert terminal.escaped("line\nmore", kept="") == r"line\nmore"


@given(st.text())
def test_nothing_that_steers_is_left(text: str) -> None:
    left = {unicodedata.category(c) for c in terminal.escaped(text) if c not in "\n\t\u200c\u200d"}
    assert left.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})


def test_colours_go_from_sure_to_unsure() -> None:
    for coloured in (True, False):
        styles = [terminal.style_of(entropy, coloured=coloured) for entropy in (0.0, 0.5, 1.0, 2.0, 9.0)]
        assert len(set(styles)) == 5
        assert terminal.style_of(0.1, coloured=coloured) == styles[0]


def test_the_sparkline_shows_the_last_values_at_their_height() -> None:
    assert terminal.sparkline([0.0, 1.0, 2.0]) == "▁▅█"
    assert terminal.sparkline([0.0, 0.1]) == "▁▁"  # below one nat nothing looks tall
    assert terminal.sparkline([0.0, math.nan, 0.4], least=0.4) == "▁ █"
    assert terminal.sparkline([math.nan, math.nan]) == "  "
    assert len(terminal.sparkline([1.0] * 500)) == terminal.SPARK_WIDTH


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0:00"), (59.6, "1:00"), (3723, "1:02:03"), (2 * 86400 + 3723, "2 d 01:02:03")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert terminal.duration(seconds) == shown


@pytest.mark.parametrize(("share", "filled"), [(0.0, 0), (0.5, 5), (1.0, 10), (7.0, 10)])
def test_a_bar_is_as_wide_as_asked_for(share: float, filled: int) -> None:
    made = terminal.bar(share, 10).plain
    assert len(made) == 10
    assert made.count("━") == filled


def test_undefined_numbers_show_as_a_dash() -> None:
    assert number(math.nan) == "-"
    assert interval(Interval(1.0, math.nan, math.nan)) == "1"
    assert interval(Interval(0.5, -0.25, 1.0), signed=True) == "+0.5 [-0.25, +1]"


def test_a_long_answer_is_cut_to_the_terminal_while_it_runs_and_whole_at_the_end() -> None:
    screen, here = Screen("model", "notice"), console()
    for count in range(400):
        screen._body.add(f"word{count} ", "green")
    here.print(screen.running(here))
    running = here.file.getvalue()
    assert "word399" in running
    assert "word0 " not in running
    assert len(running.splitlines()) <= 24
    here.print(screen.whole(80))
    assert "word0 " in here.file.getvalue()


PIECES = st.lists(
    st.sampled_from(["word", " ", " and", "\n", "漢字", "🙂", "e\u0301", "x" * 30, "    ", "."]),
    min_size=1,
    max_size=60,
)


@given(PIECES, st.integers(4, 40))
def test_text_that_grows_is_wrapped_as_if_it_had_come_at_once(pieces: list[str], width: int) -> None:
    here, body = console(width), Body()
    shown: list[Text] = []
    for piece in pieces:
        body.add(piece, "green")
        shown = body.end(here, 1000)
    whole = body.whole()
    # rich folds a longer word elsewhere when a space follows; a line's first word has the spaces before it.
    words = [word for line in whole.plain.split("\n") for word in re.findall(r"^\s*\S+|\S+", line)]
    if all(cell_len(word) <= width for word in words):
        assert [line.plain.rstrip() for line in shown] == [
            line.plain.rstrip() for line in whole.wrap(here, width)
        ]
    assert "".join("".join(line.plain for line in shown).split()) == "".join(whole.plain.split())
    assert all(cell_len(line.plain.rstrip()) <= width for line in shown)


def test_a_frame_is_drawn_over_the_last_one_and_leaves_the_terminal_sane() -> None:
    here = console(width=20, height=6)
    frame = terminal.Frame(here)
    frame.draw(Text("\n".join(f"line {i}" for i in range(9)), style="red"))
    first = here.file.getvalue()
    assert "line 8" in first
    assert "line 3" not in first  # a view that is higher than the terminal would scroll
    assert first.count("\n") == 5
    frame.draw(Text("short"))
    second = here.file.getvalue().removeprefix(first)
    assert second.startswith(f"{terminal.HIDE}{terminal.NO_WRAP}\r\x1b[5A")
    frame.draw(Text("short\nand more"))
    third = here.file.getvalue().removeprefix(first + second)
    assert "short" not in third  # what has not changed is not sent again, over a slow line
    assert f"\n{terminal.CLEAR_LINE}and more\n" in third
    for drawn in (first, second, third):
        assert drawn.endswith(f"{terminal.CLEAR_BELOW}{terminal.WRAP}{terminal.SHOW}")
        assert drawn.rfind("\x1b[0m") >= drawn.rfind("\x1b[31m")
    frame.clear()
    assert here.file.getvalue().endswith("\r\x1b[2A\x1b[2K\n\x1b[2K\n\x1b[2A")
    before = here.file.getvalue()
    frame.clear()
    assert here.file.getvalue() == before


def test_one_line_of_an_answer_is_cut_to_the_width() -> None:
    here = console(width=20)
    (segments,) = here.render_lines(
        terminal.one_line("many\nwords \x1b[31m in 漢字漢字漢字漢字", "last "), pad=False
    )
    line = "".join(segment.text for segment in segments)
    assert cell_len(line) <= 20
    assert line.startswith(r"last many words \x1")
    assert line.endswith("…")
