"""The inference network as an ONNX graph, made of its cells and their weights."""
import numpy as np

from ..imaging.view import batch_kind
from .onnx_cells import add_network
from .onnx_graph import Graph


def build_model(task, detection, from_bytes, onnx_dcn, sizes, row_width, metadata):
    """The ModelProto of a Task's centernet.DetectionNetwork that folding.make_for_inference has changed.

    Input `image`: float32 [batch, 3, height, width], or uint8 [batch, height, width, 3] if from_bytes. Output `detections`:
    float32 [batch, K, row_width]. sizes: batch, height and width, numbers, or names where they are free. Inside, the maps have
    their heads' names, the first heatmap the name `heat`. metadata {name: text} goes into the file.
    """
    graph = Graph(onnx_dcn)
    image = graph.free("image")
    maps = add_maps(graph, detection.maps, normalize(graph, detection.maps.input_cell, image) if from_bytes else image)
    detections = task.onnx.decode(graph, maps, detection.decode)
    outputs = {detections: (np.float32, [sizes[0], detection.decode.k, row_width])}
    return graph.model("centernet", {image: batch_kind(from_bytes, *sizes)}, outputs, metadata)


def normalize(graph, cell, image):
    """device_input.Normalize: uint8 [N, H, W, 3] -> float32 [N, 3, H, W]."""
    planes = graph.add("Transpose", graph.cast(image), perm=[0, 3, 1, 2])
    factor, shift = (graph.constant(f"normalize.{name}", value.asnumpy().reshape(1, 3, 1, 1))
                     for name, value in (("factor", cell.factor), ("shift", cell.shift)))
    return graph.add("Add", graph.add("Mul", planes, factor), shift, name="normalized")


def add_maps(graph, cell, image):
    """centernet.InferenceMaps: {head: map}, heatmaps in [0, 1]."""
    if cell.flip_test:
        image = graph.add("Concat", image, _mirror(graph, image), axis=0, name="image_and_mirror")
    maps = add_network(graph, cell.network, image)
    return {head.name: _add_map(graph, head, maps[head.name], "heat" if head is cell.heads[0] else head.name, cell.flip_test)
            for head in cell.heads}


def _add_map(graph, head, value, name, flip_test):
    """One head's map of inference, under a name that consumers may rely on."""
    if head.heatmap:
        value = graph.add("Sigmoid", value, name=f"{name}_and_mirror" if flip_test else name)
    if not flip_test:
        return value if head.heatmap else _named(graph, name, value)
    return _mirror_mean(graph, name, value) if head.flip == "mean" else _named(graph, name, _halves(graph, value)[0])


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
