"""The decoder that all built architectures share; their DecoderConfig holds the differences."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from export.graph.attention import AttentionInputs, attention
from export.graph.builder import GraphBuilder
from export.graph.taps import TapWriter


def build(b: GraphBuilder, taps: TapWriter) -> None:
    """Adds the whole decoder: input_ids [1, S] -> logits [1, V] of the last position, and the taps."""
    c = b.config
    ids = b.input("input_ids", TensorProto.INT64, [1, "new"])
    shared = AttentionInputs(b)
    residual = embed(b, ids, taps.hidden(0))
    x = b.rms_norm(residual, norm(b, "model.layers.0.input_layernorm.weight"), "layers.0.norm")
    for layer in range(c.layers):
        weights, name = f"model.layers.{layer}", f"layers.{layer}"
        mixed = attention(b, shared, layer, x, f"{weights}.self_attn", taps.attention(layer))
        before_mlp = "post_attention_layernorm"
        if c.sandwich_norms:
            mixed = b.rms_norm(
                mixed, norm(b, f"{weights}.post_attention_layernorm.weight"), f"{name}.attention.normed"
            )
            before_mlp = "pre_feedforward_layernorm"
        x, residual = b.add_rms_norm(
            residual, mixed, norm(b, f"{weights}.{before_mlp}.weight"), f"{name}.post_norm", f"{name}.middle"
        )
        delta = mlp(b, x, f"{weights}.mlp", f"{name}.mlp")
        if c.sandwich_norms:
            delta = b.rms_norm(
                delta, norm(b, f"{weights}.post_feedforward_layernorm.weight"), f"{name}.mlp.normed"
            )
        following = (
            "model.norm.weight"
            if layer == c.layers - 1
            else f"model.layers.{layer + 1}.input_layernorm.weight"
        )
        x, residual = b.add_rms_norm(
            residual, delta, norm(b, following), f"{name}.next_norm", taps.hidden(layer + 1)
        )
    x = b.last_position(x, "last.norm")  # prefill pays for one row of logits, not S
    b.unembedding(x, "model.embed_tokens.weight" if c.tied else "lm_head.weight", "logits")
    b.output("logits", TensorProto.FLOAT, [1, c.vocabulary])


def embed(b: GraphBuilder, ids: str, out: str) -> str:
    """Embedding [1, S, D], scaled where the architecture asks for it."""
    scale = b.config.embedding_scale
    if scale == 1.0:
        return b.embedding(ids, "model.embed_tokens.weight", out)
    b.embedding(ids, "model.embed_tokens.weight", "embedding.unscaled")
    b.node("Mul", ["embedding.unscaled", b.constant("embedding.scale", np.array(scale, np.float32))], [out])
    return out


def norm(b: GraphBuilder, name: str) -> str:
    return b.vector(name, b.config.hidden, offset=b.config.norm_offset)


def mlp(b: GraphBuilder, x: str, weights: str, name: str) -> str:
    """down(activation(gate(x)) * up(x)), [1, S, D] -> [1, S, D]."""
    c = b.config
    gate = b.linear(x, [f"{weights}.gate_proj.weight"], [c.intermediate], c.hidden, f"{name}.gate")
    up = b.linear(x, [f"{weights}.up_proj.weight"], [c.intermediate], c.hidden, f"{name}.up")
    if c.activation == "silu":
        b.node("Sigmoid", [gate], [f"{name}.sigmoid"])
        b.node("Mul", [gate, f"{name}.sigmoid"], [f"{name}.active"])
    else:
        b.node("Gelu", [gate], [f"{name}.active"], approximate="tanh")
    b.node("Mul", [f"{name}.active", up], [f"{name}.gated"])
    return b.linear(
        f"{name}.gated", [f"{weights}.down_proj.weight"], [c.hidden], c.intermediate, f"{name}.down"
    )
