"""The weights as an artifact stores them, dequantised and compared with the checkpoint's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from edge.artifact import Artifact
from edge.errors import UserError
from edge.precision import GRAPH_NAME
from export.checkpoint import Array, Checkpoint
from export.graph.config import DecoderConfig
from export.verdict import CHECKPOINT, Check


class Matrix(NamedTuple):
    """The form of a weight in a graph: `bits` 32 is float32, 8 or 4 are blocks with scales.

    `transposed` where MatMul reads it.
    """

    bits: int
    transposed: bool = False


class Stored:
    """The weights inside an artifact, by checkpoint name (several joined by "+" are stacked), mapped from
    its files.

    Raises UserError when the graph is not one that `edge-export build` made.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.path = artifact.path / GRAPH_NAME
        try:
            graph = onnx.load(str(self.path), load_external_data=False).graph
        except Exception as error:  # protobuf and onnx raise unrelated types
            raise UserError(
                f"{self.path} is not an ONNX graph ({error}): build the artifact again"
            ) from error
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self.matrices: dict[str, Matrix] = {}
        for node in graph.node:
            bits = next((a.i for a in node.attribute if a.name == "bits"), 32)
            if node.op_type == "MatMulNBits":
                self.matrices[node.input[1].removesuffix(f".q{bits}")] = Matrix(bits)
            elif node.op_type == "GatherBlockQuantized":
                self.matrices[node.input[0].removesuffix(".rows").removesuffix(f".q{bits}")] = Matrix(bits)
            elif node.op_type in ("MatMul", "Gemm") and node.input[1] in self._tensors:
                self.matrices[node.input[1]] = Matrix(32, transposed=node.op_type == "MatMul")
            elif node.op_type == "Gather" and node.input[0] in self._tensors:
                self.matrices.setdefault(node.input[0], Matrix(32))
        self.vectors = [name for name in self._tensors if name.endswith(("norm.weight", ".bias"))]

    def array(self, name: str) -> npt.NDArray[Any]:
        """A tensor as it is stored; large ones are mapped, not read."""
        if name not in self._tensors:
            raise UserError(f"{self.path} has no tensor {name}: build the artifact again")
        if name in self._arrays:
            return self._arrays[name]
        tensor = self._tensors[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        if not where:
            self._arrays[name] = np.asarray(onnx.numpy_helper.to_array(tensor))
            return self._arrays[name]
        kind = np.uint8 if tensor.data_type == onnx.TensorProto.UINT8 else np.float32
        file = self.path.with_name(Path(where["location"]).name)
        self._arrays[name] = np.memmap(file, kind, "r", int(where["offset"]), tuple(tensor.dims))
        return self._arrays[name]

    def rows(self, name: str, start: int, stop: int, width: int) -> Array:
        """Rows [N, width] as float32; blocks hold (number - 2^(bits-1)) * scale, low nibble first."""
        matrix = self.matrices[name]
        if matrix.bits == 32:
            array = self.array(name)
            return np.asarray(array[:, start:stop].T if matrix.transposed else array[start:stop], np.float32)
        packed = self.array(f"{name}.q{matrix.bits}")[start:stop]
        scales = self.array(f"{name}.scales")[start:stop]
        if matrix.bits == 4:
            packed = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1)
        values = packed.astype(np.float32)
        values -= np.float32(2 ** (matrix.bits - 1))
        values *= scales[..., None]
        return values.reshape(len(values), -1)[:, :width]

    def block_size(self, name: str) -> int:
        """Weights that share a scale."""
        bits = self.matrices[name].bits
        return int(self.array(f"{name}.q{bits}").shape[2]) * 8 // bits


ROWS = 4096  # rows dequantised at once: 32 MB at a width of 2048


def put(torch: Any, parameters: dict[str, Any], stored: Stored) -> None:
    """Replaces a transformers model's matrices by those an artifact stores."""
    for name in stored.matrices:
        start = 0
        for part in name.split("+"):
            parameter = parameters[part]
            count, width = parameter.shape
            for row in range(0, count, ROWS):
                end = min(row + ROWS, count)
                block = stored.rows(name, start + row, start + end, width)
                parameter[row:end].copy_(torch.from_numpy(np.ascontiguousarray(block)))
            start += count


def check_weights(stored: Stored, checkpoint: Checkpoint, config: DecoderConfig, allowed: float) -> Check:
    """Every stored weight against the checkpoint's: absolute for float32, in quantisation steps for blocks.

    A step is the largest weight of the checkpoint's block over 2^(bits-1), so that a wrong scale shows as
    well. Norms and biases must be equal. `where` and `first` are names of the checkpoint.
    """
    worst, where, first = 0.0, "", ""
    for name, error in weight_errors(stored, checkpoint, config):
        if not error <= worst:
            worst, where = error, name
        if not error <= allowed and not first:
            first = name
    return Check("weights", CHECKPOINT, worst, allowed, where, first)


def weight_errors(
    stored: Stored, checkpoint: Checkpoint, config: DecoderConfig
) -> Iterator[tuple[str, float]]:
    """Error of each tensor of the checkpoint, in the order of the graph."""
    for name, matrix in stored.matrices.items():
        start = 0
        for part in name.split("+"):
            shape = checkpoint.shape(part)
            error = 0.0
            for block in checkpoint.row_blocks(part, shape):
                for row in range(0, len(block), ROWS):
                    wanted = block[row : row + ROWS]
                    actual = stored.rows(name, start, start + len(wanted), shape[1])
                    size = 0 if matrix.bits == 32 else stored.block_size(name)
                    error = max(
                        error,
                        matrix_error(actual, wanted, size, matrix.bits),
                        key=lambda e: (math.isnan(e), e),
                    )
                    start += len(wanted)
            yield part, error
    for name in stored.vectors:
        parts = name.split("+")
        wanted = np.concatenate([checkpoint.tensor(part, checkpoint.shape(part)) for part in parts])
        if name.endswith("norm.weight"):
            wanted = wanted + np.float32(config.norm_offset)
        difference = float(np.abs(stored.array(name) - wanted).max())
        yield name, 0.0 if difference == 0.0 else math.inf  # a vector is exact in every precision


def matrix_error(found: Array, wanted: Array, block_size: int, bits: int) -> float:
    """Largest error of rows [n, K]; with a block size in steps of that block."""
    error = np.abs(found - wanted)
    if not block_size:
        return float(error.max())
    padding = ((0, 0), (0, -wanted.shape[1] % block_size))
    blocks = (len(wanted), -1, block_size)
    largest = np.pad(np.abs(wanted), padding).reshape(blocks).max(axis=2)
    error = np.pad(error, padding).reshape(blocks).max(axis=2)
    steps = largest / np.float32(2 ** (bits - 1))
    zero = steps == 0
    ratio = np.where(zero, np.where(error > 0, np.inf, 0.0), error / np.where(zero, 1.0, steps))
    return float(ratio.max())
