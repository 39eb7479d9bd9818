"""The network's cells as ONNX nodes: functions (Graph, cell, its input's name, its name) -> its output's name."""
from collections.abc import Callable
from typing import Any

import numpy as np
from mindspore import nn

from ..core.errors import UserError
from ..network.deform_conv import DeformConv2d
from ..network.dla import (
    DLA,
    DeformBlock,
    DLAUp,
    DLAUpsampling,
    IterativeAggregation,
    PlainUpsampling,
    Root,
    Tree,
    TreeBlock,
    ZooUpsampling,
)
from ..network.hourglass import ConvBlock, Hourglass, Level, Residual, StackFeatures
from ..network.resnet import BasicBlock, Bottleneck, MaxPoolOfPositive, ResNet
from .onnx_graph import Graph


def add_network(graph: Graph, cell: nn.Cell, image: str) -> dict[str, str]:
    """A CenterNet: {head: map} of its last stack, float32, heatmaps as logits; image is float32."""
    features = add_cell(graph, cell.backbone, graph.to_network(image), "backbone")
    features = add_cell(graph, cell.deconv_layers, features, "deconv_layers")
    features = features[-1] if cell.stacks else features
    maps = {name: add_cell(graph, head, features, f"{name}_head") for name, head in cell.last_heads().items()}
    return {name: graph.from_network(value) for name, value in maps.items()}


def add_cell(graph: Graph, cell: nn.Cell, x: Any, name: str) -> Any:
    """Any cell in CELLS; x is the name of its input, or a list if it takes several. Raises UserError for others."""
    if type(cell) not in CELLS:
        raise UserError(f"{name}, a {type(cell).__name__}, has no ONNX form; add one to CELLS in "
                        f"{__name__.replace('.', '/')}.py")
    return CELLS[type(cell)](graph, cell, x, name)


def add_child(graph: Graph, cell: nn.Cell, child: str, x: Any, name: str) -> Any:
    """A cell's child, by its attribute name."""
    return add_cell(graph, getattr(cell, child), x, f"{name}.{child}")


def _sequence(graph: Graph, cell: nn.Cell, x: Any, name: str) -> Any:
    for number, child in enumerate(cell):
        x = add_cell(graph, child, x, f"{name}.{number}")
    return x


def _identity(graph: Graph, cell: nn.Cell, x: Any, name: str) -> Any:
    return x


def _relu(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    return graph.add("Relu", x, name=name)


def _weights(graph: Graph, cell: nn.Cell, name: str) -> list[str]:
    """The constants of a layer's weight and optional bias."""
    parameters = [("weight", cell.weight)] + ([("bias", cell.bias)] if cell.has_bias else [])
    return [graph.weight(f"{name}.{key}", value.asnumpy()) for key, value in parameters]


def _convolution(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    operator = "ConvTranspose" if isinstance(cell, nn.Conv2dTranspose) else "Conv"
    pads = cell.padding if isinstance(cell.padding, tuple) else (cell.padding,) * 4  # top, bottom, left, right
    return graph.add(operator, x, *_weights(graph, cell, name), name=name, kernel_shape=list(cell.kernel_size),
                     strides=list(cell.stride), pads=[pads[0], pads[2], pads[1], pads[3]], group=cell.group)


def _batch_norm(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    parameters = {"gamma": cell.gamma, "beta": cell.beta, "mean": cell.moving_mean, "variance": cell.moving_variance}
    constants = [graph.weight(f"{name}.{key}", value.asnumpy()) for key, value in parameters.items()]
    return graph.add("BatchNormalization", x, *constants, name=name, epsilon=float(cell.eps))


def _max_pool_of_positive(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    return graph.add("MaxPool", x, name=name, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def _max_pool(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    """A tree's pooling, whose windows do not overlap."""
    return graph.add("MaxPool", x, name=name, kernel_shape=[cell.kernel_size] * 2, strides=[cell.stride] * 2)


def _basic_block(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    out = graph.add("Relu", _layer(graph, cell, x, name, 1))
    out = _layer(graph, cell, out, name, 2)
    return graph.add("Relu", graph.add("Add", out, add_child(graph, cell, "downsample", x, name)), name=name)


def _bottleneck(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    out = graph.add("Relu", _layer(graph, cell, x, name, 1))
    out = graph.add("Relu", _layer(graph, cell, out, name, 2))
    out = _layer(graph, cell, out, name, 3)
    return graph.add("Relu", graph.add("Add", out, add_child(graph, cell, "downsample", x, name)), name=name)


def _layer(graph: Graph, cell: nn.Cell, x: str, name: str, number: int) -> str:
    """A block's convolution with a number and, unless folded, its batch norm."""
    out = add_cell(graph, getattr(cell, f"conv{number}"), x, f"{name}.conv{number}")
    return add_cell(graph, getattr(cell, f"bn{number}"), out, f"{name}.bn{number}")


def _resnet(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    x = graph.add("Relu", _layer(graph, cell, x, name, 1))
    x = add_cell(graph, cell.maxpool, x, f"{name}.maxpool")
    for number in range(1, 5):
        x = add_cell(graph, getattr(cell, f"layer{number}"), x, f"{name}.layer{number}")
    return x


def _convolution_norm(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    """A cell of a convolution, its norm and a ReLU."""
    return graph.add("Relu", add_child(graph, cell, "bn", add_child(graph, cell, "conv", x, name), name), name=name)


# ---------------------------------------------------------------- DLA


def _tree_block(graph: Graph, cell: nn.Cell, x: Any, name: str) -> str:
    x, shortcut = x
    out = graph.add("Relu", _layer(graph, cell, x, name, 1))
    return graph.add("Relu", graph.add("Add", _layer(graph, cell, out, name, 2), shortcut), name=name)


def _root(graph: Graph, cell: nn.Cell, maps: list[str], name: str) -> str:
    return _convolution_norm(graph, cell, graph.add("Concat", *maps, axis=1), name)


def _tree(graph: Graph, cell: nn.Cell, x: Any, name: str) -> Any:
    x, *handed_down = [x] if isinstance(x, str) else x
    shrunk = add_child(graph, cell, "pool", x, name) if cell.keep_input or not cell.deep else ""
    if cell.keep_input:
        handed_down = [*handed_down, shrunk]
    if cell.deep:
        left = add_child(graph, cell, "tree1", x, name)
        return add_child(graph, cell, "tree2", [left, *handed_down, left], name)
    left = add_child(graph, cell, "tree1", [x, add_child(graph, cell, "project", shrunk, name)], name)
    right = add_child(graph, cell, "tree2", [left, left], name)
    return add_child(graph, cell, "root", [right, left, *handed_down], name)


def _dla(graph: Graph, cell: nn.Cell, x: str, name: str) -> list[str]:
    maps = []
    for child in ("base_layer", *(f"level{level}" for level in range(6))):
        x = add_child(graph, cell, child, x, name)
        maps.append(x)
    return maps[1 + cell.first :]


def _iterative_aggregation(graph: Graph, cell: nn.Cell, maps: list[str], name: str) -> list[str]:
    joined, names = maps[:1], {id(child): f"{name}.{key}" for key, child in cell.name_cells().items()}
    for (project, up, node), features in zip(cell.steps, maps[1:]):
        for child in (project, up):
            features = add_cell(graph, child, features, names[id(child)])
        both = (graph.add("Concat", joined[-1], features, axis=1) if cell.concatenated
                else graph.add("Add", features, joined[-1]))
        joined.append(add_cell(graph, node, both, names[id(node)]))
    return joined


def _dla_up(graph: Graph, cell: nn.Cell, maps: list[str], name: str) -> list[str]:
    last: list[str] = []
    for step, start in enumerate(range(len(maps) - 2, -1, -1)):
        maps = maps[:start] + add_child(graph, cell, f"ida_{step}", maps[start:], name)
        last = [maps[-1], *last]
    return last


def _dla_upsampling(graph: Graph, cell: nn.Cell, maps: list[str], name: str) -> str:
    return add_child(graph, cell, "ida_up", add_child(graph, cell, "dla_up", maps, name), name)[-1]


def _plain_upsampling(graph: Graph, cell: nn.Cell, maps: list[str], name: str) -> str:
    return add_child(graph, cell, "dla_up", maps, name)[0]


def _zoo_upsampling(graph: Graph, cell: nn.Cell, maps: list[str], name: str) -> str:
    last = add_child(graph, cell, "dla_up", maps, name)
    return add_child(graph, cell, "ida_up", [*last, maps[-1]], name)[-1]


# ---------------------------------------------------------------- hourglass


def _residual(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    out = graph.add("Relu", _layer(graph, cell, x, name, 1))
    out = _layer(graph, cell, out, name, 2)
    return graph.add("Relu", graph.add("Add", out, add_child(graph, cell, "skip", x, name)), name=name)


def _level(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    low = x
    for child in ("low1", "low2", "low3"):
        low = add_child(graph, cell, child, low, name)
    scales = graph.constant("double", np.array([1, 1, 2, 2], np.float32))
    low = graph.add("Resize", low, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor", name=f"{name}.up2")
    return graph.add("Add", add_child(graph, cell, "up1", x, name), low, name=name)


def _hourglass(graph: Graph, cell: nn.Cell, image: str, name: str) -> list[str]:
    x, features = add_child(graph, cell, "pre", image, name), []
    for stack, (level, convolution) in enumerate(zip(cell.kps, cell.cnvs)):
        out = add_cell(graph, level, x, f"{name}.kps.{stack}")
        features.append(add_cell(graph, convolution, out, f"{name}.cnvs.{stack}"))
        if stack < len(cell.inters):
            terms = [add_cell(graph, cells[stack], value, f"{name}.{child}.{stack}")
                     for child, cells, value in (("inters_", cell.inters_, x), ("cnvs_", cell.cnvs_, features[-1]))]
            merged = graph.add("Relu", graph.add("Add", *terms))
            x = add_cell(graph, cell.inters[stack], merged, f"{name}.inters.{stack}")
    return features


def _stack_features(graph: Graph, cell: nn.Cell, features: list[str], name: str) -> list[str]:
    return features


# ---------------------------------------------------------------- deformable convolution


def _deformable_convolution(graph: Graph, cell: nn.Cell, x: str, name: str) -> str:
    """In the form graph.onnx_dcn; the offset convolution is reordered to match it. The offsets are float32."""
    taps = cell.taps
    kernel = round(taps**0.5)
    order = np.arange(3 * taps)  # all x, all y, all masks
    if graph.onnx_dcn == "deform_conv":
        order[: 2 * taps] = np.ravel([[taps + tap, tap] for tap in range(taps)])  # ONNX: (y, x) of each tap in turn
    layer = cell.conv_offset_mask
    weight, bias = (graph.constant(f"{name}.conv_offset_mask.{key}", value.asnumpy()[order])
                    for key, value in (("weight", layer.weight), ("bias", layer.bias)))
    padding = [kernel // 2] * 4
    offset_mask = graph.add("Conv", graph.from_network(x), weight, bias, name=f"{name}.conv_offset_mask",
                            kernel_shape=[kernel] * 2, pads=padding)
    offset, mask = graph.add("Split", offset_mask, graph.ints(2 * taps, taps), axis=1, outputs=2,
                             name=f"{name}.offset_and_mask")
    mask = graph.to_network(graph.add("Sigmoid", mask, name=f"{name}.mask"))
    weight, bias = cell.weight.asnumpy(), graph.weight(f"{name}.bias", cell.bias.asnumpy())
    if graph.onnx_dcn == "deform_conv":  # all its inputs have one type
        return graph.add("DeformConv", x, graph.weight(f"{name}.weight", weight), graph.to_network(offset), bias, mask,
                         name=name, kernel_shape=[kernel] * 2, pads=padding)
    width = graph.size(x, 3)
    grid = _sampling_grid(graph, x, offset, taps)
    samples = graph.add("GridSample", x, grid, mode="bilinear", padding_mode="zeros", align_corners=0,
                        name=f"{name}.samples")
    mask = graph.reshape(mask, graph.ints(0, 1, -1), width)
    columns = graph.add("Mul", samples, mask, name=f"{name}.columns")  # [N, C, taps H, W]
    columns = graph.reshape(columns, graph.ints(0, weight.shape[1] * taps, -1), width)
    matrix = graph.weight(f"{name}.weight", weight.reshape(len(weight), -1, 1, 1))
    return graph.add("Conv", columns, matrix, bias, name=name, kernel_shape=[1, 1])


def _sampling_grid(graph: Graph, x: str, offset: str, taps: int) -> str:
    """GridSample's grid: [N, taps H, W, 2] (x, y), -1 and 1 at the outer edges of the first and the last pixel."""
    kernel = round(taps**0.5)
    tap = np.arange(taps)
    axes = []
    split = graph.add("Split", offset, graph.ints(taps, taps), axis=1, outputs=2, name="offsets")
    shapes, indices = ((1, 1, 1, -1), (1, 1, -1, 1)), (tap % kernel, tap // kernel)
    for axis, shape, index, offsets in zip((3, 2), shapes, indices, split):
        size = graph.size(x, axis)
        pixel = graph.add("Range", graph.constant("zero", np.int64(0)), graph.add("Squeeze", size),
                          graph.constant("one", np.int64(1)))
        pixel = graph.reshape(graph.cast(pixel), graph.ints(*shape))
        tap_center = (index - kernel // 2 + 0.5).astype(np.float32).reshape(1, taps, 1, 1)
        position = graph.add("Add", graph.add("Add", pixel, graph.constant(f"taps_{axis}", tap_center)), offsets)
        scale = graph.add("Div", graph.constant("two", np.float32(2)), graph.cast(size))
        position = graph.add("Sub", graph.add("Mul", position, scale), graph.constant("one_float", np.float32(1)))
        axes.append(graph.add("Unsqueeze", position, graph.ints(4)))
    grid = graph.add("Concat", *axes, axis=4)
    return graph.reshape(grid, graph.ints(0, -1), graph.size(x, 3), graph.ints(2), name="grid")


CELLS: dict[type, Callable[..., Any]] = {
    nn.SequentialCell: _sequence, nn.Identity: _identity, nn.ReLU: _relu, nn.Conv2d: _convolution,
    nn.Conv2dTranspose: _convolution, nn.BatchNorm2d: _batch_norm, MaxPoolOfPositive: _max_pool_of_positive,
    BasicBlock: _basic_block, Bottleneck: _bottleneck, ResNet: _resnet, DeformConv2d: _deformable_convolution,
    nn.MaxPool2d: _max_pool, TreeBlock: _tree_block, Root: _root, Tree: _tree, DLA: _dla,
    DeformBlock: _convolution_norm, IterativeAggregation: _iterative_aggregation, DLAUp: _dla_up,
    DLAUpsampling: _dla_upsampling, PlainUpsampling: _plain_upsampling, ZooUpsampling: _zoo_upsampling,
    ConvBlock: _convolution_norm, Residual: _residual, Level: _level, Hourglass: _hourglass,
    StackFeatures: _stack_features,
}
