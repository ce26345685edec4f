"""Tiny random checkpoints of every architecture in the hub's layout, written without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS, USER, END = "<s>", "</s>", "<|user|>", "<|end|>"
SPECIALS = (BOS, EOS, USER, END)  # ids 0 to 3
VOCABULARY = 307  # a little more than the tokenizer has, as in many published models

CHAT_TEMPLATE = """{{- bos_token }}
{%- if tools is not none %}TOOLS{% endif %}
{%- for message in messages %}
<|user|>{{ message['content'] | trim }}
Day {{ strftime_now('%d') }}.<|end|>
{% endfor %}
{%- if add_generation_prompt %}A:{% endif %}"""

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 40,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# What each shape is there for: see its keys. `odd` is the base: head_dim is not hidden/heads, one key/value
# head, tied.
SHAPES: dict[str, dict[str, Any]] = {
    "odd": {},
    "untied": {"tie_word_embeddings": False, "head_dim": 32, "num_key_value_heads": 2},
    "llama3": {"head_dim": 16, "rope_scaling": LLAMA3, "rope_theta": 500000.0, "num_key_value_heads": 4},
    "narrow": {"head_dim": 8, "num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 96,
        "head_dim": 24,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    },
    "qwen2-window": {
        "model_type": "qwen2",
        "hidden_size": 64,
        "head_dim": 16,
        "num_key_value_heads": 4,
        "use_sliding_window": True,
        "sliding_window": 90,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "num_key_value_heads": 2},
    "qwen3-untied": {"model_type": "qwen3", "head_dim": 32, "tie_word_embeddings": False},
    # A window shorter than the prompt, so that prefill and decode both cross it.
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "head_dim": 32,
        "sliding_window": 90,
        "query_pre_attn_scalar": 20,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
    "gemma3-odd": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "num_key_value_heads": 2,
        "sliding_window": 140,
        "query_pre_attn_scalar": 64,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
    },
}
# What checkpoints have beside the tensors of all: biases of queries, keys and values, norms of their heads,
# norms behind attention and MLP, norms that multiply by 1 + weight.
TRAITS: dict[str, set[str]] = {
    "llama": set(),
    "qwen2": {"bias"},
    "qwen3": {"head_norms"},
    "gemma3_text": {"head_norms", "norms_behind", "centred"},
}
WITH_BOS = ("odd", "llama3", "gemma3")  # their post-processor adds BOS
WITH_TEMPLATE = ("untied",)


def config_of(**changes: Any) -> dict[str, Any]:
    """BASE with changes; an architecture other than llama names its activation and classes by itself."""
    config = BASE | changes
    if config["model_type"] != "llama":
        del config["architectures"], config["mlp_bias"]
    if config["model_type"] == "gemma3_text":
        del config["hidden_act"]
    return config


def tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Every weight a checkpoint of this config has, wide enough to keep attention far from uniform."""
    rng, traits = np.random.default_rng(seed), TRAITS.get(config["model_type"], set())
    hidden, width, head_dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.self_attn.q_proj.weight": (queries, hidden),
            f"{name}.self_attn.k_proj.weight": (keys, hidden),
            f"{name}.self_attn.v_proj.weight": (keys, hidden),
            f"{name}.self_attn.o_proj.weight": (hidden, queries),
            f"{name}.mlp.gate_proj.weight": (width, hidden),
            f"{name}.mlp.up_proj.weight": (width, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, width),
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.post_attention_layernorm.weight": (hidden,),
        }
        if "bias" in traits:
            shapes |= {
                f"{name}.self_attn.{p}_proj.bias": (n,)
                for p, n in (("q", queries), ("k", keys), ("v", keys))
            }
        if "head_norms" in traits:
            shapes |= {f"{name}.self_attn.{p}_norm.weight": (head_dim,) for p in "qk"}
        if "norms_behind" in traits:
            shapes |= {f"{name}.{p}_feedforward_layernorm.weight": (hidden,) for p in ("pre", "post")}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    centre = 0.0 if "centred" in traits else 1.0

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 2:
            return rng.normal(0, 0.15 if "centred" in traits else 0.25, shape)
        if "q_norm" in name or "k_norm" in name:
            # Long queries and keys, or every head would look everywhere.
            return rng.uniform(centre + 0.5, centre + 1.5, shape)
        return (
            rng.normal(0, 0.5, shape)
            if name.endswith("bias")
            else rng.uniform(centre - 0.5, centre + 0.5, shape)
        )

    return {name: draw(name, shape).astype(np.float32) for name, shape in shapes.items()}


def tokenizer(*, bos: bool) -> Tokenizer:
    """Byte-level BPE with a few merges; with `bos` its post-processor starts every text with BOS."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[AddedToken(text, special=True) for text in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(
        ["what is the name of the sea that the ship is in", "the theme of the thesis"], trainer
    )
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
        )
    return made


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    *,
    dtype: str = "F32",
    shards: int = 1,
    bos: bool = True,
    template: str | None = None,
    seed: int = 0,
    weights: dict[str, np.ndarray] | None = None,
) -> Path:
    """A whole checkpoint folder. `dtype` is F32, F16 or BF16; more than one shard come with an index."""
    folder.mkdir(parents=True)
    kind = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}[
        dtype
    ]
    stored = {name: tensor.astype(kind) for name, tensor in (weights or tensors(config, seed)).items()}
    if shards == 1:
        save_file(stored, folder / "model.safetensors")
    else:
        weight_map = {}
        names = sorted(stored)
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            save_file({name: stored[name] for name in names[i::shards]}, folder / file)
            weight_map |= dict.fromkeys(names[i::shards], file)
        write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": [1, 3]})
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": BOS,
            "eos_token": {
                "__type": "AddedToken",
                "content": EOS,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
            },
            "clean_up_tokenization_spaces": False,
        },
    )
    tokenizer(bos=bos).save(str(folder / "tokenizer.json"))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return folder


def write_shape(folder: Path, name: str) -> Path:
    """One of SHAPES."""
    return write_checkpoint(
        folder,
        config_of(**SHAPES[name]),
        bos=name in WITH_BOS,
        template=CHAT_TEMPLATE if name in WITH_TEMPLATE else None,
        seed=len(name),
    )
