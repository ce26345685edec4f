"""Draws docs/picture.svg from the runs of `edge demo`: `python -m tools.picture`.

One answer's tokens with their output entropy in full precision and, on the same tokens, in 4 bits; KL by
token, and where 4 bits would choose another token; the change of attention entropy by layer and head over
all answers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from textwrap import shorten, wrap
from typing import NamedTuple

from edge.analysis.divergence import compare
from edge.analysis.layers import HeadChange
from edge.runs.run_directory import Run

PAGE = Path(__file__).resolve().parent.parent / "docs" / "picture.svg"
# Pixels. Row labels stand between MARGIN and LEFT; CHARACTER is the width of a character of a token.
WIDTH, MARGIN, LEFT, CHARACTER = 880, 20, 74, 8.4
TEXT_HEIGHT, STRIP, BARS, LINE = 10, 11, 36, 104
CELL, CELL_HEIGHT = 60, 15  # the widest cell of the map
LONGEST = 40  # tokens
# Upper edge in nats and colour of each level of output entropy.
LEVELS = (
    (0.1, "#9aa0a6"),
    (0.7, "#2a9d57"),
    (1.5, "#e3b505"),
    (2.5, "#f07c1b"),
    (float("inf"), "#d7263d"),
)
STYLE = """text{font:13px sans-serif;fill:#1f2328}.h{font-size:17px;font-weight:600}
.t{font:14px monospace;white-space:pre}.s{font-size:11.5px;fill:#59636e}
.m{font-size:11px;text-anchor:middle;fill:#6f42c1}
.b{fill:#fff}.k{fill:#6f42c1}.r{stroke:#d1d9e0}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.b{fill:#0d1117}.k,.m{fill:#b392f0}
.r{stroke:#3d444d}}"""


class Token(NamedTuple):
    """Text of a token; by full precision and by 4 bits on the same tokens: output entropy in nats and
    probability of the token; KL(full || 4 bits) in nats; whether both find the same token likeliest."""

    text: str
    full: float
    quantised: float
    full_probability: float
    quantised_probability: float
    kl: float
    same: bool


class Answer(NamedTuple):
    """A question, the tokens of full precision's answer, and what 4 bits answer by themselves."""

    question: str
    tokens: list[Token]
    alone: str


def colour(entropy: float) -> str:
    """The colour of an entropy in nats."""
    return next(shade for edge, shade in LEVELS if entropy <= edge)


def most_changed(full: Run, forced: Run, alone: Run) -> Answer:
    """The answer of at most LONGEST tokens with the largest sum of KL."""
    names = ["question_index", "step", "token", "output_entropy", "surprisal"]
    one, other = full.steps(names), forced.steps([*names, "kl", "same_top1"])
    answers: dict[int, list[Token]] = {}
    for index, text, before, sure, after, surprise, kl, same in zip(
        *(
            one.column(name).to_pylist()
            for name in ("question_index", "token", "output_entropy", "surprisal")
        ),
        *(other.column(name).to_pylist() for name in ("output_entropy", "surprisal", "kl", "same_top1")),
        strict=True,
    ):
        token = Token(text, before, after, math.exp(-sure), math.exp(-surprise), kl, same)
        answers.setdefault(index, []).append(token)
    short = {index: tokens for index, tokens in answers.items() if len(tokens) <= LONGEST}
    if not short:
        raise SystemExit(
            f"{full.folder} has no answer of at most {LONGEST} tokens to draw: give runs with more questions"
        )
    chosen = max(short, key=lambda index: sum(token.kl for token in short[index]))
    rows = alone.answers(["question_index", "question", "answer"]).to_pylist()
    row = next(row for row in rows if row["question_index"] == chosen)
    return Answer(row["question"], short[chosen], row["answer"])


def text_at(x: float, y: float, text: str, kind: str = "", width: float = 0) -> str:
    """A text element of the style `kind`, stretched to `width` where one is given; y is its base line."""
    style = f' class="{kind}"' if kind else ""
    length = f' textLength="{width:.1f}" lengthAdjust="spacingAndGlyphs"' if width else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}{length}>{escape(text, quote=False)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, title: str, opacity: float = 1) -> str:
    """A rectangle with a tooltip; `fill` is a class of the style sheet or a colour."""
    paint = f'class="{fill}"' if fill.isalpha() else f'fill="{fill}"'
    faint = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f"<rect {place} {paint}{faint}><title>{escape(title)}</title></rect>"


def shown(text: str) -> str:
    """A token's text as one word of a line; a token without any, as that of the end, is a dot."""
    return text.strip("\n").replace("\n", " ") or "·"


def lines(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """The tokens of each line: as many as fit."""
    line: list[Token] = []
    for token in tokens:
        if (
            line
            and sum(len(shown(each.text)) for each in (*line, token)) * CHARACTER > WIDTH - MARGIN - LEFT
        ):
            yield line
            line = []
        line.append(token)
    yield line


def strips(tokens: Sequence[Token], top: float) -> list[str]:
    """A line of tokens over two strips of entropy (full above, 4 bits below) and bars of KL."""
    largest = max(token.kl for token in tokens)
    base = top + TEXT_HEIGHT + 2 * STRIP + 4 + BARS
    parts, x = [], float(LEFT)
    for name, y in (("full", 0.0), ("4 bits", STRIP + 1), ("KL", STRIP + 6 + BARS)):
        parts.append(text_at(MARGIN, top + TEXT_HEIGHT + STRIP - 2 + y, name, "s"))
    for token in tokens:
        text = shown(token.text)
        width = CHARACTER * len(text)
        title = (
            f"full precision {token.full:.2f} nats, 4 bits {token.quantised:.2f}, KL {token.kl:.3f}; the "
            f"token has {token.full_probability:.0%} and {token.quantised_probability:.0%}"
        )
        height = max(0.5, BARS * token.kl / largest)
        parts += [text_at(x, top, text, "t", width)]
        parts += [box(x, top + TEXT_HEIGHT, width - 1, STRIP, colour(token.full), title)]
        parts += [box(x, top + TEXT_HEIGHT + STRIP + 1, width - 1, STRIP, colour(token.quantised), title)]
        parts += [box(x, base - height, width - 1, height, "k", title)]
        if not token.same:
            parts.append(text_at(x + width / 2, base + 13, "≠", "m"))
        x += width
    parts.append(f'<path class="r" d="M{LEFT} {base + 0.5:.1f}H{x:.1f}"/>')
    return parts


def legend(tokens: Sequence[Token], y: float) -> Iterator[str]:
    """The colours of entropy, and what bars and marks are, with the largest KL as an example."""
    yield text_at(MARGIN, y, "Colours: output entropy (uncertainty) in nats", "s")
    x = MARGIN + 352.0
    for (edge, shade), low in zip(LEVELS, ("0", *(f"{edge:g}" for edge, _ in LEVELS)), strict=False):
        yield box(x, y - 9, 14, 10, shade, "")
        yield text_at(x + 19, y, f"{low} to {edge:g}" if edge < float("inf") else f"above {low}", "s")
        x += 96
    worst = max(tokens, key=lambda token: token.kl)
    bars = (
        f"Bars: KL(full || 4 bits). It is largest, {worst.kl:.2g} nats, at the token "
        f"“{shown(worst.text).strip()}”: probability {100 * worst.full_probability:.2g}% in full precision, "
        f"{100 * worst.quantised_probability:.2g}% in 4 bits."
    )
    yield text_at(MARGIN, y + 19, bars, "s")
    yield text_at(MARGIN, y + 38, "≠: here 4 bits would choose another token", "s")


def heads(change: HeadChange, top: float) -> tuple[list[str], float]:
    """Map of layers (across) and heads (down): red where 4 bits raised attention entropy, blue where lowered.

    Also the y below it.
    """
    layers, rows = change.mean.shape
    largest = float(abs(change.mean).max()) or 1.0
    width = min(CELL, (WIDTH - MARGIN - LEFT) / layers)
    parts = []
    for head in range(rows):
        y = top + head * CELL_HEIGHT
        parts.append(text_at(MARGIN, y + CELL_HEIGHT - 4, f"head {head + 1}", "s"))
        for layer in range(layers):
            value = float(change.mean[layer, head])
            shade = "#d7263d" if value > 0 else "#1f6feb"
            name = f"layer {layer + 1}, head {head + 1}: {value:+.4f} nats"
            opacity = max(0.04, abs(value) / largest)
            x = LEFT + layer * width
            parts.append(box(x, y, width - 1, CELL_HEIGHT - 1, shade, name, opacity))
    bottom = top + rows * CELL_HEIGHT
    for layer in range(layers):
        if layer == 0 or (layer + 1) % 5 == 0 or layers < 10:
            name = f"layer {layer + 1}" if layer == 0 else f"{layer + 1}"
            parts.append(text_at(LEFT + layer * width, bottom + 13, name, "s"))
    return parts, bottom + 13


def picture(folder: Path) -> str:
    """The SVG, from FOLDER/fp32 (with --reference), FOLDER/int4 and FOLDER/int4-forced."""
    full, alone, forced = (Run.open(folder / name) for name in ("fp32", "int4", "int4-forced"))
    question, tokens, other = most_changed(full, forced, alone)
    divergence = compare(full, forced)
    change = next(each for each in divergence.heads if each.metric == "attention_entropy")
    both = f"{full.manifest.label} and {alone.manifest.label}"
    title = f"{both} on the same tokens: {question}"
    body = [
        text_at(MARGIN, 36, question, "h"),
        text_at(MARGIN, 58, f"{full.manifest.label} answers; {alone.manifest.label} reads the same tokens:"),
    ]
    y = 92.0
    for line in lines(tokens):
        body += strips(line, y)
        y += LINE
    body += legend(tokens, y + 8)
    said = shorten(f"Left to itself, 4 bits answers: “{other}", 240, placeholder=" …") + "”"
    y += 76
    for text in wrap(said, 128):
        body.append(text_at(MARGIN, y, text))
        y += 18
    body.append(text_at(MARGIN, y + 18, "What 4 bits does to attention", "h"))
    described = (
        f"Change of attention entropy by layer and head, mean over {divergence.questions} questions. Red: "
        f"attention spreads more, blue: less; at most {float(abs(change.mean).max()):.2g} nats."
    )
    body.append(text_at(MARGIN, y + 38, described, "s"))
    cells, bottom = heads(change, y + 50)
    notice = wrap(full.manifest.notice, 140)
    notes = [text_at(MARGIN, bottom + 28 + 16 * i, line, "s") for i, line in enumerate(notice)]
    height = bottom + 24 + MARGIN + 16 * len(notes)
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    canvas = f'<rect class="b" width="{WIDTH}" height="{height:.0f}"/>'
    start = [head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", canvas]
    return "\n".join([*start, *body, *cells, *notes, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("runs/demo/smollm2-135m-instruct"),
        help="one model's runs of `edge demo`",
    )
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    options.out.write_text(picture(options.folder), encoding="utf-8")


if __name__ == "__main__":
    main()
