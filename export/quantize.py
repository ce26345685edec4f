"""The block quantiser of ONNX artifacts.

Blocks are quantised by onnxruntime's own kernels (MatMulNBits layout), in row blocks. Output row n of a
matrix [N, K] never depends on another row, so any cut along N gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantizer,
)

from export.checkpoint import Array
from export.precision import ACCURACY_LEVEL, BLOCK_SIZE


class Blocks(NamedTuple):
    """packed [N, ceil(K/block), block*bits/8] uint8 and scales [N, ceil(K/block)] float32 of some rows."""

    packed: npt.NDArray[np.uint8]
    scales: Array


def quantize_rows(blocks: Iterator[Array], bits: int) -> Iterator[Blocks]:
    """Quantises [rows, K] float32 blocks of a weight matrix as they come."""
    config = DefaultWeightOnlyQuantConfig(
        block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=ACCURACY_LEVEL, bits=bits
    )
    quantizer = DefaultWeightOnlyQuantizer(config)
    for rows in blocks:
        # The kernel wants [K, N]; the copy has no name, so that it is gone before the next block.
        packed, scales, _ = quantizer.qbits_block_quant(np.ascontiguousarray(rows.T))
        yield Blocks(packed, scales.reshape(len(rows), -1))
