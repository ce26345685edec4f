"""The kinds of files that are mutated, and the commands that read each."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fuzz import gguf, tokenizer
from tests.fuzz.forked import Command
from tests.fuzz.material import Material
from tests.fuzz.mutations import STRINGS, change_bytes, mutated

# Writes a case's mutated file into its folder and gives the commands that read it.
Case = Callable[[Material, Path, random.Random], list[Command]]
ASK = ("Do bats see?", "--max-new-tokens", "2", "--threads", "1")


def checkpoint(source: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose weights are linked."""
    copy = folder / "checkpoint"
    copy.mkdir()
    for path in source.iterdir():
        if path.suffix == ".safetensors":
            (copy / path.name).symlink_to(path)
        else:
            shutil.copyfile(path, copy / path.name)
    return copy


def build(source: Path, folder: Path, to: str = "onnx-fp32") -> list[Command]:
    """Builds an artifact and asks it."""
    out = folder / "built"
    return [
        Command("edge-export", ("build", str(source), "--to", to, "--out", str(out))),
        Command("edge", ("ask", str(out / to), *ASK)),
    ]


def target(rng: random.Random) -> str:
    return "gguf-f32" if rng.random() < 0.15 else "onnx-fp32"


def tokenizer_json(material: Material, folder: Path, rng: random.Random) -> list[Command]:
    source = material.nano if rng.random() < 0.3 else material.checkpoints["llama"]
    copy = checkpoint(source, folder)
    path = copy / "tokenizer.json"
    path.write_bytes(mutated(path.read_bytes(), rng, *tokenizer.CHANGES, share=0.6))
    return build(copy, folder, target(rng))


def tokenizer_config_json(material: Material, folder: Path, rng: random.Random) -> list[Command]:
    copy = checkpoint(material.checkpoints["llama"], folder)
    others = ("special_tokens_map.json", "generation_config.json")
    path = copy / ("tokenizer_config.json" if rng.random() < 0.8 else rng.choice(others))
    path.write_bytes(mutated(path.read_bytes(), rng))
    return build(copy, folder)


def config_json(material: Material, folder: Path, rng: random.Random) -> list[Command]:
    copy = checkpoint(rng.choice(list(material.checkpoints.values())), folder)
    path = copy / "config.json"
    path.write_bytes(mutated(path.read_bytes(), rng))
    return build(copy, folder, target(rng))


def gguf_header(material: Material, folder: Path, rng: random.Random) -> list[Command]:
    path = folder / "model.gguf"
    path.write_bytes(gguf.mutated(rng.choice(material.gguf).read_bytes(), rng))
    return [Command("edge", ("ask", str(path), *ASK))]


def questions_csv(material: Material, folder: Path, rng: random.Random) -> list[Command]:
    path = folder / "questions.csv"
    data = material.questions.read_bytes()
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = change_bytes(data, rng) if rng.random() < 0.5 else change_cells(data, rng)
    path.write_bytes(data)
    out = str(folder / "run")
    return [
        Command(
            "edge",
            (
                *("run", str(material.artifact), "--questions", str(path), "--out", out, "--limit", "3"),
                *("--max-new-tokens", "2", "--quiet", "--threads", "1"),
            ),
        ),
        Command("edge", ("label", out, "--auto", "--questions", str(path))),
    ]


def change_cells(data: bytes, rng: random.Random) -> bytes:
    """Cells, separators, quotes and rows of a CSV."""
    text = data.decode("utf-8", "surrogateescape")
    rows = [line.split(",") for line in text.split("\r\n")]
    row = rng.choice(rows)
    cell = rng.randrange(len(row))
    change = rng.choice(("cell", "cell", "more", "less", "separator", "quote", "row", "end", "double"))
    if change == "cell":
        some = rng.choice(
            (*STRINGS, "=1+1", "a;b;c", ";", "a " * 3000, "<|end|>", "<s>" * 50, '"', '"a\nb"')
        )
        row[cell] = some
    elif change == "more":
        row.insert(cell, "surplus")
    elif change == "less":
        del row[cell]
    elif change == "row":
        rows.insert(rng.randrange(len(rows)), list(row))
    elif change == "double":
        rows = rows * 2
    text = "\r\n".join(",".join(cells) for cells in rows)
    if change == "separator":
        text = text.replace(",", rng.choice((";", "\t", "|")))
    elif change == "quote":
        text = text.replace(rng.choice(("?", "Yes", ",")), '"', 1)
    elif change == "end":
        text = text.replace("\r\n", rng.choice(("\r", "\n", "\n\n", "\x85", "\u2028")))
    return text.encode(
        "utf-8", "surrogatepass" if "\ud800" in text or "\udfff" in text else "surrogateescape"
    )


def run_json(material: Material, folder: Path, rng: random.Random) -> list[Command]:
    for run in material.runs:
        shutil.copytree(run, folder / run.name)
    free, forced = (str(folder / run.name) for run in material.runs)
    path = folder / rng.choice(material.runs).name / "run.json"
    path.write_bytes(mutated(path.read_bytes(), rng))
    changed, artifact = str(path.parent), str(material.artifact)
    again = ("--out", changed, "--max-new-tokens", "4", "--quiet", "--threads", "1")
    commands = (
        ("compare", free, forced),
        ("compare", free, forced, "--json", str(folder / "c.json")),
        ("report", free, forced, "--out", str(folder / "report.html")),
        ("watch", changed, "--once"),
        ("watch", changed, "--once", "--json", "-"),
        ("label", changed, "--show"),
        ("run", artifact, "--questions", str(material.questions), "--reference", *again),
        ("force", artifact, "--like", free, "--out", str(folder / "new"), "--quiet", "--threads", "1"),
        ("paper", free, forced),
        ("merge", changed, "--out", str(folder / "merged")),
        ("label", changed, "--export", str(folder / "labels.csv")),
    )
    return [Command("edge", arguments) for arguments in rng.sample(commands, 3)]


def manifest_json(material: Material, folder: Path, rng: random.Random) -> list[Command]:
    copy = folder / "artifacts" / "one"
    copy.mkdir(parents=True)
    for path in material.artifact.iterdir():
        if path.is_file():
            (copy / path.name).symlink_to(path)
    path = copy / "manifest.json"
    path.unlink()
    path.write_bytes(mutated((material.artifact / "manifest.json").read_bytes(), rng))
    commands = [
        ("ask", str(copy), *ASK),
        ("ask", str(copy), "--json", *ASK),
        ("models", "--under", str(folder / "artifacts")),
        ("models", "--under", str(folder / "artifacts"), "--json", str(folder / "models.json")),
        (
            *("run", str(copy), "--questions", str(material.questions), "--out", str(folder / "run")),
            *("--limit", "1", "--max-new-tokens", "2", "--quiet"),
        ),
    ]
    return [Command("edge", arguments) for arguments in rng.sample(commands, 2)]


KINDS: dict[str, tuple[Case, bool]] = {  # and whether a command runs only if the one before gave 0
    "tokenizer": (tokenizer_json, True),
    "tokenizer_config": (tokenizer_config_json, True),
    "config": (config_json, True),
    "gguf": (gguf_header, True),
    "csv": (questions_csv, True),
    "run": (run_json, False),
    "manifest": (manifest_json, False),
}


def commands(kind: str, seed: int, material: Material, folder: Path) -> Iterator[tuple[Command, bool]]:
    """A case's commands, each with whether it needs the one before."""
    case, needs = KINDS[kind]
    for command in case(material, folder, random.Random(f"{kind}-{seed}")):
        yield command, needs
