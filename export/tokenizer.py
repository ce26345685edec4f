"""The part of a checkpoint's tokenizer files that an artifact keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edge.backends.tokenizer_library import TokenizerError, load_tokenizer
from edge.errors import UserError
from export.checkpoint import Checkpoint, read_json

# Ends of a turn or of a text that models emit although no config file lists them (the paper's stop rule).
USUAL_END_TOKENS = (
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "</s>",
    "<eos>",
)
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


class TokenizerFiles(NamedTuple):
    """Path of tokenizer.json, chat template ("": none), special tokens by role, sorted stop ids."""

    tokenizer: Path
    chat_template: str
    special_tokens: dict[str, str]
    stop_ids: tuple[int, ...]


def read_tokenizer(checkpoint: Checkpoint, vocabulary: int) -> TokenizerFiles:
    """The tokenizer of a model with so many ids.

    Raises UserError when tokenizer.json is missing or damaged, or when nothing says where an answer ends.
    """
    folder = checkpoint.folder
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{path} is missing: token ids come from tokenizer.json, download it beside the weights"
        )
    try:
        tokenizer = load_tokenizer(path.read_bytes())
    except (OSError, TokenizerError) as error:
        raise UserError(f"{path} is not a tokenizer ({error}): download it again") from error
    settings = (
        read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    )
    special = {role: text for role in SPECIAL if (text := token_text(settings.get(role)))}
    generation = folder / "generation_config.json"
    ids = {
        *named_stop_ids(checkpoint.config, read_json(generation) if generation.is_file() else {}),
        *(
            token_id
            for text in (*USUAL_END_TOKENS, special.get("eos_token", ""))
            if text and (token_id := tokenizer.token_to_id(text)) is not None
        ),
    }
    ids = {i for i in ids if 0 <= i < vocabulary}
    if not ids:
        raise UserError(
            f"{folder} names no end-of-text token: set eos_token_id in its generation_config.json"
        )
    return TokenizerFiles(path, chat_template(folder, settings), special, tuple(sorted(ids)))


def token_text(value: Any) -> str:
    """A special token is a string or {"content": string, ...}."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def named_stop_ids(config: Mapping[str, Any], generation: Mapping[str, Any]) -> set[int]:
    """The ends of an answer that config.json and generation_config.json name."""
    return {*id_list(config.get("eos_token_id")), *id_list(generation.get("eos_token_id"))}


def id_list(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]


def chat_template(folder: Path, settings: dict[str, Any]) -> str:
    """chat_template.jinja, or `chat_template` of tokenizer_config.json (a string, or a `default`)."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 ({error}): download it again") from error
    value = settings.get("chat_template")
    if isinstance(value, list):
        templates = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = templates.get("default")
    return value if isinstance(value, str) else ""
