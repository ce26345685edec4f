"""The part of a checkpoint's tokenizer files that an artifact keeps: one resolved tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from edge.backends.tokenizer_library import TokenizerError, caught
from edge.errors import UserError
from edge.tokenizer_rules import TokenizerRules
from export.checkpoint import Checkpoint, read_json
from export.tokenizer_files import ROLES, TokenizerSources, read_sources
from export.tokenizer_five import differences, reading
from export.tokenizer_rules import READER, Resolved, resolve

# Ends of a turn or of a text that models emit although no config file lists them (the paper's stop rule).
# They count where the tokenizer marks them special: Gemma's vocabulary has `</s>` as an HTML tag.
USUAL_END_TOKENS = (
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "</s>",
    "<eos>",
)
ADDITIONAL = ROLES[-1]
DEFAULT = "default"
MOST_ADDED = 32
# Texts whose ids are compared: spaces, digits, marks, scripts, lines.
PROBES = (
    "Do bats see?",
    " leading and trailing ",
    "two  spaces,\ttabs\n\nand lines \r\n",
    "In 1969, 384400 km; 1,234,567.89 and 0x7f3A, 50%, I'm, DON'T",
    "Grüße, naïve cafe\u0301, ﬁn, 你好。🙂 👩‍💻 \ufeffa\u00a0b",
    "Привет, שלום, مرحبا, नमस्ते",
    "</s><s> <pad> <|user|>",
    "",
)


class TokenizerFiles(NamedTuple):
    """The tokenizer of an artifact.

    `content` is tokenizer.json as it is written. `pieces` is the path of tokenizer.model, which need not be
    there. `chat_template` is "" for none. `special_tokens` are texts by role. `stop_ids` are sorted.
    `expected` holds the ids of each probe, without and with what goes around a text.
    """

    content: str
    pieces: Path
    chat_template: str
    special_tokens: dict[str, str]
    stop_ids: tuple[int, ...]
    rules: TokenizerRules
    expected: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    notes: tuple[str, ...]


def read_tokenizer(checkpoint: Checkpoint, vocabulary: int) -> TokenizerFiles:
    """The tokenizer of a model with so many ids.

    `notes` are for the user. Raises UserError when a file is missing or damaged, when the files ask for what
    cannot be, or when nothing says where an answer ends.
    """
    sources = read_sources(checkpoint)
    resolved = resolve(sources)
    added = added_probes(resolved.tokenizer)
    ours = reading(resolved, (*PROBES, *added))
    template, names = chat_template(sources)
    named = resolved.special_tokens
    rules = TokenizerRules(
        READER,
        resolved.tokenizer_class,
        resolved.why,
        resolved.notes,
        tuple(named.get(ADDITIONAL, ())),
        names,
        resolved.split,
    )
    files = TokenizerFiles(
        resolved.content(),
        checkpoint.folder / "tokenizer.model",
        template,
        {role: text for role, text in named.items() if isinstance(text, str)},
        stop_ids(checkpoint, resolved, vocabulary),
        rules,
        tuple((text, *both_ids(resolved.tokenizer, text)) for text in (*PROBES, "".join(added))),
        (*around_notes(resolved.tokenizer, vocabulary), *template_notes(names)),
    )
    del resolved  # the next reading takes as much memory
    notes = (*rules.notes, *filter(None, [differences(sources, ours, template)]))
    return files._replace(rules=replace(rules, notes=notes), notes=(*notes, *files.notes))


def added_probes(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Texts with an added token of the tokenizer between words, for the first of them."""
    added = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]
    return tuple(f"a {text} b{text} " for text in added[:MOST_ADDED])


def both_ids(tokenizer: Tokenizer, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of a text without and with what the post-processor adds."""
    try:
        with caught():
            without, whole = (tokenizer.encode(text, add_special_tokens=add).ids for add in (False, True))
    except TokenizerError as error:
        raise UserError(
            f"the tokenizer cannot encode {text[:40]!r} ({error}): download the tokenizer files again"
        ) from error
    return tuple(without), tuple(whole)


def around_notes(tokenizer: Tokenizer, vocabulary: int) -> tuple[str, ...]:
    """A note where a token that goes around every text is none of the model's."""
    inner, outer = both_ids(tokenizer, "a")
    beyond = sorted({i for i in outer if i not in inner and i >= vocabulary})
    return tuple(
        f"{tokenizer.id_to_token(i) or 'a token'} goes around each text and has the id {i}, beyond the "
        f"model's {vocabulary} rows: --prompt raw and qa will be refused (name bos_token in "
        "tokenizer_config.json)"
        for i in beyond[:1]
    )


def stop_ids(checkpoint: Checkpoint, resolved: Resolved, vocabulary: int) -> tuple[int, ...]:
    """Sorted ids that end an answer.

    Those that config.json, generation_config.json and the tokenizer's own eos_token name, and well-known
    ends that the files mark special. Raises UserError when there are none.
    """
    generation = checkpoint.folder / "generation_config.json"
    texts = {*USUAL_END_TOKENS, resolved.special_tokens.get("eos_token", "")} & resolved.named
    known = (resolved.tokenizer.token_to_id(str(text)) for text in texts)
    named = named_stop_ids(checkpoint.config, read_json(generation) if generation.is_file() else {})
    ids = {i for i in {*named, *known} if i is not None and 0 <= i < vocabulary}
    if not ids:
        raise UserError(
            f"{checkpoint.folder} names no end-of-text token: set eos_token_id in its generation_config.json"
        )
    return tuple(sorted(ids))


def named_stop_ids(config: Mapping[str, Any], generation: Mapping[str, Any]) -> set[int]:
    """The ends of an answer that config.json and generation_config.json name."""
    return {*id_list(config.get("eos_token_id")), *id_list(generation.get("eos_token_id"))}


def id_list(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, int) and not isinstance(v, bool)]


def chat_template(sources: TokenizerSources) -> tuple[str, tuple[str, ...]]:
    """The chat template ("": none), and the names of all where none is the default.

    chat_template.jinja and additional_chat_templates/*.jinja count before `chat_template` of
    tokenizer_config.json, which is a text or a list of named ones. Raises UserError for another value.
    """
    named = {}
    if (file := sources.folder / "chat_template.jinja").is_file():
        named[DEFAULT] = read_template(file)
    for file in sorted((sources.folder / "additional_chat_templates").glob("*.jinja")):
        named[file.name.removesuffix(".jinja")] = read_template(file)
    if not named:
        value = (sources.settings or {}).get("chat_template")
        if value is None or isinstance(value, str):
            return value or "", ()
        named = listed(value, sources.folder)
    return named.get(DEFAULT, ""), () if DEFAULT in named else tuple(sorted(named))


def listed(value: Any, folder: Path) -> dict[str, str]:
    """Templates by name, of [{"name": ..., "template": ...}] or {name: template}."""
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        value = {entry.get("name"): entry.get("template") for entry in value}
    if isinstance(value, dict) and all(isinstance(text, str) for pair in value.items() for text in pair):
        return value
    raise UserError(
        f"{folder / 'tokenizer_config.json'} has a chat_template that is neither a text nor a list of named "
        "ones: mend it, or put the template into chat_template.jinja"
    )


def template_notes(names: tuple[str, ...]) -> tuple[str, ...]:
    """A note where there are templates and none is the default."""
    if not names:
        return ()
    return (
        f"the checkpoint has several chat templates ({', '.join(names)}) and none called default: --prompt "
        "chat will be refused (save the one to use as chat_template.jinja beside the weights)",
    )


def read_template(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 ({error}): download it again") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): download it again") from error
