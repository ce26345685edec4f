"""A checkpoint as one GGUF file in float32, float16 or bfloat16, written row by row without holding the
model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

from edge.errors import UserError
from export.checkpoint import Array, Checkpoint
from export.gguf_tokenizer import Vocabulary
from export.graph.config import DecoderConfig, scale_llama3

ARCHITECTURES = {
    "llama": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "gemma3_text": "GEMMA3",
}  # names in gguf.MODEL_ARCH
PATTERN = 6  # llama.cpp's own pattern for gemma3: every sixth layer sees everything
LARGEST = 62  # layers of the one gemma3 whose attention llama.cpp scales by the width
HALF_MAX = float(np.finfo(np.float16).max)


class Kind(NamedTuple):
    """A storage type of matrices: its name in GGUF, and numpy's type of what is written."""

    name: str
    dtype: npt.DTypeLike

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize


F32, F16, BF16 = Kind("F32", np.float32), Kind("F16", np.float16), Kind("BF16", ml_dtypes.bfloat16)
KINDS = {kind.name: kind for kind in (F32, F16, BF16)}


class Weight(NamedTuple):
    """One tensor of the file, by its name in the checkpoint: shape there, and its rows as they are
    written."""

    name: str
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[Array]]


def gguf_package() -> Any:
    """The gguf package; raises UserError that names the extra when it is not installed."""
    try:
        import gguf
    except ImportError as error:
        raise UserError(
            f"GGUF artifacts need the gguf package ({error}): install the extra edgetrace[llama], "
            "in a clone with 'make setup EXTRAS=export,llama'"
        ) from error
    return gguf


def check_config(config: DecoderConfig) -> None:
    """Raises UserError, by name, for what llama.cpp's graph of the architecture does not compute."""
    kind = config.model_type
    if kind != "gemma3_text" and any(config.windows):
        raise UserError(
            f"config.json asks for sliding windows, which llama.cpp does not give {kind}: build an onnx-* "
            f"precision"
        )
    if len({window for window in config.windows if window}) > 1:
        raise UserError(
            "config.json has windows of several sizes, which llama.cpp does not know: build an onnx-* "
            "precision"
        )
    local = config.local_rope is not None and config.local_rope.scaling is not None and any(config.windows)
    if local or (kind != "llama" and config.rope.scaling is not None):
        raise UserError(
            f"config.json asks for rope type 'llama3', which llama.cpp does not give {kind}: build an "
            f"onnx-* precision"
        )
    if kind == "qwen2" and config.heads * config.head_dim != config.hidden:
        raise UserError(
            f"config.json has {config.heads} heads of {config.head_dim} beside a width of {config.hidden}, "
            f"which llama.cpp does "
            "not give qwen2: build an onnx-* precision"
        )


def write(
    checkpoint: Checkpoint,
    config: DecoderConfig,
    vocabulary: Vocabulary,
    kind: Kind,
    file_type: int,
    path: Path,
    on_bytes: Callable[[int], None],
    *,
    name: str,
    weights: bool = True,
) -> None:
    """Writes the file of the model `name`; `weights` False leaves every tensor out, which is enough to read
    the vocabulary.

    `on_bytes` hears the bytes of weights written so far. Raises UserError for a weight that the type cannot
    hold.
    """
    gguf = gguf_package()
    architecture = getattr(gguf.MODEL_ARCH, ARCHITECTURES[config.model_type])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        writer.add_name(name)
        add_shape(writer, checkpoint, config)
        writer.add_file_type(file_type)
        add_vocabulary(writer, vocabulary)
        names = gguf.get_tensor_name_map(architecture, config.layers)
        done = Progress(on_bytes)
        for weight in weights_of(checkpoint, config) if weights else ():
            there = names.get_name(weight.name, try_suffixes=(".weight", ".bias"))
            assert there is not None, weight.name
            stored = kind if len(weight.shape) > 1 else F32
            tensor = Streamed(weight, stored, done)
            raw = getattr(gguf.GGMLQuantizationType, stored.name)
            writer.add_tensor(there, tensor, raw_shape=weight.shape, raw_dtype=raw)
        if weights and config.rope.scaling is not None:
            writer.add_tensor("rope_freqs.weight", rope_factors(config))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


class Progress:
    """Bytes written so far, told to a listener."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self._on_bytes, self._done = on_bytes, 0

    def add(self, size: int) -> None:
        self._done += size
        self._on_bytes(self._done)


class Streamed:
    """A tensor that the gguf writer writes without ever holding it: what it asks of an array, and no
    more."""

    def __init__(self, weight: Weight, kind: Kind, progress: Progress) -> None:
        self.weight, self.kind, self.progress = weight, kind, progress
        self.shape, self.dtype = weight.shape, np.dtype(kind.dtype)
        self.nbytes = math.prod(weight.shape) * self.dtype.itemsize

    def tofile(self, stream: Any) -> None:
        for block in self.weight.rows():
            if self.kind is F16 and np.abs(block).max(initial=0.0) > HALF_MAX:
                raise UserError(
                    f"tensor {self.weight.name} has weights beyond {HALF_MAX:g}, which float16 cannot "
                    "hold: build gguf-f32 or gguf-q8_0"
                )
            stream.write(block.astype(self.dtype).tobytes())
            self.progress.add(block.size * self.dtype.itemsize)


def add_shape(writer: Any, checkpoint: Checkpoint, config: DecoderConfig) -> None:
    """The keys from which llama.cpp makes its graph."""
    positions = checkpoint.config.get("max_position_embeddings")
    writer.add_context_length(positions if isinstance(positions, int) else config.context)
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
        local = [size > 0 for size in config.windows]
        if local != [(layer + 1) % PATTERN != 0 for layer in range(config.layers)]:
            writer.add_array(f"{writer.arch}.attention.sliding_window_pattern", local)


def add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    """The tokenizer.* keys; without a tokenizer the special ids and the template alone."""
    writer.add_tokenizer_model(vocabulary.model)
    for role, token_id in (vocabulary.special_ids or {}).items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", token_id)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)
    if vocabulary.model == "none":
        return
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.scores is not None:
        writer.add_token_scores(list(vocabulary.scores))
        writer.add_add_space_prefix(False)
    if vocabulary.merges is not None:
        writer.add_token_merges(list(vocabulary.merges))
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)


def weights_of(checkpoint: Checkpoint, config: DecoderConfig) -> Iterator[Weight]:
    """Every tensor of the model, as llama.cpp wants its numbers."""
    c = config
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim

    def plain(name: str, *shape: int) -> Weight:
        return Weight(name, shape, lambda: checkpoint.row_blocks(name, shape))

    def norm(name: str, size: int, scale: float = 1.0) -> Weight:
        def rows() -> Iterator[Array]:
            for block in checkpoint.row_blocks(name, (size,)):
                yield (block + np.float32(c.norm_offset)) * np.float32(scale)

        return Weight(name, (size,), rows)

    def rotated(name: str, heads: int) -> Weight:
        if c.model_type != "llama":
            return plain(name, heads * c.head_dim, c.hidden)
        shape = (heads * c.head_dim, c.hidden)
        return Weight(name, shape, lambda: iter([interleave(checkpoint.tensor(name, shape), heads)]))

    yield plain("model.embed_tokens.weight", c.vocabulary, c.hidden)
    for layer in range(c.layers):
        at = f"model.layers.{layer}"
        yield norm(f"{at}.input_layernorm.weight", c.hidden)
        yield rotated(f"{at}.self_attn.q_proj.weight", c.heads)
        yield rotated(f"{at}.self_attn.k_proj.weight", c.kv_heads)
        yield plain(f"{at}.self_attn.v_proj.weight", keys, c.hidden)
        if c.qkv_bias:
            for part, size in (("q", queries), ("k", keys), ("v", keys)):
                yield plain(f"{at}.self_attn.{part}_proj.bias", size)
        if c.qk_norm:
            yield norm(f"{at}.self_attn.q_norm.weight", c.head_dim, query_factor(c))
            yield norm(f"{at}.self_attn.k_norm.weight", c.head_dim)
        yield plain(f"{at}.self_attn.o_proj.weight", c.hidden, queries)
        yield norm(f"{at}.post_attention_layernorm.weight", c.hidden)
        if c.sandwich_norms:
            yield norm(f"{at}.pre_feedforward_layernorm.weight", c.hidden)
            yield norm(f"{at}.post_feedforward_layernorm.weight", c.hidden)
        yield plain(f"{at}.mlp.gate_proj.weight", c.intermediate, c.hidden)
        yield plain(f"{at}.mlp.up_proj.weight", c.intermediate, c.hidden)
        yield plain(f"{at}.mlp.down_proj.weight", c.hidden, c.intermediate)
    yield norm("model.norm.weight", c.hidden)
    if not c.tied:
        yield plain("lm_head.weight", c.vocabulary, c.hidden)


def query_factor(config: DecoderConfig) -> float:
    """What the queries' norm takes over of the attention scale where llama.cpp's own is another one: 1 in
    published models.

    For gemma3 it is head_dim^-0.5, in the model of 62 layers (hidden / heads)^-0.5.
    """
    width = (
        config.hidden // config.heads
        if config.model_type == "gemma3_text" and config.layers == LARGEST
        else config.head_dim
    )
    return float(config.query_scale / width**-0.5)


def interleave(rows: Array, heads: int) -> Array:
    """Rows of a query or key matrix [heads * head_dim, D] from halves, as transformers rotates, to pairs, as
    llama.cpp does."""
    halves = rows.reshape(heads, 2, -1, rows.shape[-1])
    return np.ascontiguousarray(np.swapaxes(halves, 1, 2)).reshape(rows.shape)


def rope_factors(config: DecoderConfig) -> Array:
    """[head_dim / 2] numbers by which llama.cpp divides the frequencies: llama3's scaling as this project
    computes it."""
    assert config.rope.scaling is not None
    frequencies = config.rope.frequencies(config.head_dim)
    return (frequencies / scale_llama3(frequencies, config.rope.scaling)).astype(np.float32)
