"""The inference network as an ONNX graph, made of its cells and their weights."""
import numpy as np

from ..imaging.view import batch_kind
from .onnx_cells import add_network
from .onnx_graph import FLOAT, Graph


def build_model(detection, from_bytes, onnx_dcn, sizes, metadata):
    """The ModelProto of a centernet_det.DetectionNetwork that folding.make_for_inference has changed.

    Input `image`: float32 [batch, 3, height, width], or uint8 [batch, height, width, 3] if from_bytes. Output `detections`:
    float32 [batch, K, 6]. sizes: batch, height and width, numbers, or names where they are free. Inside, `heat`, `wh` and `reg`
    are the maps. metadata {name: text} goes into the file.
    """
    graph = Graph(onnx_dcn)
    image = graph.free("image")
    maps = detection.maps
    heat, wh, reg = add_maps(graph, maps, normalize(graph, maps.input_cell, image) if from_bytes else image)
    outputs = {decode(graph, detection, heat, wh, reg): (np.float32, [sizes[0], detection.k, 6])}
    return graph.model("centernet", {image: batch_kind(from_bytes, *sizes)}, outputs, metadata)


def normalize(graph, cell, image):
    """device_input.Normalize: uint8 [N, H, W, 3] -> float32 [N, 3, H, W]."""
    planes = graph.add("Transpose", graph.add("Cast", image, to=FLOAT), perm=[0, 3, 1, 2])
    factor, shift = (graph.constant(f"normalize.{name}", value.asnumpy().reshape(1, 3, 1, 1))
                     for name, value in (("factor", cell.factor), ("shift", cell.shift)))
    return graph.add("Add", graph.add("Mul", planes, factor), shift, name="normalized")


def add_maps(graph, cell, image):
    """centernet_det.HeatmapNetwork: heat in [0, 1], wh, and reg ("" without its head)."""
    if not cell.flip_test:
        hm, wh, reg = add_network(graph, cell.network, image)
        return graph.add("Sigmoid", hm, name="heat"), _named(graph, "wh", wh), reg and _named(graph, "reg", reg)
    both = graph.add("Concat", image, _mirror(graph, image), axis=0, name="image_and_mirror")
    hm, wh, reg = add_network(graph, cell.network, both)
    heat = graph.add("Sigmoid", hm, name="heat_and_mirror")
    return _mirror_mean(graph, "heat", heat), _mirror_mean(graph, "wh", wh), reg and _named(graph, "reg", _halves(graph, reg)[0])


def _named(graph, name, value):
    """A value under a name that consumers may rely on."""
    return graph.add("Identity", value, name=name)


def _mirror(graph, value):
    """[N, C, H, W] from right to left."""
    return graph.add("Slice", value, graph.ints(-1), graph.ints(np.iinfo(np.int64).min), graph.ints(3), graph.ints(-1), name="mirror")


def _halves(graph, value):
    """The first and the second half of a batch."""
    count = {"num_outputs": 2} if graph.opset >= 18 else {}
    return graph.add("Split", value, axis=0, outputs=2, name="halves", **count)


def _mirror_mean(graph, name, value):
    """The mean of a batch's first half and its second one, mirrored."""
    first, second = _halves(graph, value)
    return graph.add("Mul", graph.add("Add", first, _mirror(graph, second)), graph.constant("half", np.float32(0.5)), name=name)


# ---------------------------------------------------------------- decoding


def decode(graph, cell, heat, wh, reg):
    """decode.decode for a DetectionNetwork: detections [N, K, 6] in output pixels."""
    peak = graph.add("MaxPool", heat, kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="peak")
    heat = graph.add("Mul", heat, graph.add("Cast", graph.add("Equal", heat, peak), to=FLOAT), name="peaks")
    height, width = graph.size(heat, 2), graph.size(heat, 3)
    scores, flat = top_k(graph, heat, cell.k, width)
    pixels = graph.add("Mul", height, width)
    ind, label = graph.add("Mod", flat, pixels, name="ind"), graph.add("Div", flat, pixels, name="label")
    x, y = (_unsqueezed(graph, graph.add("Cast", graph.add(operator, ind, width), to=FLOAT)) for operator in ("Mod", "Div"))
    offset = _at_centers(graph, reg, ind, 2) if reg else graph.constant("half", np.float32(0.5))
    center = graph.add("Add", graph.add("Concat", x, y, axis=2), offset, name="center")
    if cell.cat_spec_wh:
        classes = cell.maps.network.num_classes
        sizes = graph.reshape(_at_centers(graph, wh, ind, 2 * classes), graph.ints(0, cell.k, classes, 2))
        size = graph.add("GatherND", sizes, _unsqueezed(graph, label), batch_dims=2, name="size")
    else:
        size = _at_centers(graph, wh, ind, 2)
    half = graph.add("Mul", size, graph.constant("half", np.float32(0.5)))
    corners = [graph.add(operator, center, half) for operator in ("Sub", "Add")]
    label = graph.add("Cast", label, to=FLOAT)
    return graph.add("Concat", *corners, _unsqueezed(graph, scores), _unsqueezed(graph, label), axis=2, name="detections")


def top_k(graph, heat, k, width):
    """decode.top_k: scores of the k largest values of [N, C, H, W], largest first, and their positions in [C H W]: each [N, k].

    The k largest values lie in the k lines whose own largest values are largest. k lines of -1 are added, for maps of fewer values.
    """
    lines = graph.reshape(heat, graph.ints(0, -1), width)
    lines = graph.add("Pad", lines, graph.ints(0, 0, 0, 0, k, 0), graph.constant("minus_one", np.float32(-1)), name="lines")
    if graph.opset >= 18:
        largest = graph.add("ReduceMax", lines, graph.ints(2), keepdims=0)
    else:
        largest = graph.add("ReduceMax", lines, axes=[2], keepdims=0)
    _, best = graph.add("TopK", largest, graph.ints(k), axis=1, outputs=2, name="best_lines")
    candidates = graph.add("GatherND", lines, _unsqueezed(graph, best), batch_dims=1)
    candidates = graph.reshape(candidates, graph.ints(0, -1))
    scores, position = graph.add("TopK", candidates, graph.ints(k), axis=1, outputs=2, name="best")
    line = graph.add("GatherElements", best, graph.add("Div", position, width), axis=1)
    flat = graph.add("Add", graph.add("Mul", line, width), graph.add("Mod", position, width))
    values = graph.add("ReduceProd", graph.add("Slice", graph.add("Shape", heat), graph.ints(1), graph.ints(4)), keepdims=1)
    return graph.add("Relu", scores, name="scores"), graph.add("Min", flat, graph.add("Sub", values, graph.ints(1)), name="flat")


def _unsqueezed(graph, value):
    """[N, K] as [N, K, 1]."""
    return graph.add("Unsqueeze", value, graph.ints(2))


def _at_centers(graph, maps, ind, depth):
    """points.gather_at_centers: [N, depth, H, W] and ind [N, K] -> [N, K, depth]."""
    rows = graph.reshape(graph.add("Transpose", maps, perm=[0, 2, 3, 1]), graph.ints(0, -1, depth))
    return graph.add("GatherND", rows, _unsqueezed(graph, ind), batch_dims=1)
