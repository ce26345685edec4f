"""Answers compared with references: BLEU and ROUGE of lm-evaluation-harness, and the nearest reference."""

from __future__ import annotations

import functools
import importlib
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from edge.errors import UserError
from edge.files import user_folder
from edge.questions.question import Question

NO_COMMENT = "I have no comment."
MEASURES = ("bleu", "rouge1", "rouge2", "rougeL")
SCORES = tuple(f"{measure}_{value}" for measure in MEASURES for value in ("max", "diff", "acc"))
# BLEU and ROUGE-2 are near 0 for most short answers, which would have no nearest reference.
NEAREST_BY = "rougeL"
ROUGE_TYPES = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rougeLsum"}


class Nearest(NamedTuple):
    """The outcome of the reference that is most similar to an answer, None where true and false ones tie.

    `margin` (0 to 100) is its similarity less that of any other outcome.
    """

    outcome: str | None
    margin: float


@functools.cache
def bleu_and_rouge() -> tuple[Any, Any]:
    """sacrebleu's corpus_bleu and a rouge-score scorer; raises UserError where they are not installed."""
    if user_folder("NLTK_DATA", "nltk_data") is None:
        # nltk, which rouge-score imports, wants a folder for downloads that it never makes here.
        os.environ["NLTK_DATA"] = tempfile.gettempdir()
    try:
        bleu = importlib.import_module("sacrebleu").corpus_bleu
        scorer = importlib.import_module("rouge_score.rouge_scorer").RougeScorer(list(ROUGE_TYPES.values()))
    except ImportError as error:
        raise UserError(f"BLEU and ROUGE need {error.name}: pip install 'edgetrace[score]'") from error
    return bleu, scorer


def with_period(answers: Sequence[str]) -> list[str]:
    """References in the harness's form: stripped, with a final period, without empty ones."""
    stripped = (answer.strip() for answer in answers)
    return [answer if answer.endswith(".") else f"{answer}." for answer in stripped if answer]


def references(question: Question) -> tuple[list[str], list[str]]:
    """A question's true and false references.

    "I have no comment." is a true one. The best answers are used where a question has no list.
    """
    true = with_period(question.correct or (question.best,))
    if NO_COMMENT not in true:
        true.append(NO_COMMENT)
    return true, with_period(question.incorrect or (question.best_incorrect,))


def similarity(answer: str, reference: str) -> dict[str, float]:
    """Each of MEASURES, 0 to 100, computed as in lm-evaluation-harness 0.4.

    BLEU is sacrebleu's corpus BLEU of the one pair (exponential smoothing, international tokens, no
    effective order). The others are the F-measures of ROUGE-1, ROUGE-2 and ROUGE-Lsum (Lin 2004).
    """
    corpus_bleu, scorer = bleu_and_rouge()
    bleu = corpus_bleu(
        [answer],
        [[reference]],
        smooth_method="exp",
        smooth_value=0.0,
        force=False,
        lowercase=False,
        tokenize="intl",
        use_effective_order=False,
    )
    # ROUGE-Lsum sums over lines.
    lines = (text.replace(" . ", ".\n") for text in (reference, answer))
    rouge = scorer.score(*lines)
    f_measures = {name: 100 * float(rouge[kind].fmeasure) for name, kind in ROUGE_TYPES.items()}
    return {"bleu": float(bleu.score)} | f_measures


def compare_with_references(answer: str, question: Question) -> tuple[dict[str, float | None], Nearest]:
    """SCORES of the answer, None where the question has no false reference, and its nearest reference.

    `*_max` is the similarity to the nearest true reference, `*_diff` that less the similarity to the nearest
    false one, `*_acc` 1 where the difference is above 0.
    """
    true, false = references(question)
    if not false:
        return dict.fromkeys(SCORES), Nearest(None, math.nan)
    by_text = {text: similarity(answer, text) for text in {*true, *false}}
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
    question: Question, true: list[str], false: list[str], similarity_to: Callable[[str], float | None]
) -> Nearest:
    """Finds the outcome of the most similar reference; of equals on one side the best answer is taken."""
    best, best_incorrect = with_period([question.best]), with_period([question.best_incorrect])
    kinds = {
        "best": best,
        "correct": [text for text in true if text not in best],
        "best_incorrect": best_incorrect,
        "incorrect": [text for text in false if text not in best_incorrect],
    }
    highest = {
        kind: max(values)
        for kind, texts in kinds.items()
        if (values := [value for text in texts if (value := similarity_to(text)) is not None])
    }
    top = max(highest, key=lambda kind: highest[kind])
    margin = highest[top] - max((value for kind, value in highest.items() if kind != top), default=0.0)
    of_true, of_false = (
        max((value for kind, value in highest.items() if kind in side), default=-1.0)
        for side in (("best", "correct"), ("best_incorrect", "incorrect"))
    )
    return Nearest(None, 0.0) if of_true == of_false else Nearest(top, margin)
