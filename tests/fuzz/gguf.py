"""A GGUF file taken apart, changed and put together again, without any library."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.mutations import FLOATS, NUMBERS, STRINGS, change_bytes

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
SMALL_TYPES = (4, 5, 6, 7, 8, 9, 10)


@dataclass
class Key:
    """One key with its value; `value` is a number, bytes, or (element type, list)."""

    name: bytes
    type: int
    value: Any
    length: int | None = None  # a false length of a string or list


@dataclass
class Tensor:
    name: bytes
    dims: list[int]
    type: int
    offset: int


@dataclass
class File:
    """The head; `data` are the bytes from the first tensor on."""

    keys: list[Key]
    tensors: list[Tensor]
    data: bytes
    magic: bytes = b"GGUF"
    version: int = 3
    counts: dict[str, int] = field(default_factory=dict)  # false counts

    def find(self, name: bytes) -> Key | None:
        return next((key for key in self.keys if key.name.endswith(name)), None)


def read(content: bytes) -> File:
    """A well-formed file."""
    at = 24
    count, keys = struct.unpack_from("<QQ", content, 8)

    def take(form: str) -> Any:
        nonlocal at
        value = struct.unpack_from(f"<{form}", content, at)[0]
        at += struct.calcsize(f"<{form}")
        return value

    def text() -> bytes:
        nonlocal at
        size = take("Q")
        at += size
        return content[at - size : at]

    def value(kind: int) -> Any:
        if kind == STRING:
            return text()
        if kind == ARRAY:
            inner, size = take("I"), take("Q")
            return inner, [value(inner) for _ in range(size)]
        return take(SCALARS[kind])

    read_keys = []
    for _ in range(keys):
        name, kind = text(), take("I")
        read_keys.append(Key(name, kind, value(kind)))
    tensors = []
    for _ in range(count):
        name = text()
        dims = [take("Q") for _ in range(take("I"))]
        tensors.append(Tensor(name, dims, take("I"), take("Q")))
    return File(read_keys, tensors, content[at + -at % 32 :])


def packed(form: str, value: Any) -> bytes:
    """A number in as many bytes, whatever its size."""
    if form in "fd":
        try:
            return struct.pack(f"<{form}", float(value))
        except (OverflowError, TypeError, ValueError):
            return struct.pack(f"<{form}", float("inf"))
    size = struct.calcsize(form)
    try:
        whole = int(value)
    except (OverflowError, TypeError, ValueError):
        whole = 0
    return (whole % (1 << 8 * size)).to_bytes(size, "little")


def text(value: Any, length: int | None = None) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return packed("Q", len(raw) if length is None else length) + raw


def write_value(kind: int, value: Any, length: int | None = None) -> bytes:
    if kind == STRING:
        return text(value, length)
    if kind == ARRAY:
        inner, entries = value if isinstance(value, tuple) else (4, [])
        head = packed("I", inner) + packed("Q", len(entries) if length is None else length)
        return head + b"".join(write_value(inner, entry) for entry in entries)
    return packed(SCALARS.get(kind, "I"), value)


def write(file: File) -> bytes:
    head = file.magic + packed("I", file.version)
    head += packed("Q", file.counts.get("tensors", len(file.tensors)))
    head += packed("Q", file.counts.get("keys", len(file.keys)))
    for key in file.keys:
        head += text(key.name) + packed("I", key.type) + write_value(key.type, key.value, key.length)
    for tensor in file.tensors:
        head += text(tensor.name) + packed("I", len(tensor.dims))
        head += b"".join(packed("Q", size) for size in tensor.dims)
        head += packed("I", tensor.type) + packed("Q", tensor.offset)
    return head + bytes(-len(head) % 32) + file.data


# Changes


def change_key(file: File, rng: random.Random) -> None:
    """A key dropped, doubled, renamed, or with another type, value or length."""
    if not file.keys:
        return
    place = rng.randrange(len(file.keys))
    key = file.keys[place]
    change = rng.choice(("drop", "double", "rename", "type", "value", "value", "value", "value", "length"))
    if change == "drop":
        del file.keys[place]
    elif change == "double":
        file.keys.insert(place, Key(key.name, key.type, key.value))
    elif change == "rename":
        key.name = rng.choice(
            (b"", key.name[:-1], key.name + b"x", rng.choice(file.keys).name, b"\xff" * 70)
        )
    elif change == "type":
        key.type = rng.choice((*SMALL_TYPES, 13, 255))
        if key.type == ARRAY:
            key.value = rng.choice(
                ((4, []), (8, [b"a"]), (4, [1, 2]), (9, [(4, [1])]), (7, [True]), (99, []))
            )
    elif change == "length":
        key.length = rng.choice(NUMBERS)
    elif key.type == STRING:
        key.value = rng.choice(
            (*STRINGS, key.value + b"x", b"\xff\xfe", b"llama", b"gemma3", b"gpt2", b"bert", b"none")
        )
    elif key.type == ARRAY:
        change_list(key, rng)
    else:
        number = (
            key.value if isinstance(key.value, int | float) else 1
        )  # a change before may have left a text
        key.value = rng.choice((*NUMBERS, *FLOATS, number + 1, number * 2, number // 2))


def change_list(key: Key, rng: random.Random) -> None:
    """Entries of a list: vocabulary, scores, types, merges."""
    inner, entries = key.value if isinstance(key.value, tuple) else (4, [])
    some = (
        rng.choice((*STRINGS, b"\xff", b"<s>", b"a b", b" ", b"<0x41>"))
        if inner == STRING
        else rng.choice(NUMBERS)
    )
    place = rng.randrange(len(entries) + 1)
    change = rng.choice(("set", "set", "insert", "cut", "double", "empty", "all", "type", "copy"))
    if change == "set" and place < len(entries):
        entries[place] = some
    elif change == "copy" and place < len(entries):
        entries[place] = rng.choice(entries)
    elif change == "insert":
        entries.insert(place, some)
    elif change == "cut":
        del entries[place:]
    elif change == "double":
        entries.extend(entries[: 1000 if rng.random() < 0.5 else 1])
    elif change == "empty":
        entries.clear()
    elif change == "all":
        entries[:] = [some if not isinstance(some, str) or len(some) < 99 else "x"] * len(entries)
    elif change == "type":
        key.value = (rng.choice(SMALL_TYPES), entries if inner != STRING else [1] * len(entries))


def change_number(file: File, rng: random.Random) -> None:
    """One of the model's own numbers."""
    names = [key for key in file.keys if key.type in SCALARS and not key.name.startswith(b"general")]
    if names:
        rng.choice(names).value = rng.choice((*NUMBERS, *FLOATS))


def change_tokenizer(file: File, rng: random.Random) -> None:
    """One key of the tokenizer, or its kind."""
    keys = [key for key in file.keys if key.name.startswith(b"tokenizer.")]
    if not keys:
        return
    key = rng.choice(keys)
    if key.type == ARRAY and rng.random() < 0.7:
        change_list(key, rng)
    elif key.name.endswith(b".model"):
        key.value = rng.choice(
            (b"llama", b"bert", b"t5", b"gpt2", b"rwkv", b"plamo2", b"none", b"no_vocab", b"")
        )
    elif key.name.endswith(b".pre"):
        key.value = rng.choice(
            (b"default", b"llama-bpe", b"gpt-2", b"qwen2", b"chatglm-bpe", b"x", b"", b"superbpe")
        )
    elif key.name.endswith(b"_id"):
        key.value = rng.choice((*NUMBERS, 2046, 2047, 2048))
    else:
        key.value = rng.choice((*STRINGS, 0, 1))


def add_key(file: File, rng: random.Random) -> None:
    """A key that llama.cpp knows and this file lacks."""
    arch = next((key.value for key in file.keys if key.name == b"general.architecture"), b"llama")
    arch = arch if isinstance(arch, bytes) else b"llama"
    names = (
        *(
            b"expert_count",
            b"expert_used_count",
            b"rope.dimension_count",
            b"rope.scaling.type",
            b"vocab_size",
        ),
        *(
            b"attention.key_length",
            b"attention.value_length",
            b"attention.head_count_kv",
            b"leading_dense_block_count",
        ),
        *(b"attention.sliding_window", b"attention.sliding_window_pattern", b"attn_logit_softcapping"),
        *(
            b"rope.freq_base",
            b"rope.scaling.factor",
            b"attention.layer_norm_rms_epsilon",
            b"embedding_length_out",
        ),
        *(
            b"attention.clamp_kqv",
            b"logit_scale",
            b"pooling_type",
            b"attention.causal",
            b"rope.dimension_sections",
        ),
        *(
            b"feed_forward_length",
            b"nextn_predict_layers",
            b"use_parallel_residual",
            b"classifier.output_labels",
        ),
    )
    others = (
        b"general.alignment",
        b"split.count",
        b"split.no",
        b"general.type",
        b"tokenizer.ggml.add_bos_token",
    )
    more = (
        b"tokenizer.ggml.unknown_token_id",
        b"tokenizer.ggml.precompiled_charsmap",
        b"tokenizer.chat_template",
    )
    name = rng.choice((*(arch[:50] + b"." + name for name in names), *others, *more))
    kind = rng.choice((4, 4, 4, 5, 6, 7, 8, 9, 10))
    if kind == ARRAY:
        count = rng.choice((0, 1, 2, 4, 5, 1000))
        value: Any = rng.choice(((4, [rng.choice(NUMBERS)] * count), (0, [7] * count), (7, [True] * count)))
    elif kind == STRING:
        value = rng.choice((*STRINGS, "linear", "yarn", "longrope", "model", "adapter", "imatrix"))
    else:
        value = rng.choice((*NUMBERS[:14], *FLOATS))
    file.keys.insert(rng.randrange(len(file.keys) + 1), Key(name, kind, value))


def change_tensor(file: File, rng: random.Random) -> None:
    """Name, shape, type or place of a tensor."""
    if not file.tensors:
        return
    place = rng.randrange(len(file.tensors))
    tensor = file.tensors[place]
    change = rng.choice(("drop", "double", "name", "dims", "dims", "size", "type", "offset", "swap"))
    if change == "drop":
        del file.tensors[place]
    elif change == "double":
        file.tensors.insert(place, Tensor(tensor.name, list(tensor.dims), tensor.type, tensor.offset))
    elif change == "name":
        tensor.name = rng.choice(
            (b"", tensor.name + b"x", b"x" * 70, b"rope_freqs.weight", b"output.weight", b"\xff")
        )
    elif change == "dims":
        tensor.dims = rng.choice(
            ([], [1], tensor.dims[::-1], [*tensor.dims, 1], [*tensor.dims, 2], [1] * 5, [0], [2**32, 2**32])
        )
    elif change == "size" and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(NUMBERS)
    elif change == "type":
        tensor.type = rng.choice((0, 1, 2, 3, 8, 10, 14, 16, 24, 28, 30, 31, 39, 40, 99, 2**31, 2**32 - 1))
    elif change == "offset":
        tensor.offset = rng.choice((*NUMBERS, tensor.offset + 32, tensor.offset + 1, 0))
    else:
        other = rng.choice(file.tensors)
        tensor.dims, other.dims = other.dims, tensor.dims


def change_head(file: File, rng: random.Random) -> None:
    """Magic, version or counts."""
    what = rng.choice(("magic", "version", "tensors", "keys", "data"))
    if what == "magic":
        file.magic = rng.choice((b"FUGG", b"GGML", b"gguf", b"\x00\x00\x00\x00"))
    elif what == "version":
        file.version = rng.choice((0, 1, 2, 4, 99, 2**32 - 1, 0x03000000))
    elif what == "data":
        file.data = change_bytes(file.data, rng)
    else:
        file.counts[what] = rng.choice((*NUMBERS, len(file.keys) + 1, len(file.keys) - 1))


CHANGES = (
    change_key,
    change_number,
    change_number,
    change_tokenizer,
    change_tokenizer,
    add_key,
    change_tensor,
    change_head,
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One case: the head changed as a whole or byte by byte."""
    file = read(content)
    if rng.random() < 0.25:
        for _ in range(rng.choice((1, 1, 2, 5))):
            content = change_bytes(content, rng, within=len(content) - len(file.data))
        return content
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 6))):
        rng.choice(CHANGES)(file, rng)
    return write(file)
