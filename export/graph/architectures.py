"""The architectures that are built, by `model_type`."""

from __future__ import annotations

from typing import Any

from edge.errors import UserError
from edge.fields import shown
from export.graph import gemma3_text, llama, qwen2, qwen3
from export.graph.config import ConfigReader, DecoderConfig
from export.graph.conversion import Conversion

CONVERSIONS: dict[str, Conversion] = {
    "llama": llama.CONVERSION,
    "qwen2": qwen2.CONVERSION,
    "qwen3": qwen3.CONVERSION,
    "gemma3_text": gemma3_text.CONVERSION,
}


def read_config(config: dict[str, Any], context: int) -> DecoderConfig:
    """The decoder that config.json declares, for at most `context` positions.

    Raises UserError for an architecture or a setting that is not built, naming it and those built.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONVERSIONS:
        raise UserError(
            f"config.json has model_type {shown(model_type)}, an architecture that is not built; those "
            f"built: {', '.join(CONVERSIONS)}"
        )
    return CONVERSIONS[model_type].read_config(ConfigReader(config), context)
