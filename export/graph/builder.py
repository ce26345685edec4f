"""Builds a decoder graph node by node, streaming weights into one external data file.

Fused operators (GroupQueryAttention, MatMulNBits, SkipSimplifiedLayerNormalization) are onnxruntime's
com.microsoft ones. Shapes in comments: S new positions, T all positions so far, D hidden width, H query
heads, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from export.checkpoint import Array, Checkpoint
from export.graph.config import DecoderConfig
from export.precision import ACCURACY_LEVEL, BLOCK_SIZE, Target
from export.quantize import quantize_rows

MICROSOFT = "com.microsoft"
OPSETS = (("", 21), (MICROSOFT, 1))
IR_VERSION = 10
INLINE_BYTES = 1024  # smaller constants stay in the graph file
PAGE = 4096  # large tensors start on a page so that the runtime can map them

Shape = Sequence[int | str]


class ExternalData:
    """The weight file beside the graph: appended to once, in order, never held in memory."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        """`on_bytes` is called with the number of bytes of each chunk written."""
        self.name = path.name
        self._stream = path.open("wb")
        self._on_bytes = on_bytes

    def add(
        self, name: str, kind: int, shape: Sequence[int], chunks: Iterator[npt.NDArray[Any]]
    ) -> onnx.TensorProto:
        """Appends the chunks' bytes and returns an initializer that points at them."""
        position = self._stream.tell()
        offset = -(-position // PAGE) * PAGE
        self._stream.write(b"\0" * (offset - position))
        for chunk in chunks:
            self._stream.write(np.ascontiguousarray(chunk).data)
            self._on_bytes(self._stream.tell())
        return self.view(name, kind, shape, offset, self._stream.tell() - offset)

    def view(self, name: str, kind: int, shape: Sequence[int], offset: int, length: int) -> onnx.TensorProto:
        """An initializer over bytes already written: two tensors may share them in two shapes."""
        tensor = onnx.TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.name), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        return tensor

    def close(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()


def external_span(tensor: onnx.TensorProto) -> tuple[int, int]:
    """Offset and length of an external initializer."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return int(entries["offset"]), int(entries["length"])


class GraphBuilder:
    """Collects nodes, weights, inputs and outputs of one graph."""

    def __init__(
        self, checkpoint: Checkpoint, config: DecoderConfig, target: Target, data: ExternalData
    ) -> None:
        self.checkpoint = checkpoint
        self.config = config
        self.target = target
        self.data = data
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.tensor_types: dict[str, int] = {}

    # Plain pieces

    def input(self, name: str, kind: int, shape: Shape) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: int, shape: Shape) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], *, domain: str = "", **attributes: Any
    ) -> None:
        self.nodes.append(
            helper.make_node(op, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        )

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        if name not in self.initializers:
            if value.nbytes <= INLINE_BYTES:
                self.initializers[name] = onnx.numpy_helper.from_array(value, name)
            else:
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                self.initializers[name] = self.data.add(name, kind, value.shape, iter([value]))
        return name

    def _count(self, kind: str) -> None:
        self.tensor_types[kind] = self.tensor_types.get(kind, 0) + 1

    def _rows(self, names: Sequence[str], sizes: Sequence[int], width: int) -> Iterator[Array]:
        """Row blocks of the matrices [size, width], one after the other, as if stacked."""
        for name, size in zip(names, sizes, strict=True):
            yield from self.checkpoint.row_blocks(name, (size, width))

    # Weights

    def vector(self, name: str, size: int, *, offset: float = 0.0) -> str:
        """A norm's weight [size], with `offset` added to each number."""
        self._count("float32")
        return self.constant(name, self.checkpoint.tensor(name, (size,)) + np.float32(offset))

    def vectors(self, names: Sequence[str], sizes: Sequence[int]) -> str:
        """Biases [sum(sizes)], one after the other."""
        self._count("float32")
        parts = [self.checkpoint.tensor(name, (size,)) for name, size in zip(names, sizes, strict=True)]
        return self.constant("+".join(names), np.concatenate(parts))

    def linear(self, x: str, names: Sequence[str], sizes: Sequence[int], width: int, out: str) -> str:
        """x [1, S, width] times the transpose of the stacked matrices [sum(sizes), width], no bias."""
        rows = sum(sizes)
        weight = "+".join(names)
        if self.target.precision.quantized:
            packed, scales = self._quantized(weight, names, sizes, width)
            self._matmul_nbits(x, packed, scales, (rows, width), self.target.bits_of(weight), out)
        else:
            self._count("float32")
            matrix = np.concatenate(list(self._rows(names, sizes, width))).T  # MatMul wants [width, rows]
            self.initializers[weight] = self.data.add(
                weight, TensorProto.FLOAT, (width, rows), iter([matrix])
            )
            self.node("MatMul", [x, weight], [out])
        return out

    def embedding(self, ids: str, name: str, out: str) -> str:
        """Rows of the matrix [V, D] for ids [1, S] -> [1, S, D]."""
        vocabulary, width = self.config.vocabulary, self.config.hidden
        if not self.target.precision.quantized:
            self.node("Gather", [self._float_matrix(name), ids], [out], axis=0)
            return out
        packed, scales = self._quantized(name, [name], [vocabulary], width)
        # The lookup reads the bytes that the tied lm_head multiplies with, seen as rows of bytes.
        flat = f"{name}.rows"
        offset, length = external_span(self.initializers[packed])
        self.initializers[flat] = self.data.view(
            flat, TensorProto.UINT8, (vocabulary, length // vocabulary), offset, length
        )
        padded = self._blocks(width) * BLOCK_SIZE
        gathered = out if padded == width else f"{out}.padded"
        self.node(
            "GatherBlockQuantized",
            [flat, ids, scales],
            [gathered],
            domain=MICROSOFT,
            bits=self.target.bits_of(name),
            block_size=BLOCK_SIZE,
            gather_axis=0,
            quantize_axis=1,
        )
        if padded != width:
            self._keep_columns(gathered, width, out)
        return out

    def unembedding(self, x: str, name: str, out: str) -> str:
        """Logits [1, V] of x [1, 1, D] with the matrix [V, D]."""
        vocabulary, width = self.config.vocabulary, self.config.hidden
        shape = self.constant(f"{out}.shape", np.array([1, -1], np.int64))
        self.node("Reshape", [x, shape], [f"{out}.row"])
        if self.target.precision.quantized:
            packed, scales = self._quantized(name, [name], [vocabulary], width)
            self._matmul_nbits(
                f"{out}.row", packed, scales, (vocabulary, width), self.target.bits_of(name), out
            )
        else:
            # Gemm with transB reads [V, D] as it is, so that a tied embedding is stored once.
            self.node("Gemm", [f"{out}.row", self._float_matrix(name)], [out], transB=1)
        return out

    def _float_matrix(self, name: str) -> str:
        if name not in self.initializers:
            shape = (self.config.vocabulary, self.config.hidden)
            self._count("float32")
            self.initializers[name] = self.data.add(
                name, TensorProto.FLOAT, shape, self._rows([name], shape[:1], shape[1])
            )
        return name

    def _blocks(self, width: int) -> int:
        return -(-width // BLOCK_SIZE)

    def _quantized(
        self, weight: str, names: Sequence[str], sizes: Sequence[int], width: int
    ) -> tuple[str, str]:
        bits = self.target.bits_of(weight)
        packed_name, scales_name = f"{weight}.q{bits}", f"{weight}.scales"
        if packed_name not in self.initializers:
            rows, blocks = sum(sizes), self._blocks(width)
            scales: list[Array] = []

            def packed() -> Iterator[npt.NDArray[np.uint8]]:
                for block in quantize_rows(self._rows(names, sizes, width), bits):
                    scales.append(block.scales)
                    yield block.packed

            shape = (rows, blocks, BLOCK_SIZE * bits // 8)
            self._count(f"int{bits}")
            self.initializers[packed_name] = self.data.add(packed_name, TensorProto.UINT8, shape, packed())
            self.initializers[scales_name] = self.data.add(
                scales_name, TensorProto.FLOAT, (rows, blocks), iter(scales)
            )
        return packed_name, scales_name

    def _matmul_nbits(
        self, x: str, packed: str, scales: str, shape: tuple[int, int], bits: int, out: str
    ) -> None:
        self.node(
            "MatMulNBits",
            [x, packed, scales],
            [out],
            domain=MICROSOFT,
            N=shape[0],
            K=shape[1],
            bits=bits,
            block_size=BLOCK_SIZE,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _keep_columns(self, x: str, width: int, out: str) -> None:
        starts = self.constant("slice.zero", np.array([0], np.int64))
        axes = self.constant("slice.last", np.array([2], np.int64))
        ends = self.constant(f"slice.{width}", np.array([width], np.int64))
        self.node("Slice", [x, starts, ends, axes], [out])

    # Layers

    def rms_norm(self, x: str, weight: str, out: str) -> str:
        self.node(
            "SimplifiedLayerNormalization",
            [x, weight],
            [out],
            axis=-1,
            epsilon=self.config.norm_eps,
            stash_type=1,
        )
        return out

    def add_rms_norm(self, x: str, delta: str, weight: str, out: str, residual: str) -> tuple[str, str]:
        """Norm of x + delta, and the sum itself (the residual stream)."""
        self.node(
            "SkipSimplifiedLayerNormalization",
            [x, delta, weight],
            [out, "", "", residual],
            domain=MICROSOFT,
            epsilon=self.config.norm_eps,
        )
        return out, residual

    def last_position(self, x: str, out: str) -> str:
        """The last position [1, 1, D] of x [1, S, D]."""
        self.node("Gather", [x, self.constant("last", np.array([-1], np.int64))], [out], axis=1)
        return out

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "decoder", self.inputs, self.outputs, list(self.initializers.values())
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="edgetrace"
        )
