"""Items of a session: a question, its prompt, and the tokens to force, or none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from edge.questions.prompt import Prompt
from edge.runs.record import ForcedValues, Step
from edge.signals.comparison import TopK, kl_to_reference
from edge.signals.taps import Taps


class ForcedTokens(NamedTuple):
    """An answer of the reference run, for another model to read.

    `surprisals` and `distributions` have one entry for each token; `distributions` is empty when the run
    kept none.
    """

    tokens: list[int]
    stop_reason: str
    surprisals: list[float]
    distributions: list[TopK]

    def values(self, step: Step, taps: Taps) -> ForcedValues:
        """Compares the reference answer with another model's `step`, which left `taps`."""
        output, kept = step.signals.output, self.distributions[step.step] if self.distributions else None
        kl = math.nan if kept is None else kl_to_reference(kept, taps.logits, output.log_normaliser)
        # Without a kept distribution a greedy run's own token is its most likely one.
        top1 = step.token_id if kept is None else int(kept.ids[0])
        return ForcedValues(kl, self.surprisals[step.step], output.top1 == top1)


@dataclass(frozen=True)
class Item:
    """One question. `index`, `question_id`, `question` and `category` are copied into its rows.

    The model answers `prompt` by itself, or reads the `forced` tokens after it.
    """

    index: int
    question_id: str
    question: str
    category: str
    prompt: Prompt
    forced: ForcedTokens | None = None
