"""The tensors that a checkpoint of a decoder has, by their names in the hub's layout."""

from __future__ import annotations

from export.graph.config import DecoderConfig

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def all_shapes(c: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of every tensor that a decoder needs, by name; a checkpoint may have others beside them."""
    layers = layer_shapes(c).items()
    return {
        EMBEDDING: (c.vocabulary, c.hidden),
        **{f"model.layers.{i}.{name}": shape for i in range(c.layers) for name, shape in layers},
        FINAL_NORM: (c.hidden,),
        **({} if c.tied else {HEAD: (c.vocabulary, c.hidden)}),
    }


def layer_shapes(c: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of one layer's tensors, by name behind `model.layers.N.`."""
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj.weight": (queries, c.hidden),
        "self_attn.k_proj.weight": (keys, c.hidden),
        "self_attn.v_proj.weight": (keys, c.hidden),
        "self_attn.o_proj.weight": (c.hidden, queries),
        "mlp.gate_proj.weight": (c.intermediate, c.hidden),
        "mlp.up_proj.weight": (c.intermediate, c.hidden),
        "mlp.down_proj.weight": (c.hidden, c.intermediate),
        "input_layernorm.weight": (c.hidden,),
        "post_attention_layernorm.weight": (c.hidden,),
    }
    if c.qkv_bias:
        shapes |= {f"self_attn.{p}_proj.bias": (n,) for p, n in (("q", queries), ("k", keys), ("v", keys))}
    if c.qk_norm:
        shapes |= {f"self_attn.{p}_norm.weight": (c.head_dim,) for p in "qk"}
    if c.sandwich_norms:
        shapes |= {f"{p}_feedforward_layernorm.weight": (c.hidden,) for p in ("pre", "post")}
    return shapes
