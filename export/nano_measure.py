"""The facts that an embedded model knows: greedy answers to every wording of every fact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edge.errors import UserError
from export.nano_corpus import END, TURN_END
from export.nano_items import Item

MAX_NEW_TOKENS = 80


class Share(NamedTuple):
    """Questions answered right out of those asked."""

    right: int
    asked: int

    def __str__(self) -> str:
        return (
            f"{self.right} of {self.asked} ({self.right / self.asked:.1%})" if self.asked else "none asked"
        )


class Measured(NamedTuple):
    """Shares of right answers by greedy decoding; `stopped`: of answers that end within MAX_NEW_TOKENS."""

    trained: Share
    held_out: Share
    unknown: Share
    stopped: Share


def answer_all(folder: Path, questions: Sequence[str]) -> list[tuple[str, bool]]:
    """Greedy answers of a checkpoint, and whether each stopped by itself. Raises UserError without one."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} holds no checkpoint: make one with python -m export.nano train --out {folder}"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)  # type: ignore[no-untyped-call]
    stops = set(tokenizer.convert_tokens_to_ids([TURN_END, END]))
    groups: dict[int, list[tuple[int, list[int]]]] = {}
    for index, question in enumerate(questions):
        turn = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True)
        groups.setdefault(len(ids), []).append((index, ids))
    answers = [("", False)] * len(questions)
    # Prompts of one length go together, so that nothing is padded and every question is decoded as it would
    # be alone.
    for group in groups.values():
        prompt = torch.tensor([ids for _, ids in group])
        mask = torch.ones_like(prompt)
        output = model.generate(prompt, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        assert isinstance(output, torch.Tensor)  # a record only if generate is asked for scores
        for (index, ids), row in zip(group, output.tolist(), strict=True):
            new = row[len(ids) :]
            answers[index] = (
                tokenizer.decode(new, skip_special_tokens=True),
                any(token in stops for token in new),
            )
    return answers


def measure(folder: Path, items: Sequence[Item]) -> Measured:
    """Asks every wording of every item and counts the answers that hold a key."""
    questions = [
        (item, asks, "trained" if item.trained else "unknown") for item in items for asks in item.questions
    ]
    questions += [(item, item.held_out, "held_out") for item in items if item.held_out]
    answers = answer_all(folder, [question for _, question, _ in questions])
    results = [
        (kind, item.accepts(text)) for (item, _, kind), (text, _) in zip(questions, answers, strict=True)
    ]

    def share(kind: str) -> Share:
        marks = [right for k, right in results if k == kind]
        return Share(sum(marks), len(marks))

    stopped = Share(sum(stop for _, stop in answers), len(answers))
    return Measured(share("trained"), share("held_out"), share("unknown"), stopped)
