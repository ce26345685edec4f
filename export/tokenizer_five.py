"""The same tokenizer files as transformers 5 reads them, to say where its ids are others.

Read from the behaviour of 5.24.0 and compared with it (docs/tokenizer-files.md lists the cases). Nothing is
ever encoded with this reading.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as kinds

from export.graph.architectures import CONVERSIONS
from export.tokenizer_files import ROLES, TokenizerSources, added_tokens, typed
from export.tokenizer_forms import META_SPACE, QWEN2_WORDS, added_around
from export.tokenizer_rules import ADDITIONAL, CLASSES, FIVE_PLAIN, Resolved

FIVE = "transformers 5"
EXTRA = "extra_special_tokens"
PLAIN = (FIVE_PLAIN, "PreTrainedTokenizer", "BloomTokenizer", "PythonBackend")
# Classes that make the tokenizer anew of vocabulary and merges.
REBUILT = ("LlamaTokenizer", "GemmaTokenizer", "Qwen2Tokenizer", "GPT2Tokenizer")


@dataclass(frozen=True)
class ReadByFive:
    """The tokenizer of transformers 5, the name of its class, and the special tokens by role."""

    tokenizer: Tokenizer
    tokenizer_class: str
    special_tokens: dict[str, str]


class Reading(NamedTuple):
    """What is compared of a tokenizer: ids by text, what goes around a text, and special tokens by role."""

    ids: dict[str, list[int]]
    around: str
    special_tokens: Mapping[str, str | list[str]]


def reading(made: Resolved | ReadByFive, texts: Sequence[str]) -> Reading:
    """Encodes the texts; raises what the tokenizers library raises."""
    ids = {text: list(made.tokenizer.encode(text, add_special_tokens=False).ids) for text in texts}
    return Reading(ids, surrounding(made.tokenizer), made.special_tokens)


def differences(sources: TokenizerSources, ours: Reading, template: str) -> str:
    """One sentence on what transformers 5 reads otherwise; "" where the texts show nothing.

    Special tokens count where the chat template mentions their role. Our tokenizer need not be in memory any
    more: large ones take 100 MB each.
    """
    name = class_of(sources)
    if name not in REBUILT and name != FIVE_PLAIN:
        return f"{FIVE} reads the tokenizer files with its class {name}, which was not compared"
    try:
        theirs = reading(read(sources, name), list(ours.ids))
    except Exception as error:  # the library raises bare Exception
        return f"{FIVE} fails with the tokenizer files ({' '.join(str(error).split())[:100]})"
    said = []
    other = [text for text, ids in ours.ids.items() if ids != theirs.ids[text]]
    if ours.around != theirs.around:
        said.append(f"puts {theirs.around} a text (this build: {ours.around})")
    if other:
        shown = json.dumps(other[0][:40], ensure_ascii=False)
        said.append(f"gives {shown} other ids")
    roles = sorted(
        role
        for role in ours.special_tokens.keys() | theirs.special_tokens.keys()
        if role in template and ours.special_tokens.get(role) != theirs.special_tokens.get(role)
    )
    if roles:
        said.append(f"gives the chat template another {', '.join(roles)}")
    if not said:
        return ""
    return f"{FIVE} reads the tokenizer files otherwise (as {name}): it {' and '.join(said)}"


def surrounding(tokenizer: Tokenizer) -> str:
    """What the post-processor adds, as words: "<s> before and </s> after"."""
    sides = zip(("before", "after"), added_around(tokenizer), strict=True)
    words = [
        f"{' '.join(tokenizer.id_to_token(i) or str(i) for i in ids)} {side}" for side, ids in sides if ids
    ]
    return " and ".join(words) or "nothing around"


def class_of(sources: TokenizerSources) -> str:
    """The class that transformers 5 chooses, without Fast."""
    settings, config = sources.settings or {}, sources.config
    kind = CONVERSIONS[str(config.get("model_type"))]
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if named is None:
        return kind.five_tokenizer or FIVE_PLAIN
    name = str(named).removesuffix("Fast")
    if kind.five_insists:
        name = kind.five_tokenizer
    elif name == "LlamaTokenizer" and '"ByteLevel"' in sources.path.read_text("utf-8"):
        return FIVE_PLAIN
    return FIVE_PLAIN if name in PLAIN or f"{name}Fast" not in CLASSES else name


def read(sources: TokenizerSources, name: str) -> ReadByFive:
    """Makes the tokenizer of transformers 5; raises what the tokenizers library raises."""
    found = added_tokens(sources)
    given = found.settings
    for key in ("add_bos_token", "add_eos_token"):
        given.pop(key, None)  # the post-processor of tokenizer.json stands
    extra = extra_tokens(sources, given)
    named: dict[str, AddedToken | str] = {**DEFAULTS.get(name, {})}
    padding = sources.raw.get("padding")
    if isinstance(padding, dict) and "pad_token" not in named and name != "GPT2Tokenizer":
        named["pad_token"] = str(padding.get("pad_token"))
    for role, value in given.items():
        own = role in ROLES[:-1] or (role.endswith("_token") and isinstance(value, str | AddedToken))
        if own and value is None:
            named.pop(role, None)
        elif own and isinstance(value, str | AddedToken):
            named[role] = value
        elif own:
            raise ValueError(f"{role} is an object without __type")
    if isinstance(given.get(EXTRA), dict):
        named |= {str(role): value for role, value in given[EXTRA].items()}
    tokenizer = rebuilt(sources.raw, name, named, given) if name in REBUILT else sources.tokenizer()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(given.get("split_special_tokens", False))
    listed = [copy.copy(token) for _, token in sorted(found.by_id.items(), key=lambda item: item[0])]
    have = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    have += [str(token) for token in listed]
    fresh = [*listed, *(token for token in [*named.values(), *extra] if str(token) not in have)]
    roles = {str(token) for token in named.values()}
    tokens = []
    for token in fresh:
        if isinstance(token, AddedToken):
            token.special = token.special or str(token) in roles
            tokens.append(token)
        else:
            tokens.append(AddedToken(str(token), special=True))
    tokenizer.add_tokens(tokens)
    if name == "Qwen2Tokenizer":
        texts = dict.fromkeys(map(str, [*named.values(), *extra]))
        tokenizer.add_tokens([AddedToken(text, special=True) for text in texts])
    return ReadByFive(tokenizer, name, {role: str(token) for role, token in named.items()})


def extra_tokens(sources: TokenizerSources, given: Mapping[str, Any]) -> list[AddedToken | str]:
    """The special tokens without a role.

    Those of special_tokens_map.json count where tokenizer_config.json has none.
    """
    settings = sources.settings or {}
    own = given.get(EXTRA) if isinstance(given.get(EXTRA), list) else typed(settings.get(ADDITIONAL))
    if own is None and "added_tokens_decoder" not in settings:
        own = (sources.special_map or {}).get(ADDITIONAL)
    if own is not None and not isinstance(own, list):
        raise ValueError(f"{ADDITIONAL} is no list")
    if not all(isinstance(token, str | AddedToken) for token in own or []):
        raise ValueError(f"{ADDITIONAL} has an object without __type")
    return own or []


DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "LlamaTokenizer": CLASSES["LlamaTokenizerFast"].tokens,
    "GemmaTokenizer": {**CLASSES["GemmaTokenizerFast"].tokens, "mask_token": "<mask>"},
    "Qwen2Tokenizer": CLASSES["Qwen2TokenizerFast"].tokens,
    "GPT2Tokenizer": CLASSES["GPT2TokenizerFast"].tokens,
}


def rebuilt(
    raw: Mapping[str, Any], name: str, named: Mapping[str, AddedToken | str], given: Mapping[str, Any]
) -> Tokenizer:
    """A tokenizer of the file's vocabulary and merges, with the class's own way of cutting text."""
    vocab, merges = raw["model"].get("vocab"), raw["model"].get("merges") or []
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
    if not isinstance(vocab, dict):
        raise ValueError("the vocabulary is no BPE's")
    prefix = given.get("add_prefix_space", False if name == "GPT2Tokenizer" else None)
    if prefix is None and name == "GPT2Tokenizer":
        raise ValueError("add_prefix_space is null")
    if name == "LlamaTokenizer":
        made = Tokenizer(kinds.BPE(vocab=vocab, merges=pairs, fuse_unk=True, byte_fallback=True))
        wanted = prefix if prefix is not None else True
        scheme = ("always" if given.get("legacy", False) else "first") if wanted else "never"
        made.pre_tokenizer = pre_tokenizers.Metaspace(META_SPACE, prepend_scheme=scheme, split=False)
        made.decoder = decoders.Sequence([decoders.Replace(META_SPACE, " "), decoders.ByteFallback()])
    elif name == "GemmaTokenizer":
        unknown = str(named.get("unk_token", "None"))
        made = Tokenizer(
            kinds.BPE(vocab=vocab, merges=pairs, fuse_unk=True, unk_token=unknown, byte_fallback=True)
        )
        made.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
        made.normalizer = normalizers.Replace(" ", META_SPACE)
    elif name == "Qwen2Tokenizer":
        made = Tokenizer(kinds.BPE(vocab=vocab, merges=pairs))
        made.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=bool(prefix), use_regex=False)
        made.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    else:
        made = Tokenizer(kinds.BPE(vocab=vocab, merges=pairs))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(prefix))
    if raw.get("post_processor"):
        bare = {**raw, "model": {**raw["model"], "vocab": {}, "merges": []}, "added_tokens": []}
        made.post_processor = Tokenizer.from_str(json.dumps(bare)).post_processor
    return made
