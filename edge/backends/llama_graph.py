"""The nodes of llama.cpp's graph that are read for taps, and the layout of its tensors in memory."""

from __future__ import annotations

import ctypes
from typing import Any

from edge.architectures import ARCHITECTURES
from edge.artifact import ModelSpec
from edge.backends.llama_callback import Stop, stop_array

TENSOR_BYTES = 336  # sizeof(ggml_tensor); with its object header of 32 bytes, ggml_tensor_overhead()
OVERHEAD_BYTES = 368


class Tensor(ctypes.Structure):
    """ggml_tensor, which the binding does not define; `ne` are sizes, innermost first, `nb` strides."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


F32 = 0  # GGML_TYPE_F32
FLOAT = 4  # bytes
NAME = Tensor.name.offset
ATTENTION, STREAM, LAST = "attention", "stream", "last"


class TapError(Exception):
    """Attention and hidden states could not be read; the logits of the pass are whole all the same."""


class Node:
    """A node of interest in a graph: what it is, its number (layer of attention, residual stream 0..L), name
    and address.

    It looks into the tensor where it lies: these are views of the few fields that are read for every token.
    """

    __slots__ = ("address", "data", "host", "kind", "name", "name_there", "number", "sizes")

    def __init__(self, kind: str, number: int, name: bytes, address: int, host: bool) -> None:
        self.kind, self.number, self.name, self.address, self.host = kind, number, name, address, host
        self.name_there = (ctypes.c_char * 64).from_address(address + NAME)
        self.data = ctypes.c_void_p.from_address(address + Tensor.data.offset)
        self.sizes = (ctypes.c_int64 * 4).from_address(address + Tensor.ne.offset)


class Plan:
    """The nodes of interest of one kind of pass.

    `wanted` are those to stop at, by address and in the graph's order. `streams` are the residual streams
    0..L-1 by number. `stops` is the same for the compiled callback, None where a node is not on the host.
    """

    def __init__(self) -> None:
        self.wanted: dict[int, Node] = {}
        self.streams: dict[int, Node] = {}
        self.stops: ctypes.Array[Stop] | None = None

    def compile(self) -> None:
        """Makes `stops`, once every node is known."""
        pairs = [
            (node, self.streams[node.number] if node.kind == ATTENTION else node)
            for node in self.wanted.values()
        ]
        if all(node.host and stream.host for node, stream in pairs):
            layers = [node.number if node.kind == ATTENTION else -1 for node, _ in pairs]
            self.stops = stop_array(
                [
                    (node.address, node.name, layer, stream.address, stream.name, stream.number)
                    for (node, stream), layer in zip(pairs, layers, strict=True)
                ]
            )


def wanted_names(spec: ModelSpec) -> dict[bytes, tuple[str, int]]:
    """Name in llama.cpp's graph -> kind and number; raises TapError for an untraced architecture."""
    if spec.architecture not in ARCHITECTURES:
        raise TapError(f"the names in llama.cpp's graph of {spec.architecture!r} are not known")
    layers, embedding = spec.layers, ARCHITECTURES[spec.architecture].embedding
    names = {embedding.encode(): (STREAM, 0)}
    for layer in range(layers):
        names[b"kq_soft_max-%d" % layer] = (ATTENTION, layer)
        names[b"l_out-%d" % layer] = (LAST if layer == layers - 1 else STREAM, layer + 1)
    return names


def moved(node: Node) -> TapError:
    there = node.name_there.value.decode(errors="replace")
    return TapError(
        f"llama.cpp's graph has {there} of sizes {tuple(node.sizes)} where {node.name.decode()} was learned"
    )


def check_layout(library: Any) -> None:
    """Raises TapError when the library's tensors are not laid out as Tensor says."""
    overhead = library._lib.ggml_tensor_overhead
    overhead.restype = ctypes.c_size_t
    size = overhead()
    if ctypes.sizeof(Tensor) != TENSOR_BYTES or size != OVERHEAD_BYTES:
        raise TapError(f"a tensor of this llama.cpp takes {size} bytes instead of {OVERHEAD_BYTES}")
