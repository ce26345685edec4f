"""The settings of a decoder graph, read from config.json as transformers 4 or 5 writes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge.artifact import LARGEST_SIZE
from edge.errors import UserError
from edge.fields import shown

HEAD_DIM_MULTIPLE = 8  # GroupQueryAttention of onnxruntime 1.32 takes no other head size


LAYERS, MOST_LAYERS = "num_hidden_layers", 10_000
FLOAT_MAX = float(np.finfo(np.float32).max)
WINDOW_LAYER, FULL_LAYER = "sliding_attention", "full_attention"


@dataclass(frozen=True)
class Llama3Scaling:
    """Frequency scaling of Llama 3.1 and later (transformers' rope type `llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base `theta`, optional scaling."""

    theta: float
    scaling: Llama3Scaling | None = None

    def frequencies(self, head_dim: int) -> npt.NDArray[np.float32]:
        """Inverse frequencies [head_dim / 2] before any scaling."""
        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        return (np.float32(1.0) / np.float32(self.theta) ** exponents).astype(np.float32)

    def tables(self, head_dim: int, context: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """cos and sin, each [context, head_dim / 2] float32.

        Inverse frequencies are float32, and angles are their float32 product with the position, as in
        transformers' rotary embedding. In float64, long positions would drift from the model as it was
        trained.
        """
        frequencies = self.frequencies(head_dim)
        if self.scaling is not None:
            frequencies = scale_llama3(frequencies, self.scaling)
        angles = np.arange(context, dtype=np.float32)[:, None] * frequencies[None, :]
        return np.cos(angles, dtype=np.float32), np.sin(angles, dtype=np.float32)


def scale_llama3(frequencies: npt.NDArray[np.float32], scaling: Llama3Scaling) -> npt.NDArray[np.float32]:
    """Long wavelengths are stretched by `factor`, short ones kept, those between interpolated."""
    wavelengths = 2 * math.pi / frequencies
    low = scaling.original_context / scaling.low_freq_factor
    high = scaling.original_context / scaling.high_freq_factor
    smooth = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    between = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    scaled = np.where(
        wavelengths > low, frequencies / scaling.factor, np.where(wavelengths < high, frequencies, between)
    )
    return scaled.astype(np.float32)


@dataclass(frozen=True)
class DecoderConfig:
    """The settings of a model that `export.graph.decoder` builds from.

    `positions` is how many config.json declares. `context` of them are built: it bounds the rope tables
    and the KV cache. `windows` has for each layer the number of keys a query sees (0: all). Window
    layers turn by `local_rope` where there is one. `norm_offset` is added to every norm weight.
    `sandwich_norms` puts a norm behind attention and MLP as well. `qk_norm` puts one on each query and
    key head before rope.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    positions: int
    context: int
    norm_eps: float
    rope: Rope
    tied: bool
    windows: tuple[int, ...]
    query_scale: float
    local_rope: Rope | None = None
    activation: str = "silu"
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_offset: float = 0.0
    sandwich_norms: bool = False
    embedding_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise UserError(
                f"config.json: {self.heads} heads cannot share {self.kv_heads} key/value heads evenly"
            )
        if self.head_dim % HEAD_DIM_MULTIPLE:
            raise UserError(
                f"config.json: head_dim is {self.head_dim}, which is not built; it must be a multiple of "
                f"{HEAD_DIM_MULTIPLE}"
            )


class ConfigReader:
    """Typed access to config.json that names the key in every complaint."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"config.json: {key} is {shown(value)}, a positive whole number is needed")
        most = MOST_LAYERS if key == LAYERS else LARGEST_SIZE
        if value > most:
            raise UserError(f"config.json: {key} is {shown(value)}, at most {most} can be built")
        return value

    def natural(self, key: str, default: int) -> int:
        """A whole number that may be 0."""
        return 0 if self.raw.get(key) == 0 and self.raw[key] is not False else self.integer(key, default)

    def number(self, key: str, default: float) -> float:
        value = self.raw.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= FLOAT_MAX:
            raise UserError(f"config.json: {key} is {shown(value)}, a positive number of float32 is needed")
        return float(value)

    def only(self, key: str, *allowed: object) -> None:
        """Refuses, by name, a setting that asks for something the graph does not build."""
        if key in self.raw and self.raw[key] not in allowed:
            raise UserError(
                f"config.json asks for {key}={shown(self.raw[key])}, which is not built; it must be "
                f"{' or '.join(repr(value) for value in allowed)}"
            )

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw.get(key)
        value = default if value is None else value
        if not isinstance(value, bool):
            raise UserError(f"config.json: {key} is {shown(value)}, true or false is needed")
        return value

    def decoder(self, context: int, *, positions: int, head_dim: int | None = None) -> DecoderConfig:
        """Reads the settings that all architectures share; each replaces what it reads in another way.

        `positions` and `head_dim` (None: hidden / heads) are the architecture's own defaults; `context` caps
        the positions.
        """
        self.only("quantization_config", None)
        self.only("partial_rotary_factor", None, 1.0)
        layers, hidden, heads = (self.integer(key) for key in (LAYERS, "hidden_size", "num_attention_heads"))
        size = self.integer("head_dim", head_dim or hidden // heads)
        declared = self.integer("max_position_embeddings", positions)
        return DecoderConfig(
            model_type=self.raw["model_type"],
            layers=layers,
            hidden=hidden,
            heads=heads,
            kv_heads=self.integer("num_key_value_heads", heads),
            head_dim=size,
            intermediate=self.integer("intermediate_size"),
            vocabulary=self.integer("vocab_size"),
            positions=declared,
            context=min(context, declared),
            norm_eps=self.number("rms_norm_eps", 1e-6),
            rope=self.rope(10000.0),
            tied=self.flag("tie_word_embeddings", False),
            windows=(0,) * layers,
            query_scale=size**-0.5,
        )

    def windows(self, layers: int, window: int, default: Sequence[bool]) -> tuple[int, ...]:
        """Window of each layer (0: none) from `layer_types`, or from `default` (True: a window layer)."""
        kinds = self.raw.get("layer_types")
        if kinds is None:
            kinds = [WINDOW_LAYER if local else FULL_LAYER for local in default]
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise UserError(
                f"config.json: layer_types is {shown(kinds)}, a list with one entry for each of {layers} "
                "layers is needed"
            )
        unknown = sorted({str(kind) for kind in kinds} - {WINDOW_LAYER, FULL_LAYER})
        if unknown:
            raise UserError(
                f"config.json asks for the layer type {shown(unknown[0])}; those built: {FULL_LAYER}, "
                f"{WINDOW_LAYER}"
            )
        return tuple(window if kind == WINDOW_LAYER else 0 for kind in kinds)

    def rope(self, default_theta: float) -> Rope:
        """`rope_theta` with `rope_scaling` (transformers 4), or `rope_parameters` (transformers 5)."""
        parameters = self.section("rope_scaling") | self.section("rope_parameters")
        return self.rope_of(parameters, self.number("rope_theta", default_theta))

    def section(self, key: str) -> dict[str, Any]:
        value = self.raw.get(key)
        value = {} if value is None else value
        if not isinstance(value, dict):
            raise UserError(f"config.json: {key} is {shown(value)}, an object is needed")
        return dict(value)

    def rope_of(self, parameters: dict[str, Any], default_theta: float) -> Rope:
        reader = ConfigReader(parameters)
        theta = reader.number("rope_theta", default_theta)
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        reader.only("partial_rotary_factor", None, 1.0)
        if kind == "default":
            return Rope(theta)
        if kind == "llama3":
            return Rope(
                theta,
                Llama3Scaling(
                    reader.number("factor", 8.0),
                    reader.number("low_freq_factor", 1.0),
                    reader.number("high_freq_factor", 4.0),
                    reader.integer("original_max_position_embeddings", 8192),
                ),
            )
        raise UserError(
            f"config.json asks for rope type {shown(kind)}, which is not built; the types built are "
            "default, llama3"
        )
