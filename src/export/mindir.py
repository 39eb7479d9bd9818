"""What a MindIR file contains, read from the file itself."""
from collections.abc import Iterable

from mindspore.train.mind_ir_pb2 import ModelProto  # what ms.export writes


def read_mindir(path: str) -> ModelProto:
    """The content of a MindIR file."""
    with open(path, "rb") as file:
        return ModelProto.FromString(file.read())


def unused_heads(model: ModelProto, heads: Iterable[str]) -> list[str]:
    """Those of a network's heads that the output of an exported graph does not depend on.

    MindSpore leaves out their computation, and keeps their parameters.
    """
    read = {name.rpartition(":")[2] for graph in (model.graph, *model.functions)
            for node in graph.node for name in node.input}
    return [head for head in heads if not any(name.startswith(f"{head}.") for name in read)]


def output_shape(model: ModelProto) -> list[int]:
    """The shape of the first output."""
    return list(model.graph.output[0].tensor[0].dims)
