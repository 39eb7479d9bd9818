"""Compiled graphs as data: their primitives, integers and calls. Nothing runs; no kernels are needed."""
from dataclasses import dataclass

from mindspore.train.mind_ir_pb2 import ModelProto, TensorProto

# Not computed by kernels: structure, order of side effects, calls.
STRUCTURE = {"Constant", "Depend", "Load", "MakeTuple", "Partial", "Switch", "TupleGetItem", "UpdateState"}


@dataclass(frozen=True)
class Graph:
    """primitives: the names of all that need a kernel; int64: those with outputs of int64 that have elements or axes,
    of any shape but scalars; has_loop: whether a function calls itself, directly or not."""

    primitives: set[str]
    int64: set[str]
    has_loop: bool


def compiled(cell, *args):
    """The Graph of a cell for its arguments, as MindSpore exports it: with all gradients, before the backend."""
    from mindspore.common.api import _cell_graph_executor as executor

    phase, _ = executor.compile(cell, *args, phase="export.mindir", do_convert=False)
    model = ModelProto()
    model.ParseFromString(executor._get_func_graph_proto(cell, phase, "mind_ir"))
    names = {primitive.name: primitive.op_type for primitive in model.primitives}
    functions = [model.graph, *model.functions]
    nodes = [(_primitive(node, names), node) for function in functions for node in function.node]
    primitives = {name for name, _ in nodes if name is not None} - STRUCTURE
    return Graph(primitives, {name for name, node in nodes if name in primitives and _has_int64(node)},
                 _calls_itself(functions))


def _primitive(node, names):
    """The primitive of a node, or None for a call of a function."""
    reference = node.op_type.removeprefix("REF::")
    return names.get(reference, None if node.op_type.startswith("REF::") else node.op_type)


def _has_int64(node):
    shapes = [tensor for attribute in node.attribute if attribute.name == "shape" for tensor in attribute.tensors]
    return any(tensor.data_type == TensorProto.INT64 and len(tensor.dims) for tensor in shapes)


def _calls_itself(functions):
    names = {function.name for function in functions}
    called = {function.name: {text.removeprefix("REF::") for node in function.node
                              for text in (node.op_type, *node.input)} & names for function in functions}
    for name in names:
        reached, new = set(), called[name]
        while new:
            reached |= new
            new = set().union(*(called[other] for other in new)) - reached
        if name in reached:
            return True
    return False
