"""Decoding as ONNX nodes."""
from typing import Any

import numpy as np

from ..points_onnx import at_centers, boxes
from .device import EPSILON, ROTATION


def decode(graph: Any, maps: dict[str, str], cell: Any) -> str:
    """device.Decode: maps {head: its map} -> objects [N, K, 18] in output pixels."""
    one = graph.constant("one_float", np.float32(1))
    inverse = graph.add("Add", graph.add("Sigmoid", maps["dep"]), graph.constant("epsilon", np.float32(EPSILON)))
    depth = graph.add("Sub", graph.add("Div", one, inverse), one, name="depth")
    if not cell.reg_bbox:
        two = graph.add("Slice", maps["rot"], graph.ints(0), graph.ints(2), graph.ints(1))
        maps = {**maps, "wh": graph.add("Mul", two, graph.constant("zero_float", np.float32(0)))}
    rows, ind = boxes(graph, maps, cell)
    added = [at_centers(graph, values, ind, count)
             for values, count in ((maps["rot"], ROTATION), (depth, 1), (maps["dim"], 3))]
    return graph.add("Concat", rows, *added, axis=2, name="detections")
