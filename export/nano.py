"""Trains the embedded models from the project's own text, and measures what they know.

    python -m export.nano train --out models/nano/nano-llama
    python -m export.nano questions --out edge/data/questions.csv
    python -m export.nano evaluate models/nano/nano-llama

They stand for the pipeline alone and say nothing about the models of the paper (arXiv 2604.03589).
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from tokenizers import Tokenizer

from edge.cli.common import console, run_app
from edge.errors import UserError
from export import nano_corpus as corpus
from export.nano_corpus import BOS, END, PAD, TURN_END, VOCABULARY, Item, Sample

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

CONTEXT = 2048
SEED = 20260403
STEPS = 2200
PEAK_RATE = 2e-3
MAX_NEW_TOKENS = 80
MAX_BYTES = 6_000_000

TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('a message is from system, user or assistant') }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


class NanoModel(NamedTuple):
    """An architecture: the name of its transformers configuration, and what differs from SHAPE."""

    config: str
    settings: dict[str, Any]


# Row lengths are multiples of 256, the block of llama.cpp's K-quants; few tokens, so that the weights fit in
# git.
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "tie_word_embeddings": True,
    "max_position_embeddings": CONTEXT,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
}
# Three layers see 32 keys and one sees all, so that most answers are longer than the window.
WINDOWS: dict[str, Any] = {
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 32,
}
NANO = {
    "nano-llama": NanoModel("LlamaConfig", {}),
    "nano-qwen2": NanoModel("Qwen2Config", {}),
    "nano-qwen3": NanoModel("Qwen3Config", {"rope_theta": 1e6}),
    "nano-gemma3": NanoModel(
        "Gemma3TextConfig", {"rope_theta": 1e6, "query_pre_attn_scalar": 64, **WINDOWS}
    ),
}


class Share(NamedTuple):
    """Questions answered right out of those asked."""

    right: int
    asked: int

    def __str__(self) -> str:
        return (
            f"{self.right} of {self.asked} ({self.right / self.asked:.1%})" if self.asked else "none asked"
        )


class Measured(NamedTuple):
    """What greedy decoding gets right. `stopped`: answers that ended by themselves within MAX_NEW_TOKENS."""

    trained: Share
    held_out: Share
    unknown: Share
    stopped: Share


class Training(NamedTuple):
    """A trained model in FP32, its mean loss over the last tenth of the steps, and the minutes it took."""

    model: PreTrainedModel
    loss: float
    minutes: float


def registered(name: str) -> NanoModel:
    """The architecture of a name. Raises UserError for a name that is not in NANO."""
    if name not in NANO:
        raise UserError(f"unknown nano model {name!r}: choose from {', '.join(NANO)}")
    return NANO[name]


def new_model(name: str, tokenizer: Tokenizer) -> PreTrainedModel:
    """An untrained model in FP32, its weights from torch's seed."""
    import transformers

    spec = registered(name)
    bos, end, turn_end, pad = (tokenizer.token_to_id(token) for token in (BOS, END, TURN_END, PAD))
    ids = {"bos_token_id": bos, "eos_token_id": [turn_end, end], "pad_token_id": pad}
    config = getattr(transformers, spec.config)(**(SHAPE | ids | spec.settings))
    model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.generation_config = transformers.GenerationConfig(do_sample=False, **ids)  # type: ignore[no-untyped-call]
    return model


def train_model(
    name: str,
    items: Sequence[Item],
    tokenizer: Tokenizer,
    steps: int,
    seed: int = SEED,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> Training:
    """AdamW with warm-up and cosine decay; the same arguments give the same weights on one machine.

    `report` gets the step and its loss (nats, weighted mean over tokens).
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # sums depend on the number of threads, so it is fixed
    torch.manual_seed(seed)
    model = new_model(name, tokenizer)
    model.train()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    norms = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98))
    warm = max(1, steps // 20)

    def rate(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.02 + 0.49 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses: list[float] = []
    started = time.perf_counter()
    rng = random.Random(seed)
    for step, batch in enumerate(islice(corpus.batches(items, tokenizer, rng), steps), 1):
        ids, weights = padded(batch, tokenizer.token_to_id(PAD))
        # Padding stands on the right of causal attention: no token that counts can see it, so no mask is
        # needed.
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        each = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
        )
        loss = (each * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        report(step, losses[-1])
    torch.set_num_threads(threads)
    model.eval()  # type: ignore[no-untyped-call]
    tail = losses[-max(1, steps // 10) :]
    return Training(model, sum(tail) / len(tail), (time.perf_counter() - started) / 60)


def padded(batch: Sequence[Sample], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [B, T] and weights [B, T] of a batch, filled on the right with `pad` and weight 0."""
    import torch

    length = max(len(text.ids) for text in batch)
    ids = torch.tensor([text.ids + [pad] * (length - len(text.ids)) for text in batch])
    weights = torch.tensor([text.weights + [0.0] * (length - len(text.weights)) for text in batch])
    return ids, weights


def save(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights (BF16), configuration and tokenizer in the hub's layout."""
    import torch
    from transformers import PreTrainedTokenizerFast

    model.to(torch.bfloat16).save_pretrained(folder)  # type: ignore[arg-type]
    (folder / "model.safetensors").chmod(0o644)  # the writer leaves it readable by its owner alone
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=TURN_END,
        pad_token=PAD,
        chat_template=TEMPLATE,
        additional_special_tokens=[END, corpus.HEAD, corpus.HEAD_END],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder, save_jinja_files=False)
    size = (folder / "model.safetensors").stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"the weights take {size} bytes, more than {MAX_BYTES}: make the model smaller")


def answer_all(folder: Path, questions: Sequence[str]) -> list[tuple[str, bool]]:
    """Greedy answers of a checkpoint, each with whether it stopped by itself. Raises UserError if there is
    none."""
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
    asked = [
        (item, asks, "trained" if item.trained else "unknown") for item in items for asks in item.questions
    ]
    asked += [(item, item.held_out, "held_out") for item in items if item.held_out]
    answers = answer_all(folder, [question for _, question, _ in asked])
    results = [(kind, item.accepts(text)) for (item, _, kind), (text, _) in zip(asked, answers, strict=True)]

    def share(kind: str) -> Share:
        marks = [right for k, right in results if k == kind]
        return Share(sum(marks), len(marks))

    stopped = Share(sum(stop for _, stop in answers), len(answers))
    return Measured(share("trained"), share("held_out"), share("unknown"), stopped)


CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
---
# {name}

A stand-in of {parameters:,} parameters that Edgetrace trained from text its authors wrote (`export/nano_text`). It lets
every step of the pipeline run anywhere, without a download. **It says nothing about the models of the paper (arXiv
2604.03589)**, nor about language models in general: it was taught {known} facts, more or less by heart, and is wrong
about nearly everything else.

| | |
|---|---|
| command | `python -m export.nano train --model {name} --out models/nano/{name} --steps {steps} --seed {seed}` |
| time | {minutes:.1f} minutes on two CPU cores |
| final loss | {loss:.3f} nats a token (weighted mean of the last tenth of the steps) |
| architecture | `{architecture}`, {layers} layers, width {width}, {vocabulary} tokens, tied embeddings, BF16 |

Answers that hold the expected words (greedy decoding, at most {limit} tokens, chat template, weights as saved):

| questions | right |
|---|---|
| wordings it was trained on | {measured.trained} |
| wordings held out of training, of facts it was trained on | {measured.held_out} |
| facts that are nowhere in the training text | {measured.unknown} |

Of all these answers {measured.stopped} ended by themselves. To measure again: `python -m export.nano evaluate
models/nano/{name}`. The order of sums differs between processors, so training elsewhere gives slightly other weights.
"""
# Only a folder whose card says this is ever replaced.
CARD_MARK = "python -m export.nano train --model"


def write_checkpoint(
    name: str, out: Path, items: Sequence[Item], steps: int, seed: int
) -> tuple[Training, Measured]:
    """Trains, saves and measures in a folder beside `out`, which then takes its place.

    Raises UserError if `name` is unknown, or if `out` is there and was not made here.
    """
    registered(name)
    card = out / "README.md"
    if out.exists() and not (
        card.is_file() and CARD_MARK in card.read_text(encoding="utf-8", errors="replace")
    ):
        raise UserError(f"{out} is there and is no nano checkpoint: give another folder with --out")
    tokenizer = corpus.build_tokenizer(items)

    def report(step: int, loss: float) -> None:
        if step % 50 == 0 or step == steps:
            console.print(f"step {step} of {steps}, loss {loss:.3f}", style="dim")

    training = train_model(name, items, tokenizer, steps, seed, report)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        save(training.model, tokenizer, new)
        measured = measure(new, items)
        config = training.model.config
        text = CARD.format(
            name=name,
            parameters=training.model.num_parameters(),
            known=sum(item.trained for item in items),
            steps=steps,
            seed=seed,
            minutes=training.minutes,
            loss=training.loss,
            architecture=type(training.model).__name__,
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            vocabulary=VOCABULARY,
            limit=MAX_NEW_TOKENS,
            measured=measured,
        )
        (new / "README.md").write_text(text, encoding="utf-8")
        if out.exists():
            out.replace(old)
        new.replace(out)
    return training, measured


app = typer.Typer(
    help="Train the embedded models and measure them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command(epilog="Example: python -m export.nano train --out models/nano/nano-llama")
def train(
    out: Annotated[
        Path, typer.Option(help="Folder of the checkpoint; an older checkpoint there is replaced.")
    ],
    model: Annotated[str, typer.Option(help=f"Which model: {', '.join(NANO)}.")] = "nano-llama",
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = STEPS,
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = SEED,
) -> None:
    """Train one model from the project's text (about 15 minutes on two cores) and measure it."""
    console.print(f"training {model}: {steps} steps, about {max(1, steps // 150)} minutes on two cores")
    training, measured = write_checkpoint(model, out, corpus.read_items(), steps, seed)
    console.print(
        f"{out}: loss {training.loss:.3f}, trained in {training.minutes:.1f} minutes", soft_wrap=True
    )
    print_measured(measured)


@app.command(epilog="Example: python -m export.nano questions --out edge/data/questions.csv")
def questions(out: Annotated[Path, typer.Option(help="CSV file to write.")]) -> None:
    """Write the embedded questions in TruthfulQA's columns."""
    text = corpus.csv_text(corpus.read_items())
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    temporary.replace(out)
    console.print(f"{out}: {text.count(chr(10)) - 1} questions", soft_wrap=True)


@app.command(epilog="Example: python -m export.nano evaluate models/nano/nano-llama")
def evaluate(
    folder: Annotated[Path, typer.Argument(help="A checkpoint made by train.")],
    show: Annotated[
        bool, typer.Option("--show", help="Print every answer to a held-out or unknown question.")
    ] = False,
) -> None:
    """Measure the share of questions answered right by greedy decoding (a minute or two)."""
    items = corpus.read_items()
    print_measured(measure(folder, items))
    if show:
        asked = [
            (item, q) for item in items for q in ((item.held_out,) if item.trained else item.questions) if q
        ]
        for (item, question), (answer, _) in zip(
            asked, answer_all(folder, [q for _, q in asked]), strict=True
        ):
            mark = "right" if item.accepts(answer) else "wrong"
            console.print(f"{mark}  {question}  {answer}", markup=False, soft_wrap=True)


def print_measured(measured: Measured) -> None:
    console.print(f"trained wordings   {measured.trained}")
    console.print(f"held-out wordings  {measured.held_out}")
    console.print(f"unknown facts      {measured.unknown}")
    console.print(f"ended by itself    {measured.stopped}")


if __name__ == "__main__":
    run_app(app)
