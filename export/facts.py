"""The differences between a downloaded configuration and the registry's facts of its model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from edge.errors import UserError
from edge.registry import RegistryEntry, Shape
from export.graph.architectures import read_config
from export.tokenizer import named_stop_ids


def differences(
    entry: RegistryEntry, config: Mapping[str, Any], generation: Mapping[str, Any] | None = None
) -> list[str]:
    """Differences of config.json and generation_config.json from the registry, a sentence each.

    Facts that the registry does not state are not compared. Nor is a shape that cannot be read: the build
    refuses it and gives the reason.
    """
    expected: dict[str, Any] = {"model_type": entry.model_type}
    actual: dict[str, Any] = {"model_type": config.get("model_type")}
    if entry.stop_ids:
        expected["stop_ids"] = sorted(entry.stop_ids)
        actual["stop_ids"] = sorted(named_stop_ids(config, generation or {}))
    shape = None if entry.shape is None else shape_of(config)
    if entry.shape is not None and shape is not None:
        expected |= vars(entry.shape)
        actual |= vars(shape)
    return [
        f"{name} is {actual[name]} in the downloaded configuration and {value} in the registry"
        for name, value in expected.items()
        if actual[name] != value
    ]


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """The shape that config.json gives, in the registry's terms; None where it is not read."""
    try:
        decoder = read_config(dict(config), sys.maxsize)
    except UserError:
        return None
    scaling = decoder.rope.scaling
    return Shape(
        layers=decoder.layers,
        hidden=decoder.hidden,
        heads=decoder.heads,
        kv_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        intermediate=decoder.intermediate,
        vocabulary=decoder.vocabulary,
        context=decoder.positions,
        tied=decoder.tied,
        norm_eps=decoder.norm_eps,
        rope_theta=decoder.rope.theta,
        local_rope_theta=0.0 if decoder.local_rope is None else decoder.local_rope.theta,
        window=max(decoder.windows),
        llama3_factor=0.0 if scaling is None else scaling.factor,
    )
