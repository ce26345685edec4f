"""Draws docs/picture.svg from the runs of `edge demo`: `python -m tools.picture runs/demo/nano-llama`.

One answer's tokens with their output entropy in full precision and, on the same tokens, in 4 bits; KL by
token; the change of attention entropy by layer and head over all answers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

from edge.analysis.divergence import compare
from edge.analysis.layers import HeadChange
from edge.runs.run_directory import Run

PAGE = Path(__file__).resolve().parent.parent / "docs" / "picture.svg"
# Pixels; CHARACTER is the advance of the 14 px monospaced font.
WIDTH, MARGIN, CHARACTER, LINE = 880, 20, 8.6, 66
LONGEST = 40  # tokens
# Upper edge in nats and colour of each level of output entropy.
LEVELS = (
    (0.1, "#9aa0a6"),
    (0.7, "#2a9d57"),
    (1.5, "#e3b505"),
    (2.5, "#f07c1b"),
    (float("inf"), "#d7263d"),
)
STYLE = """text{font:13px sans-serif;fill:#1f2328}.t{font:14px monospace;white-space:pre}.s{font-size:11px;fill:#656d76}
.b{fill:#fff}.k{fill:#6f42c1}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.s{fill:#9198a1}.b{fill:#0d1117}.k{fill:#b392f0}}"""


class Token(NamedTuple):
    """Text of a token, both models' output entropies in nats, and KL(full || 4 bits) in nats."""

    text: str
    full: float
    quantised: float
    kl: float


def colour(entropy: float) -> str:
    """The colour of an entropy in nats."""
    return next(shade for edge, shade in LEVELS if entropy <= edge)


def most_changed(full: Run, forced: Run) -> tuple[str, list[Token]]:
    """The question whose answer of at most LONGEST tokens has the largest sum of KL, and its tokens."""
    names = ["question_index", "step", "token", "output_entropy"]
    one, other = full.steps(names), forced.steps([*names, "kl"])
    answers: dict[int, list[Token]] = {}
    for index, text, before, after, kl in zip(
        *(one.column(name).to_pylist() for name in ("question_index", "token", "output_entropy")),
        *(other.column(name).to_pylist() for name in ("output_entropy", "kl")),
        strict=True,
    ):
        answers.setdefault(index, []).append(Token(text, before, after, kl))
    short = {index: tokens for index, tokens in answers.items() if len(tokens) <= LONGEST}
    chosen = max(short, key=lambda index: sum(token.kl for token in short[index]))
    rows = full.answers(["question_index", "question"]).to_pylist()
    question = next(row["question"] for row in rows if row["question_index"] == chosen)
    return question, short[chosen]


def text_at(x: float, y: float, text: str, kind: str = "") -> str:
    """A text element of the style `kind`; y is its base line."""
    style = f" class='{kind}'" if kind else ""
    return f"<text x='{x:.1f}' y='{y:.1f}'{style}>{escape(text)}</text>".replace("'", '"')


def box(x: float, y: float, width: float, height: float, fill: str, title: str) -> str:
    """A rectangle with a tooltip; `fill` is a class of the style sheet or a colour."""
    paint = f'class="{fill}"' if fill.isalpha() else f'fill="{fill}"'
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f"<rect {place} {paint}><title>{escape(title)}</title></rect>"


def answer(tokens: Sequence[Token], top: float, scale: float) -> tuple[list[str], float]:
    """Tokens over two strips (full above, 4 bits below) and a bar of KL; also the y below them.

    `scale` is the pixels for a nat of KL.
    """
    parts, x, y = [], float(MARGIN), top
    for token in tokens:
        text = token.text.strip("\n").replace("\n", " ") or "·"
        width = CHARACTER * len(text)
        if x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + LINE
        title = f"full precision {token.full:.2f} nats, 4 bits {token.quantised:.2f}, KL {token.kl:.3f}"
        parts += [text_at(x, y, text, "t"), box(x, y + 6, width - 1, 7, colour(token.full), title)]
        parts += [box(x, y + 15, width - 1, 7, colour(token.quantised), title)]
        parts += [box(x, y + 24, width - 1, max(0.5, token.kl * scale), "k", title)]
        x += width
    return parts, y + LINE


def legend(y: float, largest: float) -> Iterator[str]:
    """The colours of entropy and the scale of the bars."""
    yield text_at(MARGIN, y, "output entropy in nats: upper strip full precision, lower strip 4 bits", "s")
    x = MARGIN + 385.0
    for (edge, shade), low in zip(LEVELS, ("0", *(f"{edge:g}" for edge, _ in LEVELS)), strict=False):
        yield box(x, y - 9, 14, 10, shade, "")
        yield text_at(x + 18, y, f"{low} to {edge:g}" if edge < float("inf") else f"above {low}", "s")
        x += 84
    bars = f"bars: KL(full || 4 bits) of the next token's distribution, the longest {largest:.2g} nats"
    yield text_at(MARGIN, y + 18, bars, "s")


def heads(change: HeadChange, top: float) -> tuple[list[str], float]:
    """Map of layers and heads: red where 4 bits raised attention entropy, blue where lowered; the y below."""
    rows, columns = change.mean.shape
    largest = float(abs(change.mean).max()) or 1.0
    side, left = 22, MARGIN + 60
    title = (
        "change of attention entropy by layer and head, all answers: blue lower, red higher, "
        f"at most {largest:.2g} nats"
    )
    parts = [text_at(MARGIN, top, title, "s")]
    for layer in range(rows):
        parts.append(text_at(MARGIN, top + 25 + layer * side, f"layer {layer + 1}", "s"))
        for head in range(columns):
            value = float(change.mean[layer, head])
            shade = "#d7263d" if value > 0 else "#1f6feb"
            name = f"layer {layer + 1}, head {head + 1}: {value:+.4f} nats"
            cell = box(left + head * 3 * side, top + 10 + layer * side, 3 * side - 2, side - 2, shade, name)
            opacity = max(0.04, abs(value) / largest)
            parts.append(cell.replace("<rect", f'<rect fill-opacity="{opacity:.2f}"'))
    return parts, top + 10 + rows * side


def picture(folder: Path) -> str:
    """The SVG, from FOLDER/fp32 (with --reference) and FOLDER/int4-forced."""
    full, forced = Run.open(folder / "fp32"), Run.open(folder / "int4-forced")
    question, tokens = most_changed(full, forced)
    change = next(each for each in compare(full, forced).heads if each.metric == "attention_entropy")
    largest = max(token.kl for token in tokens)
    strips, y = answer(tokens, 68, 24 / largest)
    key = list(legend(y, largest))
    map_parts, bottom = heads(change, y + 46)
    both = f"{full.manifest.label} and {forced.manifest.label.replace(' forced', '')}"
    title = f"{both} on the same tokens: {question}"
    notice = wrap(full.manifest.notice, 130)
    notes = [text_at(MARGIN, bottom + 24 + 16 * i, line, "s") for i, line in enumerate(notice)]
    body = [text_at(MARGIN, 30, title), *strips, *key, *map_parts, *notes]
    height = bottom + MARGIN + 16 * len(notes)
    size = f'viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'
    canvas = f'<rect class="b" width="{WIDTH}" height="{height:.0f}"/>'
    start = [head, f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", canvas]
    return "\n".join([*start, *body, "</svg>"]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("runs/demo/nano-llama"),
        help="one model's runs of `edge demo`",
    )
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    options.out.write_text(picture(options.folder), encoding="utf-8")


if __name__ == "__main__":
    main()
