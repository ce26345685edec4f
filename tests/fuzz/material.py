"""The well-formed files that are mutated: tiny checkpoints, artifacts, GGUF files and runs."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

from tests import models
from tests.conftest import NANO_LLAMA, write_questions
from tests.fuzz import gguf
from tests.fuzz.forked import Command, run

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
CHECKPOINTS = {
    "llama": {"rope_scaling": models.LLAMA3},
    "qwen2": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 20,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "tie_word_embeddings": False},
    "gemma3": models.SHAPES["gemma3"] | TINY | {"sliding_window": 20},
}
QUESTIONS = ("Do bats see?", "Why, and how many — 3 or 4?", "Is the sea flat?")


class Material:
    """Everything a case is made from, in one folder; made once, by the commands themselves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = {name: folder / "checkpoints" / name for name in CHECKPOINTS}
        self.nano = folder / "checkpoints" / "nano"
        self.artifact = folder / "artifacts" / "llama" / "onnx-fp32"
        self.gguf = [folder / f"{name}.gguf" for name in ("llama", "qwen2", "gemma3", "spm")]
        self.questions = folder / "questions.csv"
        self.runs = [folder / "runs" / name for name in ("free", "forced")]
        if not (folder / "whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._make()
            (folder / "whole").touch()

    def _make(self) -> None:
        for name, changes in CHECKPOINTS.items():
            write(self.checkpoints[name], TINY | changes)
            nano = self.folder / "checkpoints" / f"nano-{name}"
            write(nano, TINY | changes | {"vocab_size": 2048, "use_sliding_window": False})
            for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
                shutil.copyfile(NANO_LLAMA / file, nano / file)
        (self.folder / "checkpoints" / "nano-llama").rename(self.nano)
        self._build(self.checkpoints["llama"], "onnx-fp32", self.artifact.parent)
        for path in self.gguf[:3]:
            source = self.nano if path.stem == "llama" else self.nano.with_name(f"nano-{path.stem}")
            self._build(source, "gguf-f32", self.folder / "artifacts" / f"gguf-{path.stem}")
            shutil.copyfile(
                self.folder / "artifacts" / f"gguf-{path.stem}" / "gguf-f32" / "model.gguf", path
            )
        self.gguf[3].write_bytes(with_pieces(self.gguf[0].read_bytes()))
        write_questions(self.questions, QUESTIONS)
        free, forced = map(str, self.runs)
        shared = ["--max-new-tokens", "4", "--quiet", "--threads", "1"]
        questions = ["--questions", str(self.questions)]
        self._must("edge", "run", str(self.artifact), "--out", free, "--reference", *questions, *shared)
        self._must(
            "edge", "force", str(self.artifact), "--like", free, "--out", forced, "--quiet", "--threads", "1"
        )
        self._must("edge", "label", free, "--auto", *questions)
        for path in self.gguf:
            self._must("edge", "ask", str(path), "Do bats see?", "--max-new-tokens", "2")

    def warming(self, folder: Path) -> list[tuple[str, tuple[str, ...]]]:
        """Commands that import what those of the cases do."""
        free, forced = map(str, self.runs)
        asked = ("Do bats see?", "--max-new-tokens", "2", "--threads", "1")
        new = str(folder / "run")
        return [
            ("edge-export", ("build", str(self.nano), "--to", "gguf-f32", "--out", str(folder / "built"))),
            ("edge", ("ask", str(self.gguf[0]), *asked)),
            ("edge", ("ask", str(self.artifact), *asked)),
            (
                "edge",
                ("run", str(self.artifact), "--out", new, "--questions", str(self.questions), "--quiet"),
            ),
            ("edge", ("compare", free, forced)),
            ("edge", ("report", free, forced, "--out", str(folder / "report.html"))),
            ("edge", ("label", new, "--auto", "--questions", str(self.questions))),
            ("edge", ("label", free, "--show")),
            ("edge", ("watch", free, "--once")),
            ("edge", ("paper", free, forced)),
        ]

    def _build(self, source: Path, precision: str, out: Path) -> None:
        self._must("edge-export", "build", str(source), "--to", precision, "--out", str(out))

    def _must(self, program: str, *arguments: str) -> None:
        ended = run(Command(program, arguments), self.folder)
        if ended.code != 0:
            raise RuntimeError(f"{program} {' '.join(arguments)} gave {ended.code}: {ended.err}")


def write(folder: Path, config: dict[str, Any]) -> None:
    """A checkpoint with each kind of file that a tokenizer may have."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    models.write_checkpoint(folder, models.config_of(**config))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings |= {
        "add_bos_token": True,
        "added_tokens_decoder": {
            "0": {"content": models.BOS, "special": True, "lstrip": False},
            "3": {"content": models.END, "special": True},
        },
        "chat_template": models.CHAT_TEMPLATE,
        "model_max_length": 512,
    }
    models.write_json(path, settings)
    models.write_json(
        folder / "special_tokens_map.json",
        {"bos_token": models.BOS, "eos_token": {"content": models.EOS, "lstrip": False}},
    )


def with_pieces(content: bytes) -> bytes:
    """The file with a SentencePiece vocabulary of as many entries: bytes, letters, scores and types."""
    file, rng = gguf.read(content), random.Random(0)
    letters = [chr(c) for c in range(33, 127)] + ["▁"]
    pieces = [
        b"<unk>",
        b"<s>",
        b"</s>",
        *(b"<0x%02X>" % b for b in range(256)),
        *(c.encode() for c in letters),
    ]
    seen = set(pieces)
    while len(pieces) < 2048:
        piece = "".join(rng.choices(letters, k=rng.randrange(2, 5))).encode()
        if piece not in seen:
            seen.add(piece)
            pieces.append(piece)
    types = [2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259)
    scores = [-float(i) for i in range(len(pieces))]
    file.keys = [key for key in file.keys if not key.name.startswith(b"tokenizer.")]
    for name, kind, value in (
        ("model", 8, b"llama"),
        ("pre", 8, b"default"),
        ("tokens", 9, (8, pieces)),
        ("scores", 9, (6, scores)),
        ("token_type", 9, (5, types)),
        ("bos_token_id", 4, 1),
        ("eos_token_id", 4, 2),
        ("unknown_token_id", 4, 0),
        ("add_bos_token", 7, True),
    ):
        file.keys.append(gguf.Key(f"tokenizer.ggml.{name}".encode(), kind, value))
    return gguf.write(file)
