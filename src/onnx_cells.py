"""The network's cells as ONNX nodes: of a Graph, a cell, its input's name and its own, the name of its output."""
import numpy as np
from mindspore import nn

from src.deform_conv import DeformConv2d
from src.folding import MaxPoolOfPositive
from src.onnx_graph import FLOAT
from src.resnet import BasicBlock, Bottleneck, ResNet


def add_network(graph, cell, image):
    """A CenterNet without batch norms to fold: hm (logits), wh and reg ("" without its head)."""
    features = add_cell(graph, cell.deconv_layers, add_cell(graph, cell.backbone, image, "backbone"), "deconv_layers")
    return [add_cell(graph, head, features, f"{name}_head") if head is not None else ""
            for name, head in (("hm", cell.hm), ("wh", cell.wh), ("reg", cell.reg))]


def add_cell(graph, cell, x, name):
    """Any cell of the table below."""
    return CELLS[type(cell)](graph, cell, x, name)


def _sequence(graph, cell, x, name):
    for number, child in enumerate(cell):
        x = add_cell(graph, child, x, f"{name}.{number}")
    return x


def _identity(graph, cell, x, name):
    return x


def _relu(graph, cell, x, name):
    return graph.add("Relu", x, name=name)


def _weights(graph, cell, name):
    """The constants of a layer's weight and, if it has one, its bias."""
    parts = [("weight", cell.weight)] + ([("bias", cell.bias)] if cell.has_bias else [])
    return [graph.constant(f"{name}.{part}", value.asnumpy()) for part, value in parts]


def _convolution(graph, cell, x, name):
    operator = "ConvTranspose" if isinstance(cell, nn.Conv2dTranspose) else "Conv"
    pads = cell.padding if isinstance(cell.padding, tuple) else (cell.padding,) * 4  # top, bottom, left, right
    return graph.add(operator, x, *_weights(graph, cell, name), name=name, kernel_shape=list(cell.kernel_size), strides=list(cell.stride),
                     pads=[pads[0], pads[2], pads[1], pads[3]], group=cell.group)


def _batch_norm(graph, cell, x, name):
    parts = [graph.constant(f"{name}.{part}", value.asnumpy()) for part, value in
             (("gamma", cell.gamma), ("beta", cell.beta), ("mean", cell.moving_mean), ("variance", cell.moving_variance))]
    return graph.add("BatchNormalization", x, *parts, name=name, epsilon=float(cell.eps))


def _max_pool(graph, cell, x, name):
    return graph.add("MaxPool", x, name=name, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def _basic_block(graph, cell, x, name):
    out = graph.add("Relu", _layer(graph, cell, x, name, 1))
    out = _layer(graph, cell, out, name, 2)
    return graph.add("Relu", graph.add("Add", out, add_cell(graph, cell.downsample, x, f"{name}.downsample")), name=name)


def _bottleneck(graph, cell, x, name):
    out = graph.add("Relu", _layer(graph, cell, x, name, 1))
    out = graph.add("Relu", _layer(graph, cell, out, name, 2))
    out = _layer(graph, cell, out, name, 3)
    return graph.add("Relu", graph.add("Add", out, add_cell(graph, cell.downsample, x, f"{name}.downsample")), name=name)


def _layer(graph, cell, x, name, number):
    """A block's convolution of a number and, where it was not folded, its batch norm."""
    out = add_cell(graph, getattr(cell, f"conv{number}"), x, f"{name}.conv{number}")
    return add_cell(graph, getattr(cell, f"bn{number}"), out, f"{name}.bn{number}")


def _resnet(graph, cell, x, name):
    x = graph.add("Relu", _layer(graph, cell, x, name, 1))
    x = add_cell(graph, cell.maxpool, x, f"{name}.maxpool")
    for number in range(1, 5):
        x = add_cell(graph, getattr(cell, f"layer{number}"), x, f"{name}.layer{number}")
    return x


def _deformable_convolution(graph, cell, x, name):
    """In the form that graph.onnx_dcn says; the convolution before it gives the offsets in that form's order."""
    taps = cell.taps
    kernel = round(taps**0.5)
    order = np.arange(3 * taps)  # all x, all y, all masks
    if graph.onnx_dcn == "deform_conv":
        order[: 2 * taps] = np.ravel([[taps + tap, tap] for tap in range(taps)])  # ONNX takes (y, x) of each tap in turn
    weight, bias = (graph.constant(f"{name}.conv_offset_mask.{part}", value.asnumpy()[order])
                    for part, value in (("weight", cell.conv_offset_mask.weight), ("bias", cell.conv_offset_mask.bias)))
    padding = [kernel // 2] * 4
    offset_mask = graph.add("Conv", x, weight, bias, name=f"{name}.conv_offset_mask", kernel_shape=[kernel] * 2, pads=padding)
    offset, mask = graph.add("Split", offset_mask, graph.ints(2 * taps, taps), axis=1, outputs=2, name=f"{name}.offset_and_mask")
    mask = graph.add("Sigmoid", mask, name=f"{name}.mask")
    weight, bias = cell.weight.asnumpy(), graph.constant(f"{name}.bias", cell.bias.asnumpy())
    if graph.onnx_dcn == "deform_conv":
        return graph.add("DeformConv", x, graph.constant(f"{name}.weight", weight), offset, bias, mask, name=name,
                         kernel_shape=[kernel] * 2, pads=padding)
    width = graph.size(x, 3)
    grid = _sampling_grid(graph, x, offset, taps)
    samples = graph.add("GridSample", x, grid, mode="bilinear", padding_mode="zeros", align_corners=0, name=f"{name}.samples")
    mask = graph.reshape(mask, graph.ints(0, 1, -1), width)
    columns = graph.add("Mul", samples, mask, name=f"{name}.columns")  # [N, C, taps H, W]
    columns = graph.reshape(columns, graph.ints(0, weight.shape[1] * taps, -1), width)
    matrix = graph.constant(f"{name}.weight", weight.reshape(len(weight), -1, 1, 1))
    return graph.add("Conv", columns, matrix, bias, name=name, kernel_shape=[1, 1])


def _sampling_grid(graph, x, offset, taps):
    """Where GridSample takes its samples: [N, taps H, W, 2] (x, y), -1 and 1 at the outer edges of the first and the last pixel."""
    kernel = round(taps**0.5)
    tap = np.arange(taps)
    axes = []
    for axis, shape, own, offsets in zip((3, 2), ((1, 1, 1, -1), (1, 1, -1, 1)), (tap % kernel, tap // kernel),
                                         graph.add("Split", offset, graph.ints(taps, taps), axis=1, outputs=2, name="offsets")):
        size = graph.size(x, axis)
        pixel = graph.add("Range", graph.constant("zero", np.int64(0)), graph.add("Squeeze", size), graph.constant("one", np.int64(1)))
        pixel = graph.reshape(graph.add("Cast", pixel, to=FLOAT), graph.ints(*shape))
        tap_center = (own - kernel // 2 + 0.5).astype(np.float32).reshape(1, taps, 1, 1)
        position = graph.add("Add", graph.add("Add", pixel, graph.constant(f"taps_{axis}", tap_center)), offsets)
        scale = graph.add("Div", graph.constant("two", np.float32(2)), graph.add("Cast", size, to=FLOAT))
        position = graph.add("Sub", graph.add("Mul", position, scale), graph.constant("one_float", np.float32(1)))
        axes.append(graph.add("Unsqueeze", position, graph.ints(4)))
    grid = graph.add("Concat", *axes, axis=4)
    return graph.reshape(grid, graph.ints(0, -1), graph.size(x, 3), graph.ints(2), name="grid")


CELLS = {
    nn.SequentialCell: _sequence, nn.Identity: _identity, nn.ReLU: _relu, nn.Conv2d: _convolution,
    nn.Conv2dTranspose: _convolution, nn.BatchNorm2d: _batch_norm, MaxPoolOfPositive: _max_pool, BasicBlock: _basic_block,
    Bottleneck: _bottleneck, ResNet: _resnet, DeformConv2d: _deformable_convolution,
}
