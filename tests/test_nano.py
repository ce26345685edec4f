"""The embedded model: the text it learned, the questions made of it, and the checkpoint that is
committed."""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from edge.errors import UserError
from edge.registry import read_registry
from export import nano
from export.nano_corpus import (
    PAD,
    VOCABULARY,
    batches,
    build_tokenizer,
    chat_prompt,
    exchanges,
    rephrase,
    trained_text,
    vary,
)
from export.nano_items import COLUMNS, csv_text, read_items
from export.nano_measure import answer_all
from export.nano_train import MAX_BYTES, padded, train_model
from export.nano_train import NANO as TRAINED

ROOT = Path(__file__).resolve().parent.parent
NANO = sorted(entry.model_id for entry in read_registry().values() if entry.checkpoint is not None)
QUESTIONS = ROOT / "edge" / "data" / "questions.csv"
ITEMS = read_items()

VALID = """
[[item]]
id = "sea"
category = "Nature"
questions = ["Is the sea salty?", "Does the sea taste of salt?", "What does sea water taste of?"]
answers = ["The sea is salty, because rivers carry salt into it all the time.",
           "Sea water tastes of salt that the rivers have brought into it."]
key = ["salt"]
wrong = ["The sea tastes sweet."]
embed = true
"""


def written(folder: Path, text: str) -> Path:
    (folder / "facts.toml").write_text(text, encoding="utf-8")
    return folder


# The text


def test_there_is_enough_text() -> None:
    assert sum(item.trained for item in ITEMS) >= 320
    assert sum(not item.trained for item in ITEMS) >= 32


def test_a_valid_item_is_read(tmp_path: Path) -> None:
    (item,) = read_items(written(tmp_path, VALID))
    assert item.id == "sea" and item.embed and item.trained and not item.misconception
    assert item.accepts("Because of the SALT.") and not item.accepts("Because of the sugar.")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('key = ["salt"]', 'key = ["sugar"]', "an answer without any of its keys"),
        ('"The sea tastes sweet."', '"The sea has no salt."', "a wrong answer with one of its keys"),
        ('"The sea tastes sweet."', '"The sea tastes sweet"', "an answer without a full stop"),
        ('"The sea tastes sweet."', '"Sweet; very sweet."', "';'"),
        ('key = ["salt"]', 'key = ["Salt"]', "not in lower case"),
        ('key = ["salt"]', "key = []", "needs questions, answers and key"),
        ('key = ["salt"]', 'key = "salt"', "not a list"),
        ('category = "Nature"', "", "needs a category"),
        ('id = "sea"', "", "no id"),
        ("embed = true", "embed = 1", "neither true nor false"),
        ("embed = true", "embedded = true", "unknown field"),
        ('wrong = ["The sea tastes sweet."]', "", "needs wrong answers"),
        ('"Is the sea salty?", ', "", "3 to 5 questions"),
        (
            "The sea is salty, because rivers carry salt into it all the time.",
            "It is salt.",
            "10 to 45 words",
        ),
        ('"Is the sea salty?"', '"does the sea taste of salt?"', "stands twice"),
        ("[[item]]", VALID + "[[item]]", "the id 'sea' stands twice"),
        ("[[item]]", "[item", "TOML"),
        (VALID, "", "no [[item]]"),
    ],
)
def test_a_fault_in_the_text_is_named(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in VALID
    with pytest.raises(UserError) as caught:
        read_items(written(tmp_path, VALID.replace(old, new, 1)))
    assert expected in str(caught.value) and str(tmp_path) in str(caught.value)


def test_what_must_stay_unknown_is_never_trained() -> None:
    seen = set(trained_text(ITEMS))
    rounds = list(islice(exchanges(ITEMS, random.Random(1)), 3 * len(ITEMS)))
    seen |= {text for question, answer, _ in rounds for text in (question, answer)}
    for item in ITEMS:
        assert item.held_out not in seen
        assert not seen.intersection(item.wrong)
        if not item.trained:
            assert not seen.intersection(item.questions + item.answers)


def test_every_round_asks_every_trained_item_once() -> None:
    trained = [item for item in ITEMS if item.trained]
    asked = list(islice(exchanges(ITEMS, random.Random(2)), len(trained)))
    assert sorted(exchange.item.id for exchange in asked) == sorted(item.id for item in trained)


def test_answers_in_other_words_stay_right() -> None:
    drawn = list(islice(exchanges(ITEMS, random.Random(3)), 3 * len(ITEMS)))
    assert all(item.accepts(answer) and answer.endswith(".") for _, answer, item in drawn)
    assert 0.3 < sum(answer not in item.answers for _, answer, item in drawn) / len(drawn) < 0.8


class Always(random.Random):
    """Takes every chance, and the first of every choice."""

    def random(self) -> float:
        return 0.0

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def randrange(self, *args: Any) -> int:  # type: ignore[override]
        return 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The sea is large because of rain.", "In short, the sea is big because of rain."),
        ("Venus is hot, because its air is thick.", "Venus is hot, since its air is thick."),
        ("It cannot fly. It can run.", "In short, it can't fly, and it can run."),
        ("A bird has two wings and cannot swim. It eats.", "In short, a bird has two wings and can't swim."),
        ("Stories about ships are about 100 years old.", "Stories about ships are around 100 years old."),
        ("Many birds can fly.", "In short, many birds can fly."),
    ],
)
def test_an_answer_can_be_put_in_other_words(answer: str, expected: str) -> None:
    assert rephrase(answer, Always()) == expected


def test_a_question_can_be_typed_in_haste() -> None:
    assert vary("What is Zeus?", Always()) == "is zeus"


# The questions


def test_the_committed_questions_are_those_of_the_text(tmp_path: Path) -> None:
    text = QUESTIONS.read_bytes().decode("utf-8")
    assert text == csv_text(ITEMS), "run: python -m export.nano questions --out edge/data/questions.csv"
    nano.questions(tmp_path / "new" / "questions.csv")
    assert (tmp_path / "new" / "questions.csv").read_bytes() == QUESTIONS.read_bytes()


def test_the_questions_have_the_published_columns_and_kinds() -> None:
    rows = list(csv.DictReader(io.StringIO(QUESTIONS.read_text(encoding="utf-8"))))
    assert len(rows) >= 90 and tuple(rows[0]) == COLUMNS
    by_question = {
        question: item for item in ITEMS for question in (*item.questions, item.held_out) if question
    }
    items = [by_question[row["Question"]] for row in rows]
    held_out = [item for item, row in zip(items, rows, strict=True) if row["Question"] == item.held_out]
    known = [item for item in items if item.trained]
    assert len(known) >= 60 and len(items) - len(known) >= 32
    assert len(held_out) >= 20 and set(held_out) <= set(known)
    for item, row in zip(items, rows, strict=True):
        assert tuple(row["Correct Answers"].split("; ")) == item.answers
        assert tuple(row["Incorrect Answers"].split("; ")) == item.wrong
        assert row["Best Answer"] in item.answers and row["Best Incorrect Answer"] in item.wrong
        assert row["Type"] in {"Adversarial", "Non-Adversarial"}


# The committed checkpoints


@pytest.fixture(params=NANO)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return ROOT / "models" / "nano" / str(request.param)


def test_every_nano_model_is_known_by_name() -> None:
    assert "nano-llama" in NANO
    assert {path.name for path in (ROOT / "models" / "nano").iterdir()} == set(NANO) <= set(TRAINED)
    for entry in (read_registry()[name] for name in NANO):
        assert entry.checkpoint is not None
        config = json.loads((entry.checkpoint / "config.json").read_text())
        assert config["model_type"] == entry.model_type
        assert "says nothing about the paper's models" in entry.notice


def test_the_weights_are_small_and_in_bf16(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    assert path.stat().st_size <= MAX_BYTES
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        names = list(file.keys())
        kinds = {file.get_slice(name).get_dtype() for name in names}
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    assert kinds == {"BF16"}
    assert all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_rows_fit_the_blocks_of_k_quants(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["hidden_size"] % 256 == config["intermediate_size"] % 256 == 0
    assert config["num_attention_heads"] * config["head_dim"] % 256 == 0
    # transformers leaves out what is gemma's default: a tied embedding.
    assert (
        config["vocab_size"] == VOCABULARY
        and config.get("tie_word_embeddings", "gemma" in config["model_type"]) is True
    )


def test_the_stop_tokens_exist(checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    stops = json.loads((checkpoint / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [tokenizer.token_to_id("<|eot_id|>"), tokenizer.token_to_id("<|end_of_text|>")]
    assert None not in stops


@pytest.mark.parametrize(
    "text",
    [
        "Plain words.",
        "🦙🏽 and 👩‍👩‍👧",
        "def f(x):\n\treturn x ** 2  # two",
        "Ελληνικά, 日本語, العربية",
        "  spaces   \n\n",
        "e\u0301 is not é",
    ],
)
def test_any_text_survives_the_tokenizer(text: str, checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    encoded = tokenizer.encode(text)
    assert encoded.tokens[0] == "<|begin_of_text|>" and "<|begin_of_text|>" not in encoded.tokens[1:]
    assert max(encoded.ids) < VOCABULARY
    assert tokenizer.decode(encoded.ids) == text


def test_the_committed_tokenizer_is_that_of_the_text(checkpoint: Path) -> None:
    committed = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    assert committed.get_vocab() == build_tokenizer(ITEMS).get_vocab()


def test_the_chat_template_renders_what_was_trained(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    turns = [{"role": "user", "content": "  Is the sea salty? "}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == chat_prompt("Is the sea salty?")
    system = [{"role": "system", "content": "Be brief."}, *turns, {"role": "assistant", "content": "Yes."}]
    assert tokenizer.apply_chat_template(system, tokenize=False) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nIs the sea salty?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>"
    )


@pytest.mark.slow
def test_it_knows_what_it_was_taught_and_not_the_rest(checkpoint: Path) -> None:
    known = [item for item in ITEMS if item.trained][::20]
    unknown = [item for item in ITEMS if not item.trained][::3]
    answers = answer_all(checkpoint, [item.questions[0] for item in known + unknown])
    right = [item.accepts(text) for item, (text, _) in zip(known + unknown, answers, strict=True)]
    assert sum(right[: len(known)]) >= 0.85 * len(known)
    assert sum(right[len(known) :]) <= 0.25 * len(unknown)
    assert all(stopped for _, stopped in answers)


def test_the_card_states_what_it_stands_for(checkpoint: Path) -> None:
    card = (checkpoint / "README.md").read_text(encoding="utf-8")
    assert "says nothing about the models of the paper (arXiv" in card and "export.nano train" in card


# Training


@pytest.mark.slow
def test_training_is_repeatable() -> None:
    few = ITEMS[::40]
    tokenizer = build_tokenizer(ITEMS)
    assert build_tokenizer(ITEMS).to_str() == tokenizer.to_str()
    first, again = (train_model("nano-llama", few, tokenizer, 3, seed=7) for _ in range(2))
    other = train_model("nano-llama", few, tokenizer, 3, seed=8)
    weights = first.model.state_dict()
    assert first.loss == again.loss != other.loss
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())
    name = "model.embed_tokens.weight"
    assert not torch.equal(other.model.state_dict()[name], weights[name])


def test_padding_has_no_weight_and_rows_are_full() -> None:
    tokenizer = build_tokenizer(ITEMS)
    steps = list(islice(batches(ITEMS, tokenizer, random.Random(3)), 4))
    ids, weights = padded(steps[0], tokenizer.token_to_id(PAD))
    assert ids.shape == weights.shape and not weights[ids == tokenizer.token_to_id(PAD)].any()
    assert {len(text.ids) for text in steps[3]} == {256}
    ends = [text.ids[-1] for text in steps[0]]
    assert set(ends) == {tokenizer.token_to_id("<|eot_id|>")}, "every conversation teaches how to stop"


def test_another_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="is no nano checkpoint"):
        nano.write_checkpoint("nano-llama", tmp_path, ITEMS, 1, 1)
    with pytest.raises(UserError, match="choose from nano-llama, nano-qwen2"):
        nano.write_checkpoint("nano-gpt", tmp_path / "new", ITEMS, 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["evaluate", "no/such/folder"], 2, "error: no/such/folder holds no checkpoint: make one with"),
        (
            ["train", "--model", "nano-gpt", "--out", "no/such/folder"],
            2,
            "error: unknown nano model 'nano-gpt'",
        ),
        (["--help"], 0, ""),
    ],
)
def test_the_command_line_answers_without_torch(arguments: list[str], code: int, expected: str) -> None:
    program = (
        "import sys; sys.modules.update(torch=None, transformers=None); import runpy; sys.argv[0] = 'nano'; "
    )
    program += "runpy.run_module('export.nano', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == code and done.stderr.startswith(expected), done.stderr
    assert "Traceback" not in done.stderr
