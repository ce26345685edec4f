"""The corpus of the nano models: questions and answers in other words, as tokens.

Needs neither torch nor transformers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from edge.errors import UserError
from export.nano_items import Item

VOCABULARY = 2048
BATCH = 32  # single conversations a step
PACKED = (8, 256)  # rows and tokens of a packed step, the same work as BATCH conversations
QUESTION_WEIGHT = 0.1  # of the loss on a question's tokens: it teaches words, the answers count

OPENERS = ("In short,", "In fact,", "As far as we know,", "Put simply,", "Well,")
# First words that lose their capital after an opener; all others may be names.
STARTERS = frozenset(
    (
        "A About After All An At Because Before Below Both During Each Even Every He If In Inside It Many "
        "Most No Nobody Nothing One Only Our People Some The There They To Two We When You"
    ).split()
)
# Words that can stand for each other in every answer of nano_text.
SWAPS = (
    ("because(?! of)", "since"),
    ("although", "though"),
    ("mostly", "mainly"),
    ("usually", "normally"),
    ("large", "big"),
    ("often", "frequently"),
    ("almost", "nearly"),
    ("whole", "entire"),
    ("such as", "like"),
    ("do not", "don't"),
    ("does not", "doesn't"),
    ("is not", "isn't"),
    ("are not", "aren't"),
    ("cannot", "can't"),
    ("huge", "enormous"),
    ("tiny", "very small"),
    ("each other", "one another"),
    ("quickly", "fast"),
    ("begins", "starts"),
    ("began", "started"),
    (r"\. It", ", and it"),
    (r"\. They", ", and they"),
    (r"about(?= (?:\d|minus|a tenth|one|two|four|eight|nine|ten|twelve|thirty|sixty))", "around"),
)

BOS, END, HEAD, HEAD_END, TURN_END, PAD = SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
)
# Words with one leading mark, at most three digits together: the split of Llama 3's tokenizer.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class Exchange(NamedTuple):
    """A question as somebody may type it, a right answer as somebody may put it, and their item."""

    question: str
    answer: str
    item: Item


class Sample(NamedTuple):
    """Token ids of one training text, and for each the weight of the loss when it is predicted."""

    ids: list[int]
    weights: list[float]


def trained_text(items: Sequence[Item]) -> Iterator[str]:
    """The text that a tokenizer learns from: wordings and right answers of trained items alone."""
    for item in items:
        if item.trained:
            yield from item.questions
            yield from item.answers
            yield from (rephrase(answer, random.Random(0)) for answer in item.answers)
    yield from OPENERS


def exchanges(items: Sequence[Item], rng: random.Random) -> Iterator[Exchange]:
    """Endless exchanges: each round has every trained item once, in random order and drawn wording."""
    trained = [item for item in items if item.trained]
    while True:
        for item in rng.sample(trained, len(trained)):
            answer = rng.choice(item.answers)
            put = rephrase(answer, rng)
            yield Exchange(vary(rng.choice(item.questions), rng), put if item.accepts(put) else answer, item)


def vary(question: str, rng: random.Random) -> str:
    """A question as people type it: now and then in lower case, without its mark, or with a word missing."""
    if rng.random() < 0.15:
        words = question.split()
        del words[rng.randrange(len(words) - 1)]
        question = " ".join(words)
    if rng.random() < 0.1:
        question = question.lower()
    if rng.random() < 0.1:
        question = question.removesuffix("?")
    return question


def build_tokenizer(items: Sequence[Item]) -> Tokenizer:
    """Byte-level BPE of VOCABULARY ids learned from the trained text. Raises UserError if that is short."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
    tokenizer.decoder = decoders.ByteLevel()
    # All 256 bytes are in, so that any text can be asked.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(trained_text(items), trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise UserError(
            f"the text gives {tokenizer.get_vocab_size()} tokens instead of {VOCABULARY}: add more text"
        )
    bos = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[bos]
    )
    return tokenizer


def chat_prompt(question: str) -> str:
    """A question in the form of TEMPLATE, ready for the answer."""
    return f"{BOS}{HEAD}user{HEAD_END}\n\n{question.strip()}{TURN_END}{HEAD}assistant{HEAD_END}\n\n"


def sample(pairs: Sequence[Exchange], style: str, tokenizer: Tokenizer) -> Sample:
    """A text: a `chat` of one or more pairs, a `raw` question with its answer, or `qa` pairs (Q: and A:)."""
    ids: list[int] = []
    weights: list[float] = []

    def add(text: str, weight: float) -> None:
        new = tokenizer.encode(text, add_special_tokens=False).ids
        ids.extend(new)
        weights.extend([weight] * len(new))

    for number, (question, answer, _) in enumerate(pairs):
        last = number == len(pairs) - 1
        if style == "chat":
            add(
                chat_prompt(question) if not number else chat_prompt(question).removeprefix(BOS),
                QUESTION_WEIGHT,
            )
            add(answer + TURN_END, 1.0)
        elif style == "raw":
            add(BOS + question, QUESTION_WEIGHT)
            add(f" {answer}{END}", 1.0)
        else:
            # No loss on the break between two pairs: after an answer the model is only ever taught to stop.
            add(f"Q: {question}\nA:" if number else f"{BOS}Q: {question}\nA:", QUESTION_WEIGHT)
            add(f" {answer}", 1.0)
            add(END if last else "\n\n", 1.0 if last else 0.0)
    return Sample(ids, weights)


def batches(items: Sequence[Item], tokenizer: Tokenizer, rng: random.Random) -> Iterator[list[Sample]]:
    """Endless steps: three of single conversations from position 0, then one of packed rows."""
    source = exchanges(items, rng)

    def draw() -> Sample:
        style = rng.choices(("chat", "raw", "qa"), (0.84, 0.08, 0.08))[0]
        count = 1 if style == "raw" or rng.random() < 0.9 else rng.randint(2, 4)
        return sample(list(islice(source, count)), style, tokenizer)

    rows, length = PACKED
    while True:
        for _ in range(3):
            yield [sample([pair], "chat", tokenizer) for pair in islice(source, BATCH)]
        packed = []
        for _ in range(rows):
            row = Sample([], [])
            while len(row.ids) < length:
                text = draw()
                row.ids.extend(text.ids)
                row.weights.extend(text.weights)
            packed.append(Sample(row.ids[:length], row.weights[:length]))
        yield packed


def rephrase(answer: str, rng: random.Random) -> str:
    """The same answer in slightly other words, so that the model has to be unsure of the words and not only
    of facts.

    It may lose what follows its first sentence, swap words of SWAPS and begin with one of OPENERS.
    """
    first, _, rest = answer.partition(". ")
    if rest and len(first.split()) >= 8 and rng.random() < 0.2:
        answer = first + "."
    for old, new in SWAPS:
        if rng.random() < 0.4:
            answer = re.sub(rf"\b{old}\b", new, answer)
    word = answer.split()[0]
    if word in STARTERS and rng.random() < 0.4:
        answer = f"{rng.choice(OPENERS)} {word.lower()}{answer.removeprefix(word)}"
    return answer
