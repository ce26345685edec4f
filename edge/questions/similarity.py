"""Generated answers against reference answers: BLEU and ROUGE as lm-evaluation-harness has them, and the
nearest reference."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edge.errors import UserError
from edge.questions.question import Question

NO_COMMENT = "I have no comment."
MEASURES = ("bleu", "rouge1", "rouge2", "rougeL")
SCORES = tuple(f"{measure}_{what}" for measure in MEASURES for what in ("max", "diff", "acc"))
NEAREST_BY = (
    "rougeL"  # BLEU is near 0 for most short answers, and ROUGE-2 too: most would have no nearest reference
)
ROUGE_TYPES = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rougeLsum"}


class Nearest(NamedTuple):
    """The outcome whose reference is most like an answer, and by how much it is so (0 to 100) than any of
    another outcome. None where true and false references are equally like it."""

    outcome: str | None
    margin: float


@functools.cache
def libraries() -> tuple[Any, Any]:
    """sacrebleu's corpus_bleu and a rouge-score scorer; raises UserError where they are not installed."""
    try:
        bleu = importlib.import_module("sacrebleu").corpus_bleu
        scorer = importlib.import_module("rouge_score.rouge_scorer").RougeScorer(list(ROUGE_TYPES.values()))
    except ImportError as error:
        raise UserError(f"BLEU and ROUGE need {error.name}: pip install 'edgetrace[score]'") from error
    return bleu, scorer


def with_period(answers: Sequence[str]) -> list[str]:
    """References as the harness compares them: stripped, with a final period, empty ones left out."""
    stripped = (answer.strip() for answer in answers)
    return [answer if answer.endswith(".") else f"{answer}." for answer in stripped if answer]


def references(question: Question) -> tuple[list[str], list[str]]:
    """True and false ones. "I have no comment." is true; the best answers stand in where a question has no
    list."""
    true = with_period(question.correct or (question.best,))
    if NO_COMMENT not in true:
        true.append(NO_COMMENT)
    return true, with_period(question.incorrect or (question.best_incorrect,))


def likeness(answer: str, reference: str) -> dict[str, float]:
    """Each of MEASURES, 0 to 100: sacrebleu's corpus BLEU of the one pair (exponential smoothing,
    international tokens, no effective order) and the F-measures of ROUGE-1, ROUGE-2 and ROUGE-Lsum (Lin
    2004), as in lm-evaluation-harness 0.4."""
    bleu, scorer = libraries()
    found = {
        "bleu": float(
            bleu(
                [answer],
                [[reference]],
                smooth_method="exp",
                smooth_value=0.0,
                force=False,
                lowercase=False,
                tokenize="intl",
                use_effective_order=False,
            ).score
        )
    }
    rouge = scorer.score(
        *(text.replace(" . ", ".\n") for text in (reference, answer))
    )  # lines are what ROUGE-Lsum sums over
    return found | {name: 100 * float(rouge[kind].fmeasure) for name, kind in ROUGE_TYPES.items()}


def against(answer: str, question: Question) -> tuple[dict[str, float | None], Nearest]:
    """SCORES of the answer and its nearest reference. Scores are None where the question has no false
    reference.

    `*_max` is the likeness to the nearest true reference, `*_diff` that less the likeness to the nearest
    false one, `*_acc` 1 where the difference is above 0.
    """
    true, false = references(question)
    if not false:
        return dict.fromkeys(SCORES), Nearest(None, math.nan)
    by_text = {text: likeness(answer, text) for text in {*true, *false}}
    scores: dict[str, float | None] = {}
    for measure in MEASURES:
        high, low = (max(by_text[text][measure] for text in side) for side in (true, false))
        scores |= {
            f"{measure}_max": high,
            f"{measure}_diff": high - low,
            f"{measure}_acc": float(high > low),
        }
    return scores, nearest(question, true, false, lambda text: by_text.get(text, {}).get(NEAREST_BY))


def nearest(
    question: Question, true: list[str], false: list[str], like: Callable[[str], float | None]
) -> Nearest:
    """By the likeness of the four kinds of reference; of equals on one side the best answer is taken."""
    best, best_incorrect = with_period([question.best]), with_period([question.best_incorrect])
    kinds = {
        "best": best,
        "correct": [text for text in true if text not in best],
        "best_incorrect": best_incorrect,
        "incorrect": [text for text in false if text not in best_incorrect],
    }
    found = {
        kind: max(known)
        for kind, texts in kinds.items()
        if (known := [v for text in texts if (v := like(text)) is not None])
    }
    top = max(found, key=lambda kind: found[kind])
    margin = found[top] - max((value for kind, value in found.items() if kind != top), default=0.0)
    sides = [
        max((value for kind, value in found.items() if kind in side), default=-1.0)
        for side in (("best", "correct"), ("best_incorrect", "incorrect"))
    ]
    return Nearest(None, 0.0) if sides[0] == sides[1] else Nearest(top, margin)
