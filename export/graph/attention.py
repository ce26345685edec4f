"""Grouped-query attention with rope and a KV cache, as one fused node that also gives its pattern.

GroupQueryAttention's fourth output `output_qk` with `qk_output=2` is the attention after softmax, [1, H, S,
T], heads in transformers' order, zero outside a window.

The node's own scale of the scores is 1. The scale lies in the rope tables: its square root in those of the
queries, and in those of the keys. With any other scale, onnxruntime's x86 kernel that gives the attention
out lays all keys out anew for every token, which takes most of its time (docs/performance.md).
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from export.graph.builder import MICROSOFT, GraphBuilder, Shape
from export.graph.config import Rope

FUSED_ROPE_MULTIPLE = 16  # with do_rotary the kernel takes head sizes that are multiples of 16 only


class AttentionInputs:
    """Graph inputs that all attention nodes share, and rope tables, one for each base, with its scale."""

    def __init__(self, b: GraphBuilder) -> None:
        self.b = b
        self.seqlens_k = b.input("seqlens_k", TensorProto.INT32, [1])  # T - 1
        self.total = b.input("total_sequence_length", TensorProto.INT32, [])  # T
        self._offset = ""

    def tables(self, layer: int) -> tuple[str, str]:
        """Names of the cos and sin tables [context, head_dim / 2] that this layer turns by."""
        c = self.b.config
        local = c.local_rope is not None and c.windows[layer] > 0
        rope: Rope = c.local_rope if local and c.local_rope is not None else c.rope
        cos, sin = (f"rope.{'local' if local else 'global'}.{part}" for part in ("cos", "sin"))
        if cos not in self.b.initializers:
            for name, table in zip((cos, sin), rope.tables(c.head_dim, c.context), strict=True):
                self.b.constant(name, table * np.float32(math.sqrt(c.query_scale)))
        return cos, sin

    def offset(self) -> str:
        """Position of the first new token, [1] int64: T - S."""
        if not self._offset:
            b = self.b
            b.node("Cast", [self.total], ["rope.total"], to=TensorProto.INT64)
            b.node("Shape", ["input_ids"], ["rope.new"], start=1, end=2)
            b.node("Sub", ["rope.total", "rope.new"], ["rope.offset"])
            self._offset = "rope.offset"
        return self._offset


def attention(
    b: GraphBuilder, shared: AttentionInputs, layer: int, x: str, weights: str, pattern: str
) -> str:
    """Attention and output projection of x [1, S, D] -> [1, S, D].

    `pattern` names the attention after softmax [1, H, S, T]; "" does not give it out.
    """
    c = b.config
    prefix = f"layers.{layer}.attention"
    cos, sin = shared.tables(layer)
    fused_rope = c.head_dim % FUSED_ROPE_MULTIPLE == 0
    qkv = projections(b, x, weights, prefix, packed=fused_rope and not c.qk_norm)
    if not fused_rope:
        qkv[:2] = [
            rotate(b, shared, part, heads, cos, sin)
            for part, heads in zip(qkv, (c.heads, c.kv_heads), strict=False)
        ]
    past, present = [], []
    for part in ("key", "value"):
        shape: Shape = [1, c.kv_heads, "capacity", c.head_dim]
        past.append(b.input(f"past_key_values.{layer}.{part}", TensorProto.FLOAT, shape))
        present.append(f"present.{layer}.{part}")
        b.output(present[-1], TensorProto.FLOAT, shape)
    b.node(
        "GroupQueryAttention",
        [*qkv, *past, shared.seqlens_k, shared.total, *([cos, sin] if fused_rope else [])],
        [f"{prefix}.mixed", *present, *([pattern] if pattern else [])],
        domain=MICROSOFT,
        num_heads=c.heads,
        kv_num_heads=c.kv_heads,
        scale=1.0,
        do_rotary=int(fused_rope),
        local_window_size=c.windows[layer] or -1,
        qk_output=2 if pattern else 0,
    )
    return b.linear(
        f"{prefix}.mixed", [f"{weights}.o_proj.weight"], [c.hidden], c.heads * c.head_dim, f"{prefix}.out"
    )


def projections(b: GraphBuilder, x: str, weights: str, prefix: str, *, packed: bool) -> list[str]:
    """Query, key and value for the fused node: one packed tensor and two blanks, or three tensors."""
    c = b.config
    names = [f"{weights}.{part}_proj" for part in "qkv"]
    sizes = [heads * c.head_dim for heads in (c.heads, c.kv_heads, c.kv_heads)]
    if packed:
        return [linear_with_bias(b, x, names, sizes, f"{prefix}.qkv"), "", ""]
    q, k, v = (
        linear_with_bias(b, x, [n], [s], f"{prefix}.{p}")
        for n, s, p in zip(names, sizes, "qkv", strict=True)
    )
    if c.qk_norm:
        q = norm_heads(b, q, c.heads, f"{weights}.q_norm.weight")
        k = norm_heads(b, k, c.kv_heads, f"{weights}.k_norm.weight")
    return [q, k, v]


def linear_with_bias(b: GraphBuilder, x: str, names: list[str], sizes: list[int], out: str) -> str:
    """A stacked projection, plus its stacked bias where the architecture has one."""
    product = b.linear(x, [f"{name}.weight" for name in names], sizes, b.config.hidden, out)
    if not b.config.qkv_bias:
        return product
    bias = b.vectors([f"{name}.bias" for name in names], sizes)
    b.node("Add", [product, bias], [f"{out}.biased"])
    return f"{out}.biased"


def norm_heads(b: GraphBuilder, x: str, heads: int, weight: str) -> str:
    """RMS norm of each head of x [1, S, heads * head_dim]."""
    c = b.config
    b.node(
        "Reshape",
        [x, b.constant(f"heads.{heads}", np.array([1, -1, heads, c.head_dim], np.int64))],
        [f"{x}.heads"],
    )
    b.rms_norm(f"{x}.heads", b.vector(weight, c.head_dim, offset=c.norm_offset), f"{x}.heads_normed")
    flat = b.constant(f"flat.{heads}", np.array([1, -1, heads * c.head_dim], np.int64))
    b.node("Reshape", [f"{x}.heads_normed", flat], [f"{x}.normed"])
    return f"{x}.normed"


def rotate(b: GraphBuilder, shared: AttentionInputs, x: str, heads: int, cos: str, sin: str) -> str:
    """Rope as a node of its own, for head sizes that the fused one refuses."""
    b.node(
        "RotaryEmbedding",
        [x, shared.offset(), cos, sin],
        [f"{x}.rotated"],
        domain=MICROSOFT,
        num_heads=heads,
    )
    return f"{x}.rotated"
