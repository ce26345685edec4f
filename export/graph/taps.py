"""The inner values that a graph gives out.

`none`: logits alone. `rows`: also, for every new position, the attention of each layer after softmax [1, H,
S, T] and the residual stream [1, S, D] before layer 1 and after each layer. They are the tensors that the
layers compute with, so no node is added to the graph. The backend then keeps the last position's rows alone.
`raw` is another name for `rows`, deprecated.
"""

from __future__ import annotations

from onnx import TensorProto

from export.graph.builder import GraphBuilder


class TapWriter:
    """Names the values to give out as the layers are built, and declares them."""

    def __init__(self, b: GraphBuilder, mode: str) -> None:
        self.b = b
        self.on = mode != "none"

    def attention(self, layer: int) -> str:
        """Name of a layer's attention (0-based), `attention.<layer>`; "" for a graph without taps."""
        return (
            self._output(f"attention.{layer}", [1, self.b.config.heads, "new", "total"]) if self.on else ""
        )

    def hidden(self, index: int) -> str:
        """Name of a residual stream: 0 enters layer 1, l has left layer l."""
        name = f"hidden.{index}"
        return self._output(name, [1, "new", self.b.config.hidden]) if self.on else name

    def _output(self, name: str, shape: list[int | str]) -> str:
        self.b.output(name, TensorProto.FLOAT, shape)
        return name
