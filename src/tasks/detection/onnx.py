"""Decoding as ONNX nodes."""
from typing import Any

import numpy as np

from ..points_onnx import at_centers, peaks, top_k, unsqueezed


def decode(graph: Any, maps: dict[str, str], cell: Any) -> str:
    """A device.Decode: maps {head: its map} -> detections [N, K, 6] in output pixels."""
    heat, wh, reg = peaks(graph, maps["hm"]), maps["wh"], maps.get("reg")
    height, width = graph.size(heat, 2), graph.size(heat, 3)
    scores, flat = top_k(graph, heat, cell.k, width)
    pixels = graph.add("Mul", height, width)
    ind, label = graph.add("Mod", flat, pixels, name="ind"), graph.add("Div", flat, pixels, name="label")
    x, y = (unsqueezed(graph, graph.cast(graph.add(operator, ind, width))) for operator in ("Mod", "Div"))
    offset = at_centers(graph, reg, ind, 2) if reg else graph.constant("half", np.float32(0.5))
    center = graph.add("Add", graph.add("Concat", x, y, axis=2), offset, name="center")
    if cell.cat_spec_wh:
        sizes = graph.reshape(at_centers(graph, wh, ind, 2 * cell.num_classes), graph.ints(0, cell.k, cell.num_classes, 2))
        size = graph.add("GatherND", sizes, unsqueezed(graph, label), batch_dims=2, name="size")
    else:
        size = at_centers(graph, wh, ind, 2)
    half = graph.add("Mul", size, graph.constant("half", np.float32(0.5)))
    corners = [graph.add(operator, center, half) for operator in ("Sub", "Add")]
    label = graph.cast(label)
    return graph.add("Concat", *corners, unsqueezed(graph, scores), unsqueezed(graph, label), axis=2, name="detections")
