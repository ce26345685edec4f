"""The tokenizer files of a checkpoint as they lie in its folder, and the added tokens that they name.

What the files mean is the matter of `export.tokenizer_rules`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from edge.backends.tokenizer_library import TokenizerError, load_tokenizer
from edge.errors import UserError
from edge.fields import shown
from export.checkpoint import Checkpoint, read_json

SETTINGS_NAME, MAP_NAME, ADDED_NAME = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
    "additional_special_tokens",
)
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
READS = (4, 57, 6)  # the version of transformers whose rules hold


@dataclass(frozen=True)
class TokenizerSources:
    """Parsed files of one folder; None where a file is not there. `config` is config.json."""

    path: Path
    raw: dict[str, Any]
    config: Mapping[str, Any]
    settings: Mapping[str, Any] | None
    special_map: Mapping[str, Any] | None
    added: Mapping[str, Any] | None

    @property
    def folder(self) -> Path:
        return self.path.parent

    def tokenizer(self) -> Tokenizer:
        """Reads tokenizer.json as the tokenizers library does; raises UserError when it is damaged."""
        try:
            return load_tokenizer(self.path.read_bytes())
        except (OSError, TokenizerError) as error:
            raise UserError(f"{self.path} is not a tokenizer ({error}): download it again") from error


@dataclass
class AddedTokens:
    """Added tokens by id and by text, and the settings with what special_tokens_map.json says.

    `settings` are the keyword arguments that transformers passes to a tokenizer class.
    """

    settings: dict[str, Any]
    by_id: dict[int, AddedToken] = field(default_factory=dict)
    by_text: dict[str, AddedToken] = field(default_factory=dict)

    def put(self, token_id: int, token: AddedToken, text: str | None = None) -> None:
        self.by_id[token_id] = token
        self.by_text[str(token) if text is None else text] = token


def read_sources(checkpoint: Checkpoint) -> TokenizerSources:
    """Reads the tokenizer files beside the weights.

    Raises UserError when tokenizer.json is missing or one of them is no JSON object.
    """
    folder = checkpoint.folder
    settings = read_beside(folder / SETTINGS_NAME)
    path = folder / file_name((settings or {}).get("fast_tokenizer_files"))
    if not path.is_file():
        raise UserError(
            f"{path} is missing: token ids come from tokenizer.json, download it beside the weights"
        )
    return TokenizerSources(
        path,
        parsed(path),
        checkpoint.config,
        settings,
        read_beside(folder / MAP_NAME),
        read_beside(folder / ADDED_NAME),
    )


def parsed(path: Path) -> dict[str, Any]:
    """The object in tokenizer.json; raises UserError when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a tokenizer ({error}): download it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a tokenizer (it holds no object): download it again")
    return value


def read_beside(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def file_name(versions: object) -> str:
    """tokenizer.json, or the newest of tokenizer.X.Y.Z.json that is meant for our version of the rules."""
    names = {}
    for name in versions if isinstance(versions, list) else ():
        part = re.fullmatch(r"tokenizer\.(\d+)\.(\d+)\.(\d+)\.json", str(name))
        if part and (version := tuple(map(int, part.groups()))) <= READS:
            names[version] = str(name)
    return names[max(names)] if names else "tokenizer.json"


def added_tokens(sources: TokenizerSources) -> AddedTokens:
    """The added tokens that a tokenizer class is given.

    With `added_tokens_decoder` in tokenizer_config.json that list alone counts. Without it
    special_tokens_map.json, added_tokens.json and tokenizer.json are heeded, in this order.
    """
    found = AddedTokens(dict(sources.settings or {}))
    for key in ("tokenizer_class", "init_inputs"):
        found.settings.pop(key, None)
    listed = found.settings.get("added_tokens_decoder")
    if "added_tokens_decoder" in found.settings:
        if not isinstance(listed, dict):
            raise UserError(f"{sources.folder / SETTINGS_NAME}: added_tokens_decoder is no object: mend it")
        for key, value in listed.items():
            if not str(key).isdecimal():
                raise UserError(
                    f"{sources.folder / SETTINGS_NAME}: added_tokens_decoder has the id {shown(key)}: "
                    "give a number"
                )
            found.put(int(key), as_token(value, SETTINGS_NAME))
    else:
        last = heed_map(found, sources.special_map or {})
        heed_added(found, sources.added or {}, last)
        for value in sources.raw.get("added_tokens") or ():
            if not isinstance(value, dict) or not isinstance(value.get("id"), int):
                raise UserError(f"{sources.path} has an added token without an id: download it again")
            found.put(value["id"], as_token(value, sources.path.name))
    found.settings["added_tokens_decoder"] = found.by_id
    found.settings = {key: typed(value) for key, value in found.settings.items()}
    for role in ROLES[:-1]:
        value = found.settings.get(role)
        if value is not None and found.by_text:
            found.settings[role] = found.by_text.get(str(value), value)
    return found


def heed_map(found: AddedTokens, special_map: Mapping[str, Any]) -> str:
    """Puts special_tokens_map.json over the settings.

    Gives the last of its additional tokens, under which transformers files each token of added_tokens.json.
    """
    last = "None"
    for key, value in special_map.items():
        if isinstance(value, dict):
            found.settings[key] = as_token({**value, "special": True}, MAP_NAME)
        elif key == "additional_special_tokens" and isinstance(value, list):
            known = list(found.settings.get(key) or [])  # objects are no tokens yet, hence never equal
            for entry in value:
                token = (
                    as_token({**entry, "special": True}, MAP_NAME) if isinstance(entry, dict) else str(entry)
                )
                last = str(token)
                if token not in known:
                    known.append(token)
            found.settings[key] = known
        else:
            found.settings[key] = value
    return last


def heed_added(found: AddedTokens, added: Mapping[str, Any], last: str) -> None:
    """Takes the tokens of added_tokens.json: text -> id, special where a role has that text."""
    special = set()
    for role in ROLES if added else ():
        value = found.settings.get(role)
        special |= set(map(str, value)) if isinstance(value, list) else {str(value)} if value else set()
    for text, token_id in added.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool):
            raise UserError(f"{ADDED_NAME} gives {shown(text)} the id {shown(token_id)}: give a number")
        is_special = text in special
        token = AddedToken(text, rstrip=False, lstrip=False, normalized=not is_special, special=is_special)
        found.put(token_id, token, last)


def typed(value: Any) -> Any:
    """The value with every {"__type": "AddedToken", ...} in it as a token."""
    if isinstance(value, dict):
        if value.get("__type") == "AddedToken":
            return as_token(value, SETTINGS_NAME)
        return {key: typed(entry) for key, entry in value.items()}
    return [typed(entry) for entry in value] if isinstance(value, list) else value


def as_token(value: Any, where: str) -> AddedToken:
    """The token of an object with `content` and flags; raises UserError, naming the file, for others."""
    if isinstance(value, AddedToken):
        return value
    flags = {name: value[name] for name in FLAGS if name in value} if isinstance(value, dict) else {}
    whole = isinstance(value, dict) and isinstance(value.get("content"), str)
    if not whole or not all(isinstance(flag, bool) for flag in flags.values()):
        raise UserError(f"{where} has an added token that is none ({str(value)[:80]}): download it again")
    return AddedToken(value["content"], **flags)
