"""The vocabulary of a GGUF file as a checkpoint's tokenizer files with the same ids.

llama.cpp knows pre-tokenizers by name. Only the names whose rule is known here are read; the build then
proves the ids against llama.cpp's own, where it is installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.errors import UserError
from export.gguf_tokenizer import (
    BYTE,
    CONTROL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from export.sentencepiece import written_pieces
from export.tokenizer_forms import LLAMA3_WORDS, META_SPACE, QWEN2_WORDS, bpe
from export.tokenizer_rules import PLAIN

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2_LEVEL = {**BYTE_LEVEL, "use_regex": True}
ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "falcon3": "llama-bpe"}  # of the same rule


def words(pattern: str) -> list[dict[str, Any]]:
    """Cuts a text by a pattern, then writes its bytes as characters."""
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, BYTE_LEVEL]


# By tokenizer.ggml.pre of a byte-level BPE: the pre-tokenizers, and whether a word that is a token is taken
# whole.
BYTE_LEVEL_FORMS: dict[str, tuple[list[dict[str, Any]], bool]] = {
    "gpt-2": ([GPT2_LEVEL], False),
    "llama-bpe": (words(LLAMA3_WORDS), True),
    "smaug-bpe": (words(LLAMA3_WORDS), False),
    "qwen2": (words(QWEN2_WORDS), False),
    "deepseek-r1-qwen": (words(QWEN2_WORDS), False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, GPT2_LEVEL], False),
}


def tokenizer_files(path: Path, keys: Mapping[str, Any], rows: int) -> dict[str, bytes]:
    """Name -> content of the tokenizer's files, for a model with so many rows.

    A vocabulary with scores has them in a tokenizer.model, so that they can go into a GGUF file again.
    Raises UserError, with the reason, for a vocabulary whose exact form is not known.
    """
    read = Vocabulary(path, keys)
    form = FORMS.get(read.model)
    if form is None:
        raise UserError(
            f"{path} has a tokenizer of the kind {read.model!r}, whose exact form is not known (known: "
            f"{', '.join(FORMS)}): build from the checkpoint"
        )
    if len(read.tokens) > rows:
        raise UserError(f"{path} has {len(read.tokens)} tokens for {rows} rows: download it again")
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": read.added(),
        "post_processor": read.post_processor(),
        **form(read),
    }
    settings: dict[str, Any] = {"tokenizer_class": PLAIN, "clean_up_tokenization_spaces": False}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        token_id = read.special(key)
        if token_id is not None:
            settings[f"{role}_token"] = read.tokens[token_id]
    template = keys.get("tokenizer.chat_template")
    if isinstance(template, str):
        settings["chat_template"] = template
    ends = [i for role in ("eos", "eot", "eom") if (i := read.special(role)) is not None]
    contents: dict[str, Any] = {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": settings,
        "generation_config.json": {"eos_token_id": sorted(set(ends))},
    }
    files = {name: json.dumps(content, ensure_ascii=False).encode() for name, content in contents.items()}
    if form is scored:
        files["tokenizer.model"] = written_pieces(zip(read.tokens, read.scores(), read.types, strict=True))
    return files


class Vocabulary:
    """The tokenizer.ggml keys of one file. Raises UserError for a file without a vocabulary."""

    def __init__(self, path: Path, keys: Mapping[str, Any]) -> None:
        self.path, self._keys = path, keys
        self.model, self.pre = str(self.get("model")), str(self.get("pre") or "default")
        self.tokens: Sequence[str] = self.list_of("tokens", str)
        self.types: Sequence[int] = self.list_of("token_type", int) or [1] * len(self.tokens)
        if not self.tokens or len(self.types) != len(self.tokens):
            raise UserError(f"{path} holds no tokenizer: build from the checkpoint, or take another file")
        if len(set(self.tokens)) < len(self.tokens):
            raise UserError(f"{path} has two tokens with the same text: download it again")
        # Rows beyond the tokenizer have such names in GGUF files, and no token in tokenizer.json.
        self.ids = {
            text: i for i, text in enumerate(self.tokens) if self.types[i] != UNUSED or text != f"[PAD{i}]"
        }

    def get(self, key: str) -> Any:
        return self._keys.get(f"tokenizer.ggml.{key}")

    def list_of(self, key: str, kind: type) -> list[Any]:
        value = self.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(entry, kind) for entry in value):
            raise UserError(f"{self.path} has a tokenizer.ggml.{key} of another type: download it again")
        return value

    def scores(self) -> list[float]:
        """A score for each token; raises UserError where one is missing."""
        scores: list[float] = self.list_of("scores", float)
        if len(scores) != len(self.tokens):
            raise UserError(f"{self.path} has no score for each token: download it again")
        return scores

    def special(self, role: str) -> int | None:
        """The id that the file gives a role, None for none."""
        token_id = self.get(f"{role}_token_id")
        return token_id if isinstance(token_id, int) and 0 <= token_id < len(self.tokens) else None

    def added(self) -> list[dict[str, Any]]:
        """Tokens that are found in a text before it is cut: control tokens, and those of the user."""
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        unknown = UNKNOWN if self.model == "llama" else CONTROL
        return [
            {"id": i, "content": text, **flags, "special": kind != USER_DEFINED}
            for i, (text, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in (CONTROL, USER_DEFINED, unknown)
        ]

    def post_processor(self) -> dict[str, Any] | None:
        """Puts BOS before a text and EOS after it, as the file says."""
        around = []
        for role, default in (("bos", self.model == "llama"), ("eos", False)):
            wanted, token_id = self.get(f"add_{role}_token"), self.special(role)
            if (default if wanted is None else wanted) and token_id is not None:
                around.append((role, token_id))
        if not around:
            return None
        names = {role: self.tokens[token_id] for role, token_id in around}

        def sequence(kinds: Sequence[str]) -> list[dict[str, Any]]:
            parts: list[dict[str, Any]] = []
            for number, kind in enumerate(kinds):
                for role in ("bos", "", "eos"):
                    if not role:
                        parts.append({"Sequence": {"id": kind, "type_id": number}})
                    elif role in names:
                        parts.append({"SpecialToken": {"id": names[role], "type_id": number}})
            return parts

        return {
            "type": "TemplateProcessing",
            "single": sequence("A"),
            "pair": sequence("AB"),
            "special_tokens": {
                self.tokens[i]: {"id": self.tokens[i], "ids": [i], "tokens": [self.tokens[i]]}
                for _, i in around
            },
        }

    def merges(self) -> list[list[str]]:
        """The merges as pairs; the first character of each half may be the space that llama.cpp cuts at."""
        pairs = []
        for text in self.list_of("merges", str):
            cut = text.find(" ", 1)
            left, space, right = (text[:cut], text[cut], text[cut + 1 :]) if cut > 0 else (text, "", "")
            if not space:
                raise UserError(
                    f"{self.path} has the merge {text[:40]!r}, which has one part: download it again"
                )
            pairs.append([left, right])
        return pairs


def byte_level(read: Vocabulary) -> dict[str, Any]:
    """`gpt2`: byte-level BPE, cut into words by the rule that tokenizer.ggml.pre names."""
    name = ALIASES.get(read.pre, read.pre)
    if name not in BYTE_LEVEL_FORMS:
        raise UserError(
            f"{read.path} cuts text into words by the rule {read.pre!r}, whose exact form is not known "
            f"(known: {', '.join(BYTE_LEVEL_FORMS)}): build from the checkpoint"
        )
    parts, whole = BYTE_LEVEL_FORMS[name]
    return {
        "normalizer": None,
        "pre_tokenizer": parts[0] if len(parts) == 1 else {"type": "Sequence", "pretokenizers": parts},
        "decoder": GPT2_LEVEL,
        "model": bpe(read.ids, read.merges(), ignore_merges=whole),
    }


def scored(read: Vocabulary) -> dict[str, Any]:
    """`llama`: SentencePiece's BPE, which merges the pair with the highest score, with bytes for the rest.

    The merge with the higher score comes first, as transformers converts such vocabularies.
    """
    scores, ids = read.scores(), read.ids
    # In the order of their ids: equal scores give the same merges each time.
    normal = {text: i for text, i in ids.items() if read.types[i] not in (CONTROL, UNKNOWN, BYTE)}
    pairs = []
    for text in normal:
        halves = ((text[:cut], text[cut:]) for cut in range(1, len(text)))
        local = [(left, right) for left, right in halves if left in normal and right in normal]
        local.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        pairs += [(scores[ids[text]], left, right) for left, right in local]
    pairs.sort(key=lambda entry: entry[0], reverse=True)
    prefix = read.get("add_space_prefix")
    spaces: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": " "}, "content": META_SPACE},
    ]
    strip: list[dict[str, Any]] = []
    if prefix is None or prefix:
        spaces.insert(0, {"type": "Prepend", "prepend": META_SPACE})
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    unknown = read.special("unknown")
    return {
        "normalizer": {"type": "Sequence", "normalizers": spaces},
        "pre_tokenizer": None,
        "decoder": fallback_decoder(strip),
        "model": bpe(
            read.ids,
            [[left, right] for _, left, right in pairs],
            unk_token=None if unknown is None else read.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def merged_spaces(read: Vocabulary) -> dict[str, Any]:
    """`gemma4`: merges over characters with spaces as U+2581, bytes for the rest."""
    unknown = read.special("unknown")
    return {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": META_SPACE},
        "pre_tokenizer": None,
        "decoder": fallback_decoder([]),
        "model": bpe(
            read.ids,
            read.merges(),
            unk_token=None if unknown is None else read.tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def fallback_decoder(behind: list[dict[str, Any]]) -> dict[str, Any]:
    """U+2581 to a space, byte tokens to bytes."""
    spaces = {"type": "Replace", "pattern": {"String": META_SPACE}, "content": " "}
    return {
        "type": "Sequence",
        "decoders": [spaces, {"type": "ByteFallback"}, {"type": "Fuse"}, *behind],
    }


FORMS: dict[str, Callable[[Vocabulary], dict[str, Any]]] = {
    "gpt2": byte_level,
    "llama": scored,
    "gemma4": merged_spaces,
}
