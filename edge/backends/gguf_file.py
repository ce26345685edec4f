"""A GGUF file on its own as an artifact: its manifest is read from the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from edge.architectures import BY_GGUF, Architecture
from edge.artifact import (
    MANIFEST_NAME,
    TOKENIZER_NAME,
    Artifact,
    FileRecord,
    Manifest,
    ModelSpec,
    record_file,
)
from edge.backends.gguf_check import checked_record
from edge.backends.gguf_kind import check_model
from edge.backends.llama_header import Header
from edge.backends.llama_library import llama_cpp
from edge.backends.llama_vocabulary import Vocabulary
from edge.backends.tokenizer import JsonTokenizer
from edge.errors import UserError
from edge.paths import readable

FTYPE = "LLAMA_FTYPE_"
CONTROL = 3  # llama_token_type
END_ROLES = ("eos", "eot", "eom")
# Texts of end tokens in files that name none; others may stand where llama.cpp expects an end.
END_TOKENS = {
    *("</s>", "<eos>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|im_end|>"),
    *("<|end|>", "<end_of_turn>", "<|endofturn|>", "<｜end▁of▁sentence｜>"),
}
MOST_LAYERS = 512  # LLAMA_MAX_LAYERS


def open_artifact(path: str | Path) -> Artifact:
    """Opens an artifact folder or a GGUF file. Raises UserError when it cannot be used.

    A GGUF file that lies in an artifact folder opens that artifact.
    """
    path = Path(path)
    if not path.is_file():
        return Artifact.open(path)
    if (path.parent / MANIFEST_NAME).is_file():
        artifact = Artifact.open(path.parent)
        if path.name in artifact.manifest.files:
            return artifact
    return open_gguf(path)


def open_gguf(path: Path) -> Artifact:
    """A GGUF file that no manifest describes; tokenizer.json beside it is used where its tokens are the
    file's.

    Raises UserError when the file is damaged, no model of its own, of an architecture that is not traced, or
    has no tokenizer, when nothing in it ends an answer, and when llama.cpp would end the process on it.
    """
    return read_gguf(path, checked_record(path))


def read_gguf(path: Path, record: FileRecord) -> Artifact:
    """What open_gguf gives, of a file with this record that need not be checked."""
    with Header(path) as header:
        check_model(header)
        name = header.value("general.architecture")
        if not isinstance(name, str) or name not in BY_GGUF:
            raise UserError(
                f"{path} holds the architecture {name!r}, which is not traced; those traced: "
                f"{', '.join(BY_GGUF)}"
            )
        listed = header.value("tokenizer.ggml.tokens")
        tokens = listed if isinstance(listed, list) else []
        if len(set(tokens)) < len(tokens):  # llama.cpp would end the process
            raise UserError(f"{path} has two tokens with the same text: download it or build it again")
        vocabulary = Vocabulary(path)
        try:
            spec = read_spec(header, BY_GGUF[name], vocabulary)
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{path} does not describe a model ({error}): download it or build it again"
            ) from error
        tokenizer = beside(path, tokens, vocabulary)
        if not spec.stop_ids:
            raise UserError(
                f"nothing in {path} ends an answer (it has no tokenizer.ggml.eos_token_id and no control "
                "token that usually does): set that key with gguf-py's 'gguf-new-metadata', or download "
                "another file"
            )
        template = header.value("tokenizer.chat_template")
        manifest = Manifest(
            model_id=model_name(header.value("general.name")) or model_name(readable(path.stem)) or "model",
            source=readable(path.name),
            precision=precision_name(header.value("general.file_type")),
            taps="rows",
            model=spec,
            files={path.name: record} | tokenizer,
            checkpoint_sha256="",  # what it was made from is not known
            tensor_types=header.tensor_types(),
            special_tokens=vocabulary.special_tokens(),
            tokenizer=describe_tokenizer(header),
        )
    return Artifact(path.parent, manifest, template if isinstance(template, str) else "")


def model_name(value: object) -> str:
    """The name a file gives its model, alike in every precision; what a terminal would obey is left out."""
    return "".join(c for c in value if c.isprintable()).strip()[:80] if isinstance(value, str) else ""


def read_stop_ids(header: Header, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Ids that end an answer: those of the file's keys, and control tokens that llama.cpp knows as ends.

    A token that the file does not mark as a control token is text, whatever it looks like. An end that
    llama.cpp makes up for files without a key counts only where its text is a usual one.
    """
    values = (header.value(f"tokenizer.ggml.{role}_token_id") for role in END_ROLES)
    named = {i for i in values if isinstance(i, int) and 0 <= i < vocabulary.size}
    types = header.value("tokenizer.ggml.token_type")
    control = {i for i, kind in enumerate(types) if kind == CONTROL} if isinstance(types, list) else set()
    known = control & set(vocabulary.stop_ids()) if vocabulary.present else set()
    made_up = {i for i in known if i == vocabulary.usual_end() and vocabulary.text(i) not in END_TOKENS}
    return tuple(sorted(named | known - made_up))


def beside(path: Path, tokens: list[str], vocabulary: Vocabulary) -> dict[str, FileRecord]:
    """tokenizer.json in the same folder, if there is one; raises UserError when it is another model's."""
    file = path.parent / TOKENIZER_NAME
    if not file.is_file():
        if not vocabulary.present:
            raise UserError(f"{path} holds no tokenizer: put the model's {TOKENIZER_NAME} beside it")
        return {}
    if tokens:
        spelled = JsonTokenizer(file).vocabulary()
        # Added tokens beyond the model's rows are in no GGUF file (gemma-3-1b's image token).
        if any(tokens[i] != text for text, i in spelled.items() if i < len(tokens)):
            raise UserError(
                f"{file} is not the tokenizer of {path.name}: move one of them to another folder"
            )
    return {TOKENIZER_NAME: record_file(file)}


def read_spec(header: Header, architecture: Architecture, vocabulary: Vocabulary) -> ModelSpec:
    """The model's shape from the file's keys; raises TypeError or ValueError when they make none."""

    def number(key: str, default: int | None = None) -> int:
        value = header.value(f"{architecture.gguf}.{key}")
        if isinstance(value, list) and value and len(set(value)) == 1:
            value = value[0]  # one number for each layer
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{architecture.gguf}.{key} is {value!r}")
        return value

    layers, hidden, heads = number("block_count"), number("embedding_length"), number("attention.head_count")
    if layers > MOST_LAYERS:
        raise ValueError(f"it has {layers} layers, llama.cpp takes {MOST_LAYERS}")
    return ModelSpec(
        architecture=architecture.model_type,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head_dim=number("attention.key_length", hidden // heads if heads else 0),
        vocabulary=vocabulary.size,
        context=number("context_length"),
        windows=read_windows(header, architecture, layers),
        stop_ids=read_stop_ids(header, vocabulary),
    )


def read_windows(header: Header, architecture: Architecture, layers: int) -> tuple[int, ...]:
    """Window of each layer in positions (0: it sees all), as llama.cpp computes it."""
    key = f"{architecture.gguf}.attention.sliding_window"
    window = header.value(key) if architecture.full_every else None
    if not window:
        return (0,) * layers
    pattern: Any = header.value(f"{key}_pattern")
    if isinstance(pattern, list):
        if len(pattern) < layers:
            raise ValueError(f"sliding_window_pattern has {len(pattern)} entries for {layers} layers")
        local = [bool(entry) for entry in pattern[:layers]]
    else:
        every = architecture.full_every if pattern is None else int(pattern)
        local = [every == 0 or (layer + 1) % every != 0 for layer in range(layers)]
    return tuple(int(window) if entry else 0 for entry in local)


def precision_name(file_type: object) -> str:
    """gguf-q4_k_m and the like from general.file_type; gguf alone where the file does not say."""
    lib = llama_cpp()
    names = {getattr(lib, name): name for name in dir(lib) if name.startswith(FTYPE)}
    known = names.get(file_type, "") if isinstance(file_type, int) else ""
    name = known.removeprefix(FTYPE).removeprefix("MOSTLY_").removeprefix("ALL_").lower()
    return f"gguf-{name}" if name else "gguf"


def describe_tokenizer(header: Header) -> dict[str, str]:
    """Model, pre-tokenizer and a digest over all that decides which ids a text has."""
    digest = hashlib.sha256()
    for key in sorted(header.keys()):
        if key.startswith("tokenizer.ggml."):
            digest.update(
                json.dumps([key, header.value(key)], ensure_ascii=False).encode("utf-8", "replace")
            )
    model, pre = (header.value(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    return {"model": str(model or "none"), "pre": str(pre or ""), "sha256": digest.hexdigest()}
