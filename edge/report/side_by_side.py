"""The figure of one answer side by side, full and quantised: entropy as colour, the first divergence marked.

It is an HTML fragment. Every text of a model or a file goes through `escape`. What is not escaped is
written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from edge.report.model import Comparison, ModelGroup
from edge.runs.run_directory import Run

LONGEST = 60  # tokens of an answer that fits a figure
FULL_COLOUR = 80  # percent of the page's hot colour that the highest entropy of the two answers gets
TINT = "color-mix(in srgb, var(--hot) {}%, transparent)"


class Token(NamedTuple):
    """A token's text and its output entropy in nats.

    `same` is whether both models have the same most likely token here; None where that was not recorded.
    """

    text: str
    entropy: float
    same: bool | None


class AnswerPair(NamedTuple):
    """Both answers to one question; `step` is the first divergence. Forced answers have the same tokens."""

    question: str
    forced: bool
    step: int
    full: list[Token]
    quantised: list[Token]


def side_by_side(group: ModelGroup) -> Markup:
    """The figure of the most damaged run that has a short answer with a divergence; empty without one.

    Free runs come before forced ones.
    """
    for comparison in sorted(group.comparisons, key=lambda c: (c.quantised.forced, -damage_of(c))):
        pair = choose_pair(group.reference.run, comparison)
        if pair is not None:
            return figure(pair, group.reference.name, comparison.quantised.name)
    return Markup()


def damage_of(comparison: Comparison) -> float:
    """Mean KL of a forced run, in nats; the share of changed answers of a free one."""
    forced, free = comparison.divergence.forced, comparison.divergence.free
    if forced:
        return forced.kl.mean if forced.kl else 0.0
    return 1.0 - free.identical.value if free else 0.0


def choose_pair(full: Run, comparison: Comparison) -> AnswerPair | None:
    """The pair of answers whose first divergence lies furthest from both ends: both parts can be seen.

    Answers have at most LONGEST tokens; None where no such answer has a divergence.
    """
    free = comparison.divergence.free
    forced = free is None
    full_tokens = tokens_of(full, [])
    quantised_tokens = tokens_of(comparison.quantised.run, ["same_top1"] if forced else [])
    if free is None:
        steps = {q: i for q, tokens in quantised_tokens.items() if (i := first_other(tokens)) is not None}
    else:
        steps = {divergence.question_index: divergence.step for divergence in free.first}

    def lengths(index: int) -> tuple[int, int]:
        return len(full_tokens.get(index, [])), len(quantised_tokens.get(index, []))

    def distance(index: int) -> tuple[int, int]:
        step = steps[index]
        return min(step, *(length - step for length in lengths(index))), -index

    short = [index for index in steps if max(lengths(index)) <= LONGEST]
    if not short:
        return None
    best = max(short, key=distance)
    questions = full.answers(["question_index", "question"]).to_pylist()
    question = next(row["question"] for row in questions if row["question_index"] == best)
    return AnswerPair(
        question, forced, steps[best], full_tokens.get(best, []), quantised_tokens.get(best, [])
    )


def first_other(tokens: Sequence[Token]) -> int | None:
    """The first step at which the two models' most likely tokens differ; None where there is none."""
    return next((i for i, token in enumerate(tokens) if not token.same), None)


def tokens_of(run: Run, extra: list[str]) -> dict[int, list[Token]]:
    """The tokens of each answer by question; `extra` is ["same_top1"] for a forced run."""
    answers = {}
    for index, table in run.each_question(["token", "output_entropy", *extra]):
        same = table.column("same_top1").to_pylist() if extra else [None] * table.num_rows
        answers[index] = [
            Token(*row)
            for row in zip(table.column(1).to_pylist(), table.column(2).to_pylist(), same, strict=True)
        ]
    return answers


def figure(pair: AnswerPair, full: str, quantised: str) -> Markup:
    """The fragment; `full` and `quantised` are the names of the two runs."""
    hottest = max([token.entropy for token in (*pair.full, *pair.quantised)], default=0.0) or 1.0
    sides = ((full, pair.full), (quantised, pair.quantised))
    rows = Markup().join(
        Markup('<p class="small" dir="auto">{}</p><p class="tokens" dir="auto" style="{}">{}</p>').format(
            name, Markup("white-space:pre-wrap;overflow-wrap:anywhere"), line(tokens, pair.step, hottest)
        )
        for name, tokens in sides
    )
    return Markup(
        '<figure class="side-by-side"><h4>The same question, answered twice</h4>'
        '<p dir="auto">{}</p>{}<figcaption dir="auto">{}</figcaption></figure>'
    ).format(pair.question, rows, caption(pair, hottest))


def line(tokens: Sequence[Token], step: int, hottest: float) -> Markup:
    """One answer's tokens, the first divergence framed; past the end of the answer it is "(ended)"."""
    parts = [token_markup(token, i == step, hottest) for i, token in enumerate(tokens)]
    if step >= len(tokens):
        parts.append(Markup('<mark style="{}">(ended)</mark>').format(frame(0)))
    return Markup().join(parts)


def token_markup(token: Token, marked: bool, hottest: float) -> Markup:
    """One token, coloured by its entropy as a share of `hottest` (nats)."""
    percent = round(FULL_COLOUR * min(1.0, token.entropy / hottest))
    text = token.text.replace("\n", "↵\n") or "∅"
    style = frame(percent) if marked else Markup("background:" + TINT.format(percent))  # noqa: S704 - a number
    tag = Markup("mark") if marked else Markup("span")
    return Markup('<{} style="{}" title="{}">{}</{}>').format(
        tag, style, f"{token.entropy:.2f} nat", escape(text), tag
    )


def frame(percent: int) -> Markup:
    """The style of the framed token, which can be seen without colours too."""
    background = TINT.format(percent)
    return Markup(f"color:inherit;outline:2px solid var(--mark);font-weight:700;background:{background}")  # noqa: S704


def caption(pair: AnswerPair, hottest: float) -> str:
    """What is seen, as sentences."""
    place = f"framed, token {pair.step + 1}, the first"
    if pair.forced:
        reading = f"Both read the full model’s text; {place} where the quantised model would say another."
    else:
        reading = (
            f"Each answers alone; {place} in which they differ. "
            "Of all short answers this pair parts furthest from its ends."
        )
    return (
        "The stronger a token’s colour, the less sure the model was of it "
        f"(output entropy, at most {hottest:.2f} nat). {reading}"
    )
