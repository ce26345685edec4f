"""What a checkpoint's tokenizer files mean: the rules of transformers 4.57.6 for fast tokenizers.

Each rule was read from that version's behaviour and is held against it by tests. The tokenizers library
does the work, so that a build needs no transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors

from edge.backends.tokenizer_library import TokenizerError, written
from edge.errors import UserError
from edge.fields import shown
from export.graph.architectures import CONVERSIONS
from export.tokenizer_files import FLAGS, ROLES, SETTINGS_NAME, TokenizerSources, added_tokens, as_token

READER = "transformers 4.57.6"
PLAIN = "PreTrainedTokenizerFast"
FIVE_PLAIN = "TokenizersBackend"  # transformers 5 writes this class, 4.57.6 does not know it
ADDITIONAL = "additional_special_tokens"


class TokenizerClass(NamedTuple):
    """A class of transformers: special tokens where the files name none, and what goes around a text.

    `adds` is the default of add_bos_token where the class writes the post-processor anew, None where it
    leaves the file's. `plain` casts named tokens to tokens that are special and not normalised.
    """

    tokens: Mapping[str, str | None]
    adds: bool | None = None
    additional: tuple[str, ...] = ()
    plain: bool = False


SENTENCEPIECE = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
END_OF_TEXT = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
CLASSES = {
    PLAIN: TokenizerClass({}),
    "LlamaTokenizerFast": TokenizerClass(SENTENCEPIECE, True),
    "CodeLlamaTokenizerFast": TokenizerClass(SENTENCEPIECE, True, ("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>")),
    "GemmaTokenizerFast": TokenizerClass(
        {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}, True
    ),
    "Qwen2TokenizerFast": TokenizerClass(
        dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"), plain=True
    ),
    "GPT2TokenizerFast": TokenizerClass(END_OF_TEXT),
    "GPTNeoXTokenizerFast": TokenizerClass({**END_OF_TEXT, "pad_token": None}, False),
}


@dataclass(frozen=True)
class Resolved:
    """A tokenizer as the rules make it.

    `special_tokens` are what a template may use, by role; lists of texts for additional tokens. `named` are
    the special tokens that the files name, without those that a class brings along.
    `notes` say what transformers 4.57.6 refuses and was read all the same. `split` encodes control tokens in
    a text as text.
    `history` has the added tokens in the order in which they were added, as tokenizer.json spells them.
    """

    tokenizer: Tokenizer
    tokenizer_class: str
    why: str
    special_tokens: dict[str, str | list[str]]
    named: frozenset[str]
    notes: tuple[str, ...]
    split: bool
    history: tuple[dict[str, Any], ...]

    def content(self) -> str:
        """tokenizer.json of it.

        The library matches a token also by the flags that it had when it was first added. Where a later list
        changed them, the file has to add the token twice. Raises UserError for ids that no vocabulary has.
        """
        try:
            text = written(self.tokenizer)
        except TokenizerError as error:
            raise UserError(f"tokenizer.json is damaged ({error}): download it again") from error
        kinds = {(token["content"], token["special"], token["normalized"]) for token in self.history}
        if len(kinds) == len({content for content, _, _ in kinds}):
            return text
        raw = json.loads(text)
        raw["added_tokens"] = [
            token for i, token in enumerate(self.history) if token not in self.history[:i]
        ]
        return json.dumps(raw, ensure_ascii=False)


def resolve(sources: TokenizerSources) -> Resolved:
    """The tokenizer that transformers 4.57.6 makes of the files.

    Raises UserError, naming file and key, for files that neither it nor this reader can make sense of.
    """
    name, why, notes = class_of(sources)
    kind = CLASSES[name]
    tokenizer = sources.tokenizer()  # the library checks the whole file
    found = added_tokens(sources)
    given = found.settings
    listed = given.get(ADDITIONAL)
    if listed is not None and not isinstance(listed, list):
        raise UserError(f"{SETTINGS_NAME} has {ADDITIONAL} {str(listed)[:40]!r}: give a list")
    arguments: dict[str, Any] = {**kind.tokens, **given}
    if kind.additional:
        arguments[ADDITIONAL] = [*(listed or []), *kind.additional]
    if kind.plain:
        for role in (*kind.tokens, "bos_token"):
            if isinstance(arguments.get(role), str):
                arguments[role] = AddedToken(arguments[role], normalized=False, special=True)
    padding = sources.raw.get("padding")
    if isinstance(padding, dict) and isinstance(padding.get("pad_token"), str):
        arguments.setdefault("pad_token", padding["pad_token"])
    if given.get("add_prefix_space") is not None and name == "LlamaTokenizerFast":
        notes += (
            f"{SETTINGS_NAME} has add_prefix_space, for which {READER} makes the tokenizer anew of "
            "tokenizer.model: tokenizer.json is kept as it is",
        )
    roles, more = special_tokens(arguments, name)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    file = tuple(sources.raw.get("added_tokens") or ())
    history = file + add_missing(tokenizer, found.by_id, roles)
    if name != "LlamaTokenizerFast":
        prefix_space(tokenizer, arguments.get("add_prefix_space", False))
    if kind.adds is not None:
        arguments.setdefault("add_bos_token", kind.adds)
        surround(tokenizer, name, roles, arguments)
    split = bool(arguments.get("split_special_tokens", False))
    tokenizer.encode_special_tokens = split
    shown = {
        role: list(map(str, value)) if isinstance(value, list) else str(value)
        for role, value in roles.items()
        if value
    }
    special = frozenset(str(token["content"]) for token in file if token["special"])
    named = named_special(found.settings) | special
    return Resolved(tokenizer, name, why, shown, named, notes + more, split, history)


def class_of(sources: TokenizerSources) -> tuple[str, str, tuple[str, ...]]:
    """The class, what names it, and a note where transformers 4.57.6 does not know it."""
    for where, given in ((SETTINGS_NAME, sources.settings), ("config.json", sources.config)):
        named = (given or {}).get("tokenizer_class")
        if named is None:
            continue
        why = f"{where} names {named}"
        if named == FIVE_PLAIN:
            return PLAIN, why, (f"{where} names the class {named}, which {READER} does not know",)
        name = str(named).removesuffix("Fast") + "Fast"
        if name not in CLASSES:
            raise UserError(
                f"{sources.folder / where} has the tokenizer_class {shown(named)}, whose rules are not "
                f"known (known: {', '.join(CLASSES)}): set {PLAIN} to take tokenizer.json as it is"
            )
        return name, why, ()
    kind = str(sources.config.get("model_type"))
    return CONVERSIONS[kind].tokenizer_class, f"no file names a class, model_type is {kind}", ()


def special_tokens(
    arguments: Mapping[str, Any], name: str
) -> tuple[dict[str, AddedToken | str | list[AddedToken | str]], tuple[str, ...]]:
    """Tokens by role, in transformers' order, and notes on forms that it refuses."""
    roles: dict[str, AddedToken | str | list[AddedToken | str]] = {}
    notes = []
    for role in ROLES[:-1]:
        value = arguments.get(role)
        if isinstance(value, dict):
            notes.append(f"{SETTINGS_NAME} has {role} as an object without __type, which {READER} refuses")
        if value is not None:
            roles[role] = one_token(value, role)
    roles[ADDITIONAL] = [one_token(value, ADDITIONAL) for value in arguments.get(ADDITIONAL) or []]
    extra = arguments.get("extra_special_tokens", {})
    if isinstance(extra, dict):
        roles |= {str(role): one_token(value, str(role)) for role, value in extra.items()}
    else:
        notes.append(f"{SETTINGS_NAME} has extra_special_tokens as a list, which {READER} refuses")
        if not isinstance(extra or [], list):
            raise UserError(f"{SETTINGS_NAME} has extra_special_tokens {str(extra)[:40]!r}: give an object")
        texts = list(map(str, roles[ADDITIONAL]))
        fresh = [one_token(value, "extra_special_tokens") for value in extra or []]
        roles[ADDITIONAL] = [*roles[ADDITIONAL], *(token for token in fresh if str(token) not in texts)]
    return roles, tuple(notes)


def one_token(value: Any, role: str) -> AddedToken | str:
    if isinstance(value, str | AddedToken):
        return value
    if isinstance(value, dict):
        return as_token(
            {"special": True, **{k: v for k, v in value.items() if v is not None}}, SETTINGS_NAME
        )
    raise UserError(f"{SETTINGS_NAME} has {role} {str(value)[:40]!r}: give a token's text")


def add_missing(
    tokenizer: Tokenizer,
    by_id: Mapping[int, AddedToken],
    roles: Mapping[str, AddedToken | str | list[AddedToken | str]],
) -> tuple[dict[str, Any], ...]:
    """Adds the listed tokens by id, with their flags, then special tokens that are not there.

    Gives them as tokenizer.json spells them.
    """
    listed = [token for _, token in sorted(by_id.items(), key=lambda item: item[0])]
    known = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    known += [str(token) for token in listed]
    special: list[AddedToken | str] = []
    texts: set[str] = set()
    for value in roles.values():
        tokens = value if isinstance(value, list) else [value] if value else []
        special += [token for token in tokens if str(token) not in texts]  # twice within a list counts twice
        texts |= set(map(str, tokens))
    # A token with flags is never equal to a text, so that transformers adds it again, with its flags.
    listed += [
        token
        for token in special
        if (isinstance(token, AddedToken) or token not in known) and token not in listed
    ]
    fresh = []
    for token in listed:
        if isinstance(token, AddedToken):
            token.special = token.special or str(token) in texts  # `normalized`, where not given, follows
            fresh.append(token)
        else:
            fresh.append(AddedToken(token, special=True))
    if fresh:
        tokenizer.add_tokens(fresh)
    return tuple(
        {"id": tokenizer.token_to_id(token.content), "content": token.content}
        | {flag: getattr(token, flag) for flag in FLAGS}
        for token in fresh
    )


def prefix_space(tokenizer: Tokenizer, wanted: object) -> None:
    """Sets add_prefix_space of a pre-tokenizer that is ByteLevel alone, False where no file says so."""
    if tokenizer.pre_tokenizer is None or not isinstance(wanted, bool):
        return
    state = json.loads(tokenizer.pre_tokenizer.__getstate__())
    if state.get("type") == "ByteLevel" and state.get("add_prefix_space", wanted) != wanted:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=wanted, use_regex=state.get("use_regex", True)
        )


def surround(
    tokenizer: Tokenizer, name: str, roles: Mapping[str, Any], arguments: Mapping[str, Any]
) -> None:
    """Writes the post-processor anew: BOS before a text and EOS after it, as the settings say."""
    tokens = []
    for role in ("bos", "eos"):
        wanted = bool(arguments.get(f"add_{role}_token", False))
        token = roles.get(f"{role}_token")
        if wanted and not token:
            raise UserError(
                f"{name} puts the {role}_token around each text and {SETTINGS_NAME} names none: name it, or "
                f"set add_{role}_token to false"
            )
        tokens.append(str(token) if wanted else "")
    bos, eos = tokens
    single = f"{bos + ':0 ' if bos else ''}$A:0{' ' + eos + ':0' if eos else ''}"
    pair = f"{single}{' ' + bos + ':1' if bos else ''} $B:1{' ' + eos + ':1' if eos else ''}"
    ids = [(token, tokenizer.token_to_id(token)) for token in tokens if token]
    try:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=ids
        )
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{SETTINGS_NAME} puts {' and '.join(filter(None, tokens))} around a text, which cannot be done "
            f"({error}): name other tokens"
        ) from error


def named_special(settings: Mapping[str, Any]) -> frozenset[str]:
    """Texts of the special tokens that the settings name or mark."""
    texts = set()
    for role in ROLES:
        value = settings.get(role)
        for token in value if isinstance(value, list) else [value] if value else []:
            texts.add(str(token.get("content")) if isinstance(token, dict) else str(token))
    extra = settings.get("extra_special_tokens")
    texts |= set(map(str, extra.values() if isinstance(extra, dict) else extra or []))
    marked = settings["added_tokens_decoder"].values()
    return frozenset(texts | {token.content for token in marked if token.special})
