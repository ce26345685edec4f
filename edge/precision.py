"""The precisions that weights are stored in: a table of one row each, with sizes and tolerances."""

from __future__ import annotations

from dataclasses import dataclass

ONNX, LLAMA_CPP = "onnxruntime", "llama.cpp"  # the backends, by the name of the library that runs the model
GRAPH_NAME, GGUF_NAME = "model.onnx", "model.gguf"  # an artifact's model, by backend
GGUF_SUFFIX = ".gguf"
FULL, INT8, INT4, MIXED = "onnx-fp32", "onnx-int8", "onnx-int4", "onnx-int4-mixed"
GGUF_F16 = "gguf-f16"


def backend_of(name: str) -> str:
    """The library that runs a precision, whether it is in the table or not: LLAMA_CPP for one named gguf or
    gguf-*, ONNX otherwise."""
    return LLAMA_CPP if name.partition("-")[0] == "gguf" else ONNX


@dataclass(frozen=True)
class Precision:
    """How an artifact's weights are stored; `name` is also what is shown and the folder's name.

    `bits` is the width of a weight in most matrices: 32 is float32, 16 float16, fewer are blocks of integers
    with scales. `rank` is the place in the order of exactness, 0 the most exact.

    Sizes: `file_bits` a weight takes in the file, scales and better kept tensors included (GGUF mixtures:
    about; 0 where a recipe decides), `odd_bits` the same for GGUF where rows are no multiple of 256;
    `laid_out` is the memory that onnxruntime's kernels take for the weights over their size in the file.

    `weight_tolerance` is the largest error of a weight that `edge-export verify` lets pass: absolute for
    float32, in quantisation steps for blocks (half a step is rounding, and a block's largest weight may be
    cut by a step); None where it verifies none. `file_type` is llama.cpp's number of the mixture.
    """

    name: str
    bits: int
    rank: int
    file_bits: float
    odd_bits: float = 0.0
    laid_out: float = 1.0
    weight_tolerance: float | None = None
    file_type: int = 0

    @property
    def backend(self) -> str:
        return backend_of(self.name)

    @property
    def quantized(self) -> bool:
        return self.bits < 16

    @property
    def weight_bytes(self) -> float:
        """Bytes that a weight takes in the file; 0 where a recipe decides."""
        return self.file_bits / 8


# In the order in which they are listed. ONNX: 32 weights share a scale of 32 bits; laid out, such a block of
# 4 bits takes 24 instead of 20 bytes.
PRECISIONS = {
    row.name: row
    for row in (
        Precision(FULL, 32, rank=0, file_bits=32, weight_tolerance=0.0),
        Precision(INT8, 8, rank=3, file_bits=9, laid_out=1.1, weight_tolerance=1.01),
        Precision(INT4, 4, rank=7, file_bits=5, laid_out=1.2, weight_tolerance=1.01),
        Precision(MIXED, 4, rank=6, file_bits=0, laid_out=1.2, weight_tolerance=1.01),
        Precision("gguf-f32", 32, rank=1, file_bits=32, file_type=0),
        Precision(GGUF_F16, 16, rank=2, file_bits=16, file_type=1),
        Precision("gguf-q8_0", 8, rank=4, file_bits=8.5, odd_bits=8.5, file_type=7),
        Precision("gguf-q4_k_m", 4, rank=5, file_bits=5.2, odd_bits=6.8, file_type=15),
        Precision("gguf-q4_0", 4, rank=8, file_bits=5.0, odd_bits=6.0, file_type=2),
    )
}
