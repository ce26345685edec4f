"""What transformers says of one sequence of tokens: logits, attentions and residual streams of every
position."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx


class Forward(NamedTuple):
    """logits [S, V]; attention [L, H, S, S]; hidden [L+1, S, D], the last one BEFORE the final norm."""

    logits: np.ndarray
    attention: np.ndarray
    hidden: np.ndarray


def load(folder: Path) -> Any:
    """The checkpoint in float32 with eager attention."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def forward(model: Any, ids: list[int]) -> Forward:
    import torch

    before_norm = []
    hook = model.model.norm.register_forward_pre_hook(lambda module, inputs: before_norm.append(inputs[0]))
    try:
        with torch.no_grad():
            out = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)
    finally:
        hook.remove()
    hidden = [*out.hidden_states[:-1], before_norm[0]]
    return Forward(
        out.logits[0].numpy(),
        np.stack([a[0].numpy() for a in out.attentions]),
        np.stack([h[0].numpy() for h in hidden]),
    )


def dequantise(artifact: Path) -> dict[str, np.ndarray]:
    """Float weights of an int8 or int4 artifact, by checkpoint name, from the blocks in model.onnx.data.

    A slow twin of the format: block b of row n holds bits-wide unsigned numbers, low nibble first, worth
    (number - 2^(bits-1)) * scale[n, b].
    """
    graph = onnx.load(str(artifact / "model.onnx"), load_external_data=False).graph
    data = (artifact / "model.onnx.data").read_bytes()
    arrays = initializers(graph, data)
    weights = {}
    for node in graph.node:
        if node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            bits = next(a.i for a in node.attribute if a.name == "bits")
            name = (
                node.input[1 if node.op_type == "MatMulNBits" else 0]
                .removesuffix(".rows")
                .removesuffix(f".q{bits}")
            )
            if name not in weights:
                weights[name] = unpack(arrays[f"{name}.q{bits}"], arrays[f"{name}.scales"], bits)
    return weights


def unpack(packed: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """[N, blocks, bytes] and [N, blocks] -> [N, blocks * block_size]; the last block may be padded."""
    rows, blocks, size = packed.shape
    block_size = size * 8 // bits
    matrix = np.empty((rows, blocks * block_size), np.float64)
    for n, row in enumerate(packed.tolist()):
        for b, block in enumerate(row):
            numbers = block if bits == 8 else [number for byte in block for number in (byte & 15, byte >> 4)]
            for k, number in enumerate(numbers):
                matrix[n, b * block_size + k] = (number - 2 ** (bits - 1)) * float(scales[n, b])
    return matrix


def initializers(graph: onnx.GraphProto, data: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    for tensor in graph.initializer:
        where = {entry.key: entry.value for entry in tensor.external_data}
        if where:
            raw = data[int(where["offset"]) : int(where["offset"]) + int(where["length"])]
            kind = np.uint8 if tensor.data_type == onnx.TensorProto.UINT8 else np.float32
            arrays[tensor.name] = np.frombuffer(raw, kind).reshape(tuple(tensor.dims))
        else:
            arrays[tensor.name] = onnx.numpy_helper.to_array(tensor)
    return arrays


def put(model: Any, weights: dict[str, np.ndarray]) -> None:
    """Replaces a model's matrices; a name of several, joined by "+", is those matrices stacked."""
    import torch

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, matrix in weights.items():
            start = 0
            for part in name.split("+"):
                parameter = parameters[part]
                rows = parameter.shape[0]
                parameter.copy_(torch.from_numpy(matrix[start : start + rows, : parameter.shape[1]].copy()))
                start += rows
            assert start == len(matrix)
