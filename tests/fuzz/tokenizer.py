"""Changes that fit a tokenizer.json: other components, tokens out of the vocabulary, limits."""

from __future__ import annotations

import random
from typing import Any

TEXTS = ("", " ", "a", "▁", "e", "Ġ", "##", "</w>", "[UNK]", "<unk>", "\x00", "ab", "é", "x" * 1000)
PATTERNS = ("", " ", "a", ".", "\\s+", "(", "[", "(?i:a)", "(?<=a)b", "\\p{L}+", "(a|b)*?", "^", "$", "\\")
SIDES: dict[str, Any] = {"add_prefix_space": True, "trim_offsets": False, "use_regex": True}


def pattern(rng: random.Random) -> dict[str, str]:
    return {rng.choice(("Regex", "String")): rng.choice(PATTERNS)}


def normalizer(rng: random.Random) -> Any:
    return rng.choice(
        (
            {
                "type": rng.choice(
                    ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel")
                )
            },
            {"type": "Replace", "pattern": pattern(rng), "content": rng.choice(TEXTS)},
            {"type": "Prepend", "prepend": rng.choice(TEXTS)},
            {"type": "Strip", "strip_left": True, "strip_right": True},
            {
                "type": "Precompiled",
                "precompiled_charsmap": rng.choice(("", "AAAA", "/////w==", "gAAAAA==", "A" * 64)),
            },
            {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
        )
    )


def pre_tokenizer(rng: random.Random) -> Any:
    behaviour = rng.choice(("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"))
    return rng.choice(
        (
            {"type": "Split", "pattern": pattern(rng), "behavior": behaviour, "invert": rng.random() < 0.5},
            {"type": "ByteLevel"} | SIDES,
            {"type": rng.choice(("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "UnicodeScripts"))},
            {"type": "Punctuation", "behavior": behaviour},
            {"type": "Digits", "individual_digits": True},
            {"type": "CharDelimiterSplit", "delimiter": rng.choice(("a", " ", "", "ab"))},
            {"type": "FixedLength", "length": rng.choice((0, 1, 5, 2**40))},
            metaspace(rng),
        )
    )


def metaspace(rng: random.Random) -> Any:
    scheme = rng.choice(("always", "first", "never"))
    return {
        "type": "Metaspace",
        "replacement": rng.choice(("▁", "", "ab")),
        "prepend_scheme": scheme,
        "split": True,
    }


def decoder(rng: random.Random) -> Any:
    return rng.choice(
        (
            {"type": rng.choice(("Fuse", "ByteFallback", "Nonsense"))},
            {"type": "ByteLevel"} | SIDES,
            {
                "type": "Strip",
                "content": rng.choice(("", " ", "ab")),
                "start": rng.choice((0, 1, 9**9)),
                "stop": 0,
            },
            {"type": "Replace", "pattern": pattern(rng), "content": rng.choice(TEXTS)},
            {"type": "WordPiece", "prefix": rng.choice(TEXTS), "cleanup": True},
            {"type": "BPEDecoder", "suffix": rng.choice(TEXTS)},
            {"type": "CTC", "pad_token": "a", "word_delimiter_token": rng.choice(TEXTS), "cleanup": True},
            metaspace(rng),
        )
    )


def post_processor(rng: random.Random) -> Any:
    token = {"SpecialToken": {"id": rng.choice(("<s>", "a", "")), "type_id": rng.choice((0, 1, -1))}}
    sequence = {"Sequence": {"id": rng.choice(("A", "B")), "type_id": 0}}
    ids = rng.choice(([0], [], [10**9], [1, 2], [-1]))
    known = {"<s>": {"id": "<s>", "ids": ids, "tokens": ["<s>"][: len(ids)]}}
    return rng.choice(
        (
            {
                "type": "TemplateProcessing",
                "single": rng.choices((token, sequence), k=rng.randrange(5)),
                "pair": [sequence],
                "special_tokens": rng.choice((known, {})),
            },
            {"type": "BertProcessing", "sep": ["</s>", rng.choice((1, 10**9))], "cls": ["<s>", 0]},
            {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], **SIDES},
            {"type": "ByteLevel"} | SIDES,
        )
    )


PARTS = {
    "normalizer": normalizer,
    "pre_tokenizer": pre_tokenizer,
    "decoder": decoder,
    "post_processor": post_processor,
}
ENTRY = {"pre_tokenizer": "pretokenizers", "post_processor": "processors"}


def change_part(root: Any, rng: random.Random) -> None:
    """Another component, alone or in a sequence, in its own place or in another's."""
    if not isinstance(root, dict):
        return
    name = rng.choice(list(PARTS))
    make = PARTS[name if rng.random() < 0.9 else rng.choice(list(PARTS))]
    if rng.random() < 0.4:
        parts = [make(rng) for _ in range(rng.randrange(4))]
        root[name] = {"type": "Sequence", ENTRY.get(name, f"{name}s"): parts}
    else:
        root[name] = make(rng)


def change_model(root: Any, rng: random.Random) -> None:
    """Another kind of model over the same words, or its options changed."""
    model = root.get("model") if isinstance(root, dict) else None
    if not isinstance(model, dict):
        return
    vocab = model.get("vocab")
    words = [str(word)[:50] for word in vocab][:200] if isinstance(vocab, dict | list) else ["a"]
    kind = rng.choice(("options", "options", "Unigram", "WordPiece", "WordLevel", "merges", "vocab", "ids"))
    if kind == "Unigram":
        pairs = [[word, rng.choice((0.0, -1.0, -1e30, 1.0))] for word in words[: rng.choice((0, 1, 200))]]
        root["model"] = {
            "type": kind,
            "unk_id": rng.choice((None, 0, 10**6)),
            "vocab": pairs,
            "byte_fallback": rng.random() < 0.5,
        }
    elif kind in ("WordPiece", "WordLevel"):
        root["model"] = {
            "type": kind,
            "unk_token": rng.choice(("[UNK]", words[0] if words else "", "")),
            "continuing_subword_prefix": rng.choice(TEXTS),
            "max_input_chars_per_word": rng.choice((0, 1, 100)),
            "vocab": {word: i for i, word in enumerate(words)},
        }
    elif kind == "merges" and isinstance(model.get("merges"), list):
        pair = rng.choice((["a", "b"], "a b", "ab", ["a"], [], ["a", "b", "c"], [" ", " "], "", "Ġ t", None))
        model["merges"].insert(rng.randrange(len(model["merges"]) + 1), pair)
    elif kind in ("vocab", "ids") and isinstance(vocab, dict) and vocab:
        word = rng.choice(list(vocab))
        if kind == "vocab":
            del vocab[word]
        else:
            vocab[word] = rng.choice((0, 1, -1, 10**6, 2**31, 2**32 - 1, 2**32, None, "1", 1.5))
    else:
        key = rng.choice(
            (
                "dropout",
                "unk_token",
                "continuing_subword_prefix",
                "end_of_word_suffix",
                "fuse_unk",
                "byte_fallback",
            )
        )
        model[key] = rng.choice((None, True, False, 0.0, 1.0, 0.5, -1, float("nan"), *TEXTS))


def change_added(root: Any, rng: random.Random) -> None:
    """An added token with another id, text or flag."""
    tokens = root.get("added_tokens") if isinstance(root, dict) else None
    if not isinstance(tokens, list):
        return
    flags = {
        name: rng.random() < 0.5 for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
    }
    token = {
        "id": rng.choice((0, 1, 5, 300, 5000, 10**9, 2**32 - 1, 2**32, -1)),
        "content": rng.choice(TEXTS),
    } | flags
    tokens.insert(rng.randrange(len(tokens) + 1), token)


def change_limits(root: Any, rng: random.Random) -> None:
    """Truncation or padding of the file's training."""
    if isinstance(root, dict):
        root["truncation"] = {
            "direction": rng.choice(("Right", "Left")),
            "max_length": rng.choice((0, 1, 5, 2**40)),
            "strategy": rng.choice(("LongestFirst", "OnlySecond")),
            "stride": rng.choice((0, 3, 100)),
        }
        root["padding"] = {
            "strategy": rng.choice(("BatchLongest", {"Fixed": rng.choice((0, 16, 10**6))})),
            "direction": "Left",
            "pad_to_multiple_of": rng.choice((None, 0, 8)),
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        }


CHANGES = (change_part, change_part, change_model, change_model, change_added, change_limits)
