"""A checkpoint's tokenizer as llama.cpp can hold it, or the reason why it cannot.

llama.cpp knows pre-tokenizers by name and splits text with regular expressions of its own. So only forms
known to be the same are written, and `prove` compares the ids of a corpus. Edgetrace itself always encodes
with tokenizer.json; what is written here serves other programs that read the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers

from edge.backends.llama_vocabulary import LlamaTokenizer
from edge.backends.tokenizer import JsonTokenizer
from edge.backends.tokenizer_library import TokenizerError, load_tokenizer
from edge.errors import UserError
from export.gguf_template import beyond
from export.sentencepiece import read_pieces
from export.tokenizer import TokenizerFiles, id_list
from export.tokenizer_forms import LLAMA3_WORDS, META_SPACE, QWEN2_WORDS, added_around

# llama_token_type, as sentencepiece numbers them.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
DEEPSEEK_BOS = "<｜begin▁of▁sentence｜>"
END_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>")
MOST_ADDED = 64  # added tokens that are compared
BYTES = {f"<0x{i:02X}>" for i in range(256)}

# Numbers, spaces, emoji, code and scripts, in NFC: llama.cpp does not normalise, and qwen's tokenizer.json
# does.
CORPUS = (
    "Hello, world! It's 3.14159 or 2,718,281? I'LL say we've won; they'd not.",
    "  two  spaces,\ttabs\t\tand\n\nlines \n of\r\n both kinds   \n",
    "1 12 123 1234 12345 123456 007 1e-9 0x1F ½ ² ٣٤٥ 一二三",
    'def f(x: int) -> str:\n    return f"{x!r:>10}"  # done\n\n\nif __name__ == '
    "'__main__':\n\tprint(f(7))\n",
    '<p class="a b">x &amp; y</p> {"k": [1, null, true]} https://example.org/a?b=c&d=%20#e user@example.org '
    "C:\\temp\\x",
    "🙂🙃 👩‍👩‍👧‍👦 👍🏽 🇩🇪🇯🇵 ❤️ ☃ → ∑ √ ≠ ∞ € ™ …",
    "Grüße aus Köln, déjà vu, señor, Łódź, İstanbul, naïve, ﬁn, ŒUVRE",
    "Привет, мир! Καλημέρα κόσμε. שלום עולם. مرحبا بالعالم.",
    "नमस्ते दुनिया, สวัสดีชาวโลก, 你好，世界。こんにちは世界、カタカナ。안녕하세요 세계",
    "a" * 40 + " " * 17 + "!" * 9 + "\n" * 5 + "'s 'S 't'RE don't DON'T",
)


@dataclass(frozen=True)
class Vocabulary:
    """The values of tokenizer.ggml.*; `model` "none" has a `reason` and only the special ids with it.

    `space_prefix` puts a space before a text, where there are scores. `template_tokens` are what the
    checkpoint's tokenizer gives to the template, by role. `templates` names the chat templates of a
    checkpoint that has several and none called default.
    """

    model: str
    pre: str = ""
    reason: str = ""
    tokens: Sequence[str] = ()
    types: Sequence[int] = ()
    scores: Sequence[float] | None = None
    merges: Sequence[str] | None = None
    special_ids: dict[str, int] | None = None
    space_prefix: bool = False
    add_bos: bool = False
    add_eos: bool = False
    template: str = ""
    template_tokens: Mapping[str, str | list[str]] | None = None
    templates: tuple[str, ...] = ()

    def describe(self) -> dict[str, str]:
        """The tokenizer as the manifest records it."""
        return {"model": self.model} | ({"reason": self.reason} if self.reason else {"pre": self.pre})

    def added(self) -> tuple[str, ...]:
        """Texts of the first control tokens and user-defined tokens, and of those that look like some.

        llama.cpp takes well-known texts such as <|eot_id|> for control tokens, whatever their type is.
        """
        pairs = list(zip(self.tokens, self.types, strict=True))
        added = [text for text, kind in pairs if kind in (CONTROL, USER_DEFINED)]
        alike = [text for text, kind in pairs if kind == NORMAL and text[:1] == "<" and text[-1:] == ">"]
        return (*added[:MOST_ADDED], *alike[:MOST_ADDED])

    def without(self, reason: str) -> Vocabulary:
        """A copy for a file without a tokenizer."""
        return replace(
            self, model="none", pre="", reason=reason, tokens=(), types=(), scores=None, merges=None
        )


def read_vocabulary(files: TokenizerFiles, size: int, first: object = None) -> Vocabulary:
    """Reads tokenizer.json, and tokenizer.model beside it, for a model with `size` embedding rows.

    Added tokens beyond the rows are left out: the model cannot be given them (gemma-3-1b has an image token
    there that only its larger siblings use). `first` is config.json's bos_token_id, for the tokenizers that
    put nothing before a text. Raises UserError when a file is damaged.
    """
    raw = json.loads(files.content)
    try:
        tokenizer = load_tokenizer(files.content.encode())
    except TokenizerError as error:
        raise UserError(f"tokenizer.json is damaged ({error}): download it again") from error
    model, pre, reason = form(raw)
    pieces = files.pieces
    scores: list[float] | None = None
    tokens, types = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    if model in ("gemma4", "llama") and pieces.is_file():
        model, pre, scores = "llama", "default", [-1000.0] * size
        for i, (text, score, kind) in enumerate(read_pieces(pieces)):
            if i < size:
                tokens[i], types[i], scores[i] = text, kind, score
    elif model == "llama":
        model, reason = "none", "a tokenizer with a space before a text needs its tokenizer.model"
    else:
        for text, i in raw.get("model", {}).get("vocab", {}).items() if model != "none" else ():
            if i < size:
                tokens[i], types[i] = text, BYTE if model == "gemma4" and is_byte(text) else NORMAL
    for added in raw.get("added_tokens") or ():
        if added["id"] < size:
            tokens[added["id"]] = added["content"]
            if types[added["id"]] != UNKNOWN:  # which only tokenizer.model says
                types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if max(tokenizer.get_vocab(with_added_tokens=False).values(), default=0) >= size:
        model, reason = "none", f"the tokenizer has more tokens than the model's {size} embedding rows"
    if reason_beyond := beyond(files, tokenizer, size):
        model, reason = "none", reason_beyond
    if files.rules.split_special_tokens:
        model, reason = "none", "llama.cpp has no equivalent of split_special_tokens"
    # For either of these two llama.cpp ends the process.
    if len(set(tokens)) < size:
        model, reason = "none", "two of the tokenizer's tokens have the same text"
    written = {text for text, kind in zip(tokens, types, strict=True) if kind == BYTE}
    if scores is not None and written != BYTES:
        model, reason = "none", "tokenizer.model has not every byte as a token"
    before, after = added_around(tokenizer)
    if len(before) > 1 or len(after) > 1:
        model, reason = "none", "the post-processor puts more than one token before or after a text"
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in raw.get("model", {}).get("merges") or ()
    ]
    vocabulary = Vocabulary(
        model,
        pre,
        reason,
        tokens,
        types,
        scores,
        merges if scores is None else None,
        special_ids(tokenizer, files, size, before, after, first),
        has_prefix(raw.get("normalizer") or {}),
        bool(before),
        bool(after),
        files.chat_template,
        files.template_tokens(),
        files.rules.templates,
    )
    return vocabulary.without(reason) if model == "none" else vocabulary


def form(raw: dict[str, Any]) -> tuple[str, str, str]:
    """tokenizer.ggml.model and .pre of a tokenizer.json, or ("none", "", the reason)."""
    model, pre, normaliser = (raw.get(part) or {} for part in ("model", "pre_tokenizer", "normalizer"))
    if (
        model.get("type") != "BPE"
        or model.get("dropout")
        or model.get("continuing_subword_prefix")
        or model.get("end_of_word_suffix")
    ):
        return (
            "none",
            "",
            f"llama.cpp has no equivalent of the tokenizer model {model.get('type')!r} with its settings",
        )
    if any(
        added.get(flag)
        for added in raw.get("added_tokens") or ()
        for flag in ("lstrip", "rstrip", "single_word")
    ):
        return (
            "none",
            "",
            "llama.cpp has no equivalent of added tokens that take the spaces beside them or stand alone",
        )
    if model.get("byte_fallback"):
        steps = normaliser.get("normalizers") or [normaliser]
        spaces = steps[-1].get("type") == "Replace" and steps[-1].get("content") == META_SPACE
        alone = len(steps) == 1 or (len(steps) == 2 and has_prefix(normaliser))
        cut = not pre or (pre.get("type") == "Split" and pre.get("pattern") == {"String": " "})
        over = any("\n" in text and text.strip("\n") for text in map(joined, model.get("merges") or ()))
        if spaces and alone and cut and not over and not model.get("ignore_merges"):
            return ("llama", "default", "") if has_prefix(normaliser) else ("gemma4", "gemma4", "")
        return "none", "", "llama.cpp has no equivalent of this byte-fallback tokenizer"
    if normaliser.get("normalizers") == []:
        normaliser = {}  # a sequence of none, as DeepSeek's files have it
    if normaliser and normaliser.get("type") != "NFC":
        return "none", "", f"llama.cpp has no equivalent of the normaliser {normaliser.get('type')!r}"
    parts = pre.get("pretokenizers") or [pre]
    last = parts[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return "none", "", f"llama.cpp has no equivalent of the pre-tokenizer {pre.get('type')!r}"
    whole = bool(model.get("ignore_merges"))
    if len(parts) == 1 and last.get("use_regex", True) and not whole:
        return "gpt2", "gpt-2", ""
    split = parts[0]
    digits = split.get("type") == "Digits" and bool(split.get("individual_digits"))
    if len(parts) == 2 and digits and last.get("use_regex", True) and not whole:
        return "gpt2", "smollm", ""
    plain = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
    words = (
        split.get("pattern", {}).get("Regex")
        if len(parts) == 2 and plain and not last.get("use_regex", True)
        else None
    )
    if words == LLAMA3_WORDS:
        # Both cut alike; the first takes a word that is a token as it is, without merging.
        return "gpt2", "llama-bpe" if whole else "smaug-bpe", ""
    if words == QWEN2_WORDS and not whole:
        names = {added.get("content") for added in raw.get("added_tokens") or ()}
        return "gpt2", "deepseek-r1-qwen" if DEEPSEEK_BOS in names else "qwen2", ""
    return "none", "", "llama.cpp has no equivalent of the tokenizer's way of cutting text into words"


def joined(merge: str | list[str]) -> str:
    """The token that a merge gives; tokenizer.json has it as two strings, or as one with a space between."""
    return merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)


def has_prefix(normaliser: Mapping[str, Any]) -> bool:
    """Whether a normaliser of tokenizer.json first puts a space, as U+2581, before a text."""
    first = (normaliser.get("normalizers") or [normaliser])[0]
    return bool(first.get("type") == "Prepend" and first.get("prepend") == META_SPACE)


def is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def special_ids(
    tokenizer: tokenizers.Tokenizer,
    files: TokenizerFiles,
    size: int,
    before: list[int],
    after: list[int],
    first: object,
) -> dict[str, int]:
    """Ids by GGUF's role: bos, eos, unk, pad, eot, where there are any. llama.cpp makes up missing ones."""
    roles = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    ids = {
        role: tokenizer.token_to_id(files.special_tokens[name])
        for role, name in roles.items()
        if name in files.special_tokens
    }
    ids = {role: i for role, i in ids.items() if i is not None}
    if before:
        ids["bos"] = before[0]
    elif "bos" not in ids and (named := id_list(first)):
        ids["bos"] = named[0]
    own = ids.get("eos")
    ids["eos"] = after[0] if after else own if own in files.stop_ids else files.stop_ids[0]
    turn = next((i for text in END_OF_TURN if (i := tokenizer.token_to_id(text)) in files.stop_ids), None)
    others = [turn, *(i for i in files.stop_ids if i != ids["eos"])]
    ids["eot"] = next((i for i in others if i is not None), None)
    return {role: i for role, i in ids.items() if i is not None and 0 <= i < size}


def prove(path: Path, tokenizer: Path, added: Sequence[str]) -> str:
    """Compares llama.cpp's ids, with the GGUF file at `path`, with tokenizer.json's on the corpus, and on
    texts that hold the `added` tokens.

    Gives "" where all are equal, else a sentence that names the first text with others.
    """
    theirs, ours = LlamaTokenizer(path), JsonTokenizer(tokenizer)
    for text in (*CORPUS, *(f"a {token} b{token}\n{token}{token} c" for token in added)):
        for special in (False, True):
            if theirs.encode(text, special=special) != ours.encode(text, special=special):
                start = json.dumps(text[:40], ensure_ascii=False)
                return f"llama.cpp gives other tokens than tokenizer.json for {start}"
    return ""
