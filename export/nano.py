"""Trains the embedded models from the project's own text, and measures what they know.

    python -m export.nano train --out models/nano/nano-llama
    python -m export.nano questions --out edge/data/questions.csv
    python -m export.nano evaluate models/nano/nano-llama

They stand for the pipeline alone and say nothing about the models of the paper (arXiv 2604.03589).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edge.cli.common import console
from edge.cli.guard import run_app
from edge.errors import UserError
from export.nano_corpus import VOCABULARY, build_tokenizer
from export.nano_items import Item, csv_text, read_items
from export.nano_measure import MAX_NEW_TOKENS, Measured, answer_all, measure
from export.nano_train import NANO, SEED, STEPS, Training, registered, save, train_model

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
    tokenizer = build_tokenizer(items)

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
    training, measured = write_checkpoint(model, out, read_items(), steps, seed)
    console.print(
        f"{out}: loss {training.loss:.3f}, trained in {training.minutes:.1f} minutes", soft_wrap=True
    )
    print_measured(measured)


@app.command(epilog="Example: python -m export.nano questions --out edge/data/questions.csv")
def questions(out: Annotated[Path, typer.Option(help="CSV file to write.")]) -> None:
    """Write the embedded questions in TruthfulQA's columns."""
    text = csv_text(read_items())
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
    items = read_items()
    print_measured(measure(folder, items))
    if show:
        questions = [
            (item, q) for item in items for q in ((item.held_out,) if item.trained else item.questions) if q
        ]
        for (item, question), (answer, _) in zip(
            questions, answer_all(folder, [q for _, q in questions]), strict=True
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
