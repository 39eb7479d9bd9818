"""ONNX graphs prepared for int8 convolutions: the same function in operators that have int8 kernels.

A transposed convolution becomes a convolution to four times the channels and DepthToSpace. In float that is not faster,
so only quantized files have it. Joining the heads' convolutions into one gained nothing, see docs/onnx-int8.md.
"""
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Kernel taps of a transposed convolution (kernel 4, stride 2, padding 1) on an axis, by (output parity, input shift).
TAPS = {(0, -1): 3, (0, 0): 1, (1, 0): 2, (1, 1): 0}
UPSAMPLING = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1], "group": 1}


def float_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that cost accuracy in int8, and little time in float.

    The offsets of the deformable convolutions decide where they sample. The heads' last convolutions are the maps: int8
    would round box sizes, and OpenVINO 2026.4 computes some of them wrongly while height and width are free.
    """
    offsets = [node.name for node in model.graph.node if node.name.endswith("conv_offset_mask")]
    return [*offsets, *map_convolutions(model)]


def map_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the heads' last convolutions, which compute the maps."""
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    return list({name.split(".")[0]: name for name in names if name.split(".")[0].endswith("_head")}.values())


def int8_convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The convolutions in int8: those whose weights other nodes make."""
    made = {name for node in model.graph.node for name in node.output}
    return [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in made]


def with_int8_kernels(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float model of export.py whose transposed convolutions are convolutions with DepthToSpace."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes, skipped = [], set()
    for node in graph.node:
        following = readers.get(node.output[0], [])
        if _is_upsampling(node) and [reader.op_type for reader in following] == ["Relu"]:
            nodes += _subpixel_convolution(graph, constants, node, following[0].output[0])
            skipped.add(following[0].name)
        elif node.name not in skipped:
            nodes.append(node)
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(made)
    onnx.checker.check_model(model, full_check=True)
    return model


def upsampling_weights(weight: np.ndarray) -> np.ndarray:
    """Weights [Ci, Co, 4, 4] of a transposed convolution as those of a convolution, [4 Co, Ci, 3, 3].

    Output channel (2 py + px) Co + co has the pixels of parities py, px of channel co, DepthToSpace's order DCR.
    """
    inputs, outputs = weight.shape[:2]
    result = np.zeros((2, 2, outputs, inputs, 3, 3), weight.dtype)
    for (parity_y, shift_y), tap_y in TAPS.items():
        for (parity_x, shift_x), tap_x in TAPS.items():
            result[parity_y, parity_x, :, :, 1 + shift_y, 1 + shift_x] = weight[:, :, tap_y, tap_x].T
    return result.reshape(4 * outputs, inputs, 3, 3)


def _is_upsampling(node: onnx.NodeProto) -> bool:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return node.op_type == "ConvTranspose" and attributes == UPSAMPLING


def _subpixel_convolution(graph: Any, constants: dict[str, onnx.TensorProto], node: onnx.NodeProto,
                          output: str) -> list[onnx.NodeProto]:
    """A transposed convolution and its ReLU, whose result is `output`, as Conv, Relu and DepthToSpace."""
    new = {f"{node.name}.weight": upsampling_weights, f"{node.name}.bias": lambda bias: np.tile(bias, 4)}
    for name, change in new.items():
        tensor = constants[name]
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), name))
    wide, positive = f"{node.name}.wide", f"{node.name}.positive"
    return [helper.make_node("Conv", [node.input[0], *new], [wide], name=node.name, kernel_shape=[3, 3],
                             pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [wide], [positive], name=positive),
            helper.make_node("DepthToSpace", [positive], [output], name=f"{node.name}.pixels", blocksize=2, mode="DCR")]


def int8_layers(model: onnx.ModelProto) -> dict[str, onnx.ModelProto]:
    """{convolution in int8: the ModelProto of it and its roundings alone}."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found = {}
    for conv in int8_convolutions(model):
        nodes = [makers[name] for name in conv.input]  # of DequantizeLinear
        rounding = makers[nodes[0].input[0]]
        start, end = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
                      for name in (rounding.input[0], conv.output[0]))
        used = {name for node in (rounding, *nodes, conv) for name in node.input}
        graph = helper.make_graph([rounding, *nodes, conv], conv.name, [start], [end],
                                  [constants[name] for name in sorted(used & set(constants))])
        found[conv.name] = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return found
