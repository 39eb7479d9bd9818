"""The inference network as an ONNX graph, built from its cells and their weights."""
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.errors import UserError
from ..imaging.view import input_spec
from .onnx_cells import add_network
from .onnx_graph import Graph

if TYPE_CHECKING:
    import onnx

    from ..network.centernet import DetectionNetwork, InferenceMaps
    from ..network.device_input import Normalize
    from ..tasks import Head, Task


def build_model(task: "Task", detection: "DetectionNetwork", from_bytes: bool, graph: Graph, sizes: tuple,
                row_width: int, metadata: dict[str, str]) -> "onnx.ModelProto":
    """The ModelProto of a Task's DetectionNetwork, optimized by folding.fold_batch_norm, built in an empty graph.

    Input `image`: float32 [batch, 3, height, width], or uint8 [batch, height, width, 3] if from_bytes. Output
    `detections`: float32 [batch, K, row_width], or with row_width 0 the maps, float32 [batch, channels, height /
    down_ratio, width / down_ratio]. sizes: batch, height and width, numbers, or names if they are variable. The maps
    have their heads' names, except that the first heatmap is `heat`. metadata {name: string} is stored in the file.
    Raises UserError for a cell or a head that has no ONNX form.
    """
    image = graph.free("image")
    normalized = normalize(graph, detection.maps.input_cell, image) if from_bytes else image
    maps = add_maps(graph, detection.maps, normalized)
    if row_width:
        detections = decode(task, graph, maps, detection.decode)
        outputs = {detections: (np.float32, [sizes[0], detection.decode.k, row_width])}
    else:
        sides = ["map_height", "map_width"] if isinstance(sizes[1], str) else [None, None]  # None: inferred
        outputs = {maps[head.name]: (np.float32, [sizes[0], head.channels, *sides]) for head in detection.maps.heads}
    return graph.model("centernet", {image: input_spec(from_bytes, *sizes)}, outputs, metadata)


def decode(task: "Task", graph: Graph, maps: dict[str, str], cell: Any) -> str:
    """The Task's onnx.decode of maps {head: its map}; cell is its Decode. Raises UserError if it drops a head."""
    try:
        module = task.onnx
    except ModuleNotFoundError as error:
        raise UserError(f"the task {task.name} has no ONNX form; add {error.name}, or export its maps with "
                        "--export_config.onnx_decode false") from error
    detections = module.decode(graph, maps, cell)
    used = graph.sources(detections)
    if dropped := [head for head, value in maps.items() if value not in used]:
        raise UserError(f"the ONNX file would lack the head {', '.join(dropped)} of the task {task.name}; read it in "
                        f"decode of {task.package}.onnx, or export the maps with --export_config.onnx_decode false")
    return detections


def normalize(graph: Graph, cell: "Normalize", image: str) -> str:
    """device_input.Normalize: uint8 [N, H, W, 3] -> float32 [N, 3, H, W]."""
    planes = graph.add("Transpose", graph.cast(image), perm=[0, 3, 1, 2])
    factor, shift = (graph.constant(f"normalize.{name}", value.asnumpy().reshape(1, 3, 1, 1))
                     for name, value in (("factor", cell.factor), ("shift", cell.shift)))
    return graph.add("Add", graph.add("Mul", planes, factor), shift, name="normalized")


def add_maps(graph: Graph, cell: "InferenceMaps", image: str) -> dict[str, str]:
    """centernet.InferenceMaps: {head: map}, heatmaps in [0, 1]."""
    if cell.flip_test:
        image = graph.add("Concat", image, _mirror(graph, image), axis=0, name="image_and_mirror")
    maps = add_network(graph, cell.network, image)
    names = {head.name: "heat" if head is cell.heads[0] else head.name for head in cell.heads}
    return {head.name: _add_map(graph, head, maps[head.name], names[head.name], cell.flip_test) for head in cell.heads}


def _add_map(graph: Graph, head: "Head", value: str, name: str, flip_test: bool) -> str:
    """One head's inference map, under a stable name."""
    if head.heatmap:
        value = graph.add("Sigmoid", value, name=f"{name}_and_mirror" if flip_test else name)
    if not flip_test:
        return value if head.heatmap else _named(graph, name, value)
    if head.flip == "mean":
        return _mirror_mean(graph, head, name, value)
    return _named(graph, name, _halves(graph, value)[0])


def _named(graph: Graph, name: str, value: str) -> str:
    """A value under a stable name, on which users of the file may rely."""
    return graph.add("Identity", value, name=name)


def _mirror(graph: Graph, value: str) -> str:
    """Mirror [N, C, H, W] horizontally."""
    return graph.add("Slice", value, graph.ints(-1), graph.ints(np.iinfo(np.int64).min), graph.ints(3), graph.ints(-1),
                     name="mirror")


def _halves(graph: Graph, value: str) -> list[str]:
    """Both halves of a batch."""
    count = {"num_outputs": 2} if graph.opset >= 18 else {}
    return graph.add("Split", value, axis=0, outputs=2, name="halves", **count)


def _mirror_mean(graph: Graph, head: "Head", name: str, value: str) -> str:
    """The mean of a batch's first half and its mirrored second half (centernet.Halves)."""
    first, second = _halves(graph, value)
    second = _mirror(graph, second)
    if head.mirrored:
        second = graph.add("Gather", second, graph.ints(*head.mirrored), axis=1)
    if head.signs:
        signs = np.array(head.signs, np.float32).reshape(1, -1, 1, 1)
        second = graph.add("Mul", second, graph.constant(f"{head.name}.signs", signs))
    both = graph.add("Add", first, second)
    return graph.add("Mul", both, graph.constant("half", np.float32(0.5)), name=name)
