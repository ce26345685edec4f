"""One answer side by side, as the full and as the quantised model see it: tokens coloured by entropy,
the first divergence marked.

An HTML fragment. Every text of a model or a file goes through `escape`; what is not escaped is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from edge.report.model import Comparison, ModelGroup
from edge.runs.run_directory import Run

LONGEST = 60  # tokens of an answer that is understood at a glance
FULL_COLOUR = 80  # percent of the page's hot colour that the highest entropy of the two answers gets
HALF = "color-mix(in srgb, var(--hot) {}%, transparent)"


class Token(NamedTuple):
    """Its text, output entropy in nats, and whether the other model would have said it (None past its
    end)."""

    text: str
    entropy: float
    same: bool | None


class AnswerPair(NamedTuple):
    """Both answers to one question; `step` is the first divergence. Forced answers are of one text."""

    question: str
    forced: bool
    step: int
    full: list[Token]
    quantised: list[Token]


def side_by_side(group: ModelGroup) -> Markup:
    """The figure of the group's most damaged run that has an answer to show; empty where there is none."""
    for comparison in sorted(group.comparisons, key=lambda c: (c.quantised.forced, -damage_of(c))):
        pair = chosen(group.reference.run, comparison)
        if pair is not None:
            return figure(pair, group.reference.name, comparison.quantised.name)
    return Markup()


def damage_of(c: Comparison) -> float:
    """The larger, the more changed."""
    found = c.divergence
    if found.forced:
        return found.forced.kl.mean if found.forced.kl else 0.0
    return 1.0 - found.free.identical.value if found.free else 0.0


def chosen(full: Run, comparison: Comparison) -> AnswerPair | None:
    """Of answers of at most LONGEST tokens the one that parts furthest from both ends: what is shared shows,
    and what is not."""
    run, part = comparison.quantised.run, comparison.divergence.free
    one, other = tokens_of(full, []), tokens_of(run, ["same_top1"] if part is None else [])
    if part is None:
        steps = {q: i for q, tokens in other.items() if (i := first_other(tokens)) is not None}
    else:
        steps = {parting.question_index: parting.step for parting in part.first}
    short = [q for q in steps if max(len(side.get(q, [])) for side in (one, other)) <= LONGEST]
    if not short:
        return None
    best = max(
        short, key=lambda q: (min(steps[q], *(len(side.get(q, [])) - steps[q] for side in (one, other))), -q)
    )
    asked = full.answers(["question_index", "question"]).to_pylist()
    question = next(row["question"] for row in asked if row["question_index"] == best)
    return AnswerPair(question, part is None, steps[best], one.get(best, []), other.get(best, []))


def first_other(tokens: Sequence[Token]) -> int | None:
    """Where the model would have said something else first."""
    return next((i for i, token in enumerate(tokens) if not token.same), None)


def tokens_of(run: Run, extra: list[str]) -> dict[int, list[Token]]:
    found = {}
    for index, table in run.each_question(["token", "output_entropy", *extra]):
        same = table.column("same_top1").to_pylist() if extra else [None] * table.num_rows
        found[index] = [
            Token(*row)
            for row in zip(table.column(1).to_pylist(), table.column(2).to_pylist(), same, strict=True)
        ]
    return found


def figure(pair: AnswerPair, full: str, quantised: str) -> Markup:
    hottest = max([token.entropy for token in (*pair.full, *pair.quantised)], default=0.0) or 1.0
    sides = ((full, pair.full), (quantised, pair.quantised))
    rows = Markup().join(
        Markup('<p class="small">{}</p><p class="tokens" style="{}">{}</p>').format(
            name, Markup("white-space:pre-wrap;overflow-wrap:anywhere"), line(tokens, pair.step, hottest)
        )
        for name, tokens in sides
    )
    return Markup(
        '<figure class="side-by-side"><h4>The same question, answered '
        "twice</h4><p>{}</p>{}<figcaption>{}</figcaption></figure>"
    ).format(pair.question, rows, caption(pair, hottest))


def line(tokens: Sequence[Token], step: int, hottest: float) -> Markup:
    """The tokens; the one of the first divergence is framed, or the place after the end."""
    parts = [token_of(token, i == step, hottest) for i, token in enumerate(tokens)]
    if step >= len(tokens):
        parts.append(Markup('<mark style="{}">(ended)</mark>').format(frame(0)))
    return Markup().join(parts)


def token_of(token: Token, marked: bool, hottest: float) -> Markup:
    percent = round(FULL_COLOUR * min(1.0, token.entropy / hottest))
    text = token.text.replace("\n", "↵\n") or "∅"
    style = frame(percent) if marked else Markup("background:" + HALF.format(percent))  # noqa: S704 - a number
    tag = Markup("mark") if marked else Markup("span")
    return Markup('<{} style="{}" title="{}">{}</{}>').format(
        tag, style, f"{token.entropy:.2f} nat", escape(text), tag
    )


def frame(percent: int) -> Markup:
    """Seen without colours, too."""
    background = HALF.format(percent)
    return Markup(f"color:inherit;outline:2px solid var(--mark);font-weight:700;background:{background}")  # noqa: S704


def caption(pair: AnswerPair, hottest: float) -> str:
    place = f"framed, token {pair.step + 1}, the first"
    what = (
        f"Both read the full model’s text; {place} where the quantised model would say another."
        if pair.forced
        else f"Each answers alone; {place} in which they differ. Of all short answers this pair parts "
        f"furthest from its ends."
    )
    return (
        "The stronger a token’s colour, the less sure the model was of it "
        f"(output entropy, at most {hottest:.2f} nat). {what}"
    )
