"""Writes a checkpoint as one GGUF file in float32, float16 or bfloat16, row by row."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edge.architectures import ARCHITECTURES
from edge.errors import UserError
from export.checkpoint import Array, Checkpoint
from export.gguf_template import given_tokens, with_tokens
from export.gguf_tokenizer import Vocabulary
from export.graph.architectures import CONVERSIONS
from export.graph.config import DecoderConfig, scale_llama3
from export.graph.tensors import EMBEDDING, FINAL_NORM, HEAD, all_shapes, layer_shapes

HALF_MAX = float(np.finfo(np.float16).max)
# Of one layer, in the order in which they are written.
ORDER = (
    "input_layernorm.weight",
    *(f"self_attn.{part}_proj.weight" for part in "qkv"),
    *(f"self_attn.{part}_proj.bias" for part in "qkv"),
    "self_attn.q_norm.weight",
    "self_attn.k_norm.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "pre_feedforward_layernorm.weight",
    "post_feedforward_layernorm.weight",
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
)


class Kind(NamedTuple):
    """A storage type of matrices: GGUF's name, numpy's type, and llama.cpp's number of a file with them."""

    name: str
    dtype: npt.DTypeLike
    file_type: int

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize


F32, F16 = Kind("F32", np.float32, 0), Kind("F16", np.float16, 1)
BF16 = Kind("BF16", ml_dtypes.bfloat16, 32)
KINDS = {kind.name: kind for kind in (F32, F16, BF16)}


class Weight(NamedTuple):
    """A tensor of the file: its name and shape in the checkpoint, and its rows as they are written."""

    name: str
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[Array]]


def gguf_package() -> Any:
    """The gguf package; raises UserError that names the extra when it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(
            f"GGUF files need the gguf package ({error}): install the extra edgetrace[export], in a clone "
            "with 'make setup'"
        ) from error
    # onnxruntime's quantiser lets every logger tell what it does, once it is imported.
    logging.getLogger("gguf").setLevel(logging.WARNING)
    return gguf


def check_config(config: DecoderConfig) -> None:
    """Raises UserError, by name, for what llama.cpp's graph of the architecture does not compute."""
    kind, conversion = config.model_type, CONVERSIONS[config.model_type]
    if any(config.windows) and not ARCHITECTURES[kind].full_every:
        raise UserError(
            f"config.json asks for sliding windows, which llama.cpp does not give {kind}: build an onnx-* "
            "precision"
        )
    if len({window for window in config.windows if window}) > 1:
        raise UserError(
            "config.json has windows of several sizes, which llama.cpp does not know: build an onnx-* "
            "precision"
        )
    local = config.local_rope is not None and config.local_rope.scaling is not None and any(config.windows)
    if local or (config.rope.scaling is not None and not conversion.reads_rope_factors):
        raise UserError(
            f"config.json asks for rope type 'llama3', which llama.cpp does not give {kind}: build an "
            "onnx-* precision"
        )
    if conversion.heads_fill_width and config.heads * config.head_dim != config.hidden:
        raise UserError(
            f"config.json has {config.heads} heads of {config.head_dim} beside a width of {config.hidden}, "
            f"which llama.cpp does not give {kind}: build an onnx-* precision"
        )


def write(
    checkpoint: Checkpoint,
    config: DecoderConfig,
    vocabulary: Vocabulary,
    kind: Kind,
    path: Path,
    on_bytes: Callable[[int], None],
    *,
    name: str,
    weights: bool = True,
) -> None:
    """Writes the file of the model `name`; `weights` False leaves every tensor out, which is enough to read
    the vocabulary.

    `on_bytes` is called with the bytes of weights written so far. Raises UserError for a weight that the
    type cannot hold.
    """
    gguf = gguf_package()
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config.model_type].gguf)
    try:
        writer.add_name(name)
        add_shape(writer, config)
        writer.add_file_type(kind.file_type)
        add_vocabulary(writer, vocabulary)
        names, done = tensor_names(config), Progress(on_bytes)
        for weight in weights_of(checkpoint, config) if weights else ():
            stored = kind if len(weight.shape) > 1 else F32
            tensor = Streamed(weight, stored, done)
            raw = getattr(gguf.GGMLQuantizationType, stored.name)
            writer.add_tensor(names[weight.name], tensor, raw_shape=weight.shape, raw_dtype=raw)
        if weights and config.rope.scaling is not None:
            writer.add_tensor("rope_freqs.weight", rope_factors(config))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def tensor_names(config: DecoderConfig) -> dict[str, str]:
    """The hub's name of each tensor -> its name in a GGUF file."""
    gguf, own_name = gguf_package(), ARCHITECTURES[config.model_type].gguf
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == own_name)
    table = gguf.get_tensor_name_map(architecture, config.layers)
    names = {name: table.get_name(name, try_suffixes=(".weight", ".bias")) for name in all_shapes(config)}
    assert None not in names.values(), names
    return names


class Progress:
    """Bytes written so far, told to a listener."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes, self._done = on_bytes, 0

    def add(self, size: int) -> None:
        self._done += size
        self._on_bytes(self._done)


class Streamed:
    """A tensor that the gguf writer writes without holding it: the part of an array that it reads."""

    def __init__(self, weight: Weight, kind: Kind, progress: Progress) -> None:
        self.weight, self.kind, self.progress = weight, kind, progress
        self.shape, self.dtype = weight.shape, np.dtype(kind.dtype)
        self.nbytes = math.prod(weight.shape) * self.dtype.itemsize

    def tofile(self, stream: Any) -> None:
        for block in self.weight.rows():
            if self.kind is F16 and np.abs(block).max(initial=0.0) > HALF_MAX:
                raise UserError(
                    f"tensor {self.weight.name} has weights beyond {HALF_MAX:g}, which float16 cannot hold: "
                    "build gguf-f32 or gguf-q8_0"
                )
            stream.write(block.astype(self.dtype).tobytes())
            self.progress.add(block.size * self.dtype.itemsize)


def add_shape(writer: Any, config: DecoderConfig) -> None:
    """The keys from which llama.cpp makes its graph."""
    writer.add_context_length(config.positions)
    writer.add_vocab_size(config.vocabulary)
    writer.add_block_count(config.layers)
    writer.add_embedding_length(config.hidden)
    writer.add_feed_forward_length(config.intermediate)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    window = max(config.windows)
    if window:
        assert config.local_rope is not None
        writer.add_sliding_window(window)
        writer.add_float32(f"{writer.arch}.rope.freq_base_swa", config.local_rope.theta)
        local, every = [size > 0 for size in config.windows], ARCHITECTURES[config.model_type].full_every
        if local != [(layer + 1) % every != 0 for layer in range(config.layers)]:
            writer.add_array(f"{writer.arch}.attention.sliding_window_pattern", local)


def add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """The tokenizer.* keys; without a tokenizer the special ids and the template alone."""
    writer.add_tokenizer_model(vocabulary.model)
    for role, token_id in (vocabulary.special_ids or {}).items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", token_id)
    if vocabulary.template:
        given = given_tokens(vocabulary.tokens, vocabulary.special_ids or {})
        writer.add_chat_template(with_tokens(vocabulary.template, vocabulary.template_tokens or {}, given))
    if vocabulary.templates:
        writer.add_array("tokenizer.chat_templates", list(vocabulary.templates))
    if vocabulary.model == "none":
        return
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.scores is not None:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(vocabulary.space_prefix)
    if vocabulary.merges is not None:
        writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)


def weights_of(checkpoint: Checkpoint, config: DecoderConfig) -> Iterator[Weight]:
    """Every tensor of the model, as llama.cpp wants its numbers."""

    def weight(name: str, *shape: int) -> Weight:
        return Weight(name, shape, lambda: rows_of(checkpoint, config, name, shape))

    yield weight(EMBEDDING, config.vocabulary, config.hidden)
    shapes = layer_shapes(config)
    names = sorted(shapes, key=ORDER.index)
    for layer in range(config.layers):
        for name in names:
            yield weight(f"model.layers.{layer}.{name}", *shapes[name])
    yield weight(FINAL_NORM, config.hidden)
    if not config.tied:
        yield weight(HEAD, config.vocabulary, config.hidden)


def rows_of(
    checkpoint: Checkpoint, config: DecoderConfig, name: str, shape: tuple[int, ...]
) -> Iterator[Array]:
    """The rows of a tensor: norms with their offset, queries and keys in llama.cpp's order of rotation."""
    if name.endswith("norm.weight"):
        factor = query_factor(config) if name.endswith("q_norm.weight") else 1.0
        for block in checkpoint.row_blocks(name, shape):
            yield (block + np.float32(config.norm_offset)) * np.float32(factor)
    elif CONVERSIONS[config.model_type].rotates_pairs and name.endswith(("q_proj.weight", "k_proj.weight")):
        yield interleave(checkpoint.tensor(name, shape), shape[0] // config.head_dim)
    else:
        yield from checkpoint.row_blocks(name, shape)


def query_factor(config: DecoderConfig) -> float:
    """The factor on the queries' norm that corrects llama.cpp's attention scale: 1 in published models."""
    return float(config.query_scale / CONVERSIONS[config.model_type].score_width(config) ** -0.5)


def interleave(rows: Array, heads: int) -> Array:
    """Rows [heads * head_dim, D] of queries or keys, from halves (transformers) to pairs (llama.cpp)."""
    halves = rows.reshape(heads, 2, -1, rows.shape[-1])
    return np.ascontiguousarray(np.swapaxes(halves, 1, 2)).reshape(rows.shape)


def rope_factors(config: DecoderConfig) -> Array:
    """[head_dim / 2] numbers by which llama.cpp divides the frequencies: llama3's scaling."""
    assert config.rope.scaling is not None
    frequencies = config.rope.frequencies(config.head_dim)
    return (frequencies / scale_llama3(frequencies, config.rope.scaling)).astype(np.float32)
