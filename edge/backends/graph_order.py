"""The order of a saved graph's nodes: what is read off a layer comes right after it.

onnxruntime runs nodes in the order of the file as far as their inputs allow. Its own saving puts the nodes that cut out the last
rows of attention behind the last layer, so that the attention of all layers would be alive at once: a quarter of a megabyte for
each position of a long prompt. The few fields of the ONNX format (onnx.proto3) that matter are declared here; protobuf keeps all
others as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FIELD = descriptor_pb2.FieldDescriptorProto
# Message -> field -> (number, type, repeated), as in onnx.proto3.
MESSAGES: dict[str, dict[str, tuple[int, str, bool]]] = {
    "Node": {"input": (1, "", True), "output": (2, "", True)},
    "Graph": {"node": (1, "Node", True)},
    "Model": {"graph": (7, "Graph", False)},
}


def model_type() -> Any:
    """A protobuf class for an ONNX model that knows of its nodes alone."""
    file = descriptor_pb2.FileDescriptorProto(name="nodes.proto", package="nodes", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            message.field.add(
                name=field,
                number=number,
                type=FIELD.TYPE_MESSAGE if kind else FIELD.TYPE_STRING,
                type_name=f".nodes.{kind}" if kind else None,
                label=FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("nodes.Model"))


def in_order(nodes: Iterable[Any], result: str) -> list[Any]:
    """The same nodes: those that `result` needs as they come, each followed by the others as soon as their inputs are there."""
    nodes = list(nodes)
    needed = {result}
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(filter(None, node.input))
    main = [node for node in nodes if needed.intersection(node.output)]
    waiting = [node for node in nodes if not needed.intersection(node.output)]
    missing = {name for node in nodes for name in node.output if name}  # what is not computed yet; "" stands for none
    ordered: list[Any] = []
    for node in main:
        ordered.append(node)
        missing.difference_update(node.output)
        for other in list(waiting):
            if missing.isdisjoint(other.input):
                ordered.append(other)
                missing.difference_update(other.output)
                waiting.remove(other)
    return ordered + waiting


def put_in_order(path: Path, result: str) -> None:
    """Rewrites an ONNX file whose weights lie in files of their own, its nodes ordered for the output `result`."""
    model = model_type().FromString(path.read_bytes())
    ordered = in_order(model.graph.node, result)
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    path.write_bytes(model.SerializeToString())
