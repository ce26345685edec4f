"""The files of an ONNX artifact: the decoder graph with its taps, and its weights beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from edge.precision import GRAPH_NAME
from export.checkpoint import Checkpoint
from export.graph.builder import ExternalData, GraphBuilder
from export.graph.config import DecoderConfig
from export.graph.decoder import build as build_decoder
from export.graph.taps import TapWriter
from export.precision import Target


def write_files(
    checkpoint: Checkpoint,
    config: DecoderConfig,
    to: Target,
    taps: str,
    folder: Path,
    on_bytes: Callable[[int], None],
) -> dict[str, int]:
    """Writes model.onnx and model.onnx.data into the folder; tensors by storage type."""
    data = ExternalData(folder / f"{GRAPH_NAME}.data", on_bytes)
    try:
        builder = GraphBuilder(checkpoint, config, to, data)
        build_decoder(builder, TapWriter(builder, taps))
    finally:
        data.close()
    onnx.save(builder.model(), str(folder / GRAPH_NAME))
    return builder.tensor_types
