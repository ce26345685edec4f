"""The chat template inside a GGUF file, which gives itself the tokens that the file's keys cannot name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import tokenizers

from export.tokenizer import TokenizerFiles

# Roles that programs give to a template, by the role of the file's key.
ROLES = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token"}
# A name that no program gives a value: a role that is set to it is undefined, as without the line.
NO_TOKEN = "no_such_token"  # noqa: S105


def with_tokens(template: str, wanted: Mapping[str, str | list[str]], given: Mapping[str, str]) -> str:
    """The template, with a line before it for each role that it mentions and that has another value.

    `wanted` are the tokens of the checkpoint's tokenizer by role, `given` those that a program takes from
    the file's keys.
    """
    roles = [role for role in sorted({*wanted, *given}) if wanted.get(role) != given.get(role)]
    sets = [
        f"set {role} = {json.dumps(wanted[role], ensure_ascii=False) if role in wanted else NO_TOKEN}"
        for role in roles
        if mentions(template, role)
    ]
    # A dash would take white space of the template as well; the line's end alone goes by trim_blocks.
    close = " %}\n" if template[:1].isspace() else " -%}"
    return "".join(f"{{%- {line}{close}" for line in sets) + template


def mentions(template: str, role: str) -> bool:
    return re.search(rf"\b{re.escape(role)}\b", template) is not None


def beyond(files: TokenizerFiles, tokenizer: tokenizers.Tokenizer, size: int) -> str:
    """Why a file of so many tokens cannot hold what its template writes, "" where it can."""
    for role, value in files.template_tokens().items():
        for text in value if isinstance(value, list) else [value]:
            if (tokenizer.token_to_id(text) or 0) >= size and mentions(files.chat_template, role):
                return f"the template's {role} {text!r} has an id beyond the model's {size} embedding rows"
    return ""


def given_tokens(tokens: Sequence[str], special_ids: Mapping[str, int]) -> dict[str, str]:
    """The special tokens by role that a program takes from a file with these keys."""
    return {ROLES[key]: tokens[i] for key, i in special_ids.items() if key in ROLES and tokens}
