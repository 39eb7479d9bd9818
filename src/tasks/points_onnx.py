"""points.py as ONNX nodes: peaks, top K, values at centers."""
from typing import Any

import numpy as np


def peaks(graph: Any, heat: str) -> str:
    """points.suppress_non_peaks: [N, C, H, W]."""
    peak = graph.add("MaxPool", heat, kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="peak")
    return graph.add("Mul", heat, graph.cast(graph.add("Equal", heat, peak)), name="peaks")


def top_k(graph: Any, heat: str, k: int, width: str) -> tuple[str, str]:
    """points.top_k: the k largest values of [N, C, H, W], largest first, and their positions in [C H W]: each [N, k].

    The k largest values are in the k lines with the largest maxima. k lines of -1 are appended for maps with fewer
    values.
    """
    lines = graph.reshape(heat, graph.ints(0, -1), width)
    pads = graph.ints(0, 0, 0, 0, k, 0)
    lines = graph.add("Pad", lines, pads, graph.constant("minus_one", np.float32(-1)), name="lines")
    if graph.opset >= 18:
        largest = graph.add("ReduceMax", lines, graph.ints(2), keepdims=0)
    else:
        largest = graph.add("ReduceMax", lines, axes=[2], keepdims=0)
    _, best = graph.add("TopK", largest, graph.ints(k), axis=1, outputs=2, name="best_lines")
    candidates = graph.add("GatherND", lines, unsqueezed(graph, best), batch_dims=1)
    candidates = graph.reshape(candidates, graph.ints(0, -1))
    scores, position = graph.add("TopK", candidates, graph.ints(k), axis=1, outputs=2, name="best")
    line = graph.add("GatherElements", best, graph.add("Div", position, width), axis=1)
    flat = graph.add("Add", graph.add("Mul", line, width), graph.add("Mod", position, width))
    sides = graph.add("Slice", graph.add("Shape", heat), graph.ints(1), graph.ints(4))
    values = graph.add("ReduceProd", sides, keepdims=1)
    scores = graph.add("Relu", scores, name="scores")
    return scores, graph.add("Min", flat, graph.add("Sub", values, graph.ints(1)), name="flat")


def unsqueezed(graph: Any, value: str) -> str:
    """[N, K] as [N, K, 1]."""
    return graph.add("Unsqueeze", value, graph.ints(2))


def at_centers(graph: Any, maps: str, ind: str, depth: int) -> str:
    """points.gather_at_centers: [N, depth, H, W] and ind [N, K] -> [N, K, depth]."""
    rows = graph.reshape(graph.add("Transpose", maps, perm=[0, 2, 3, 1]), graph.ints(0, -1, depth))
    return graph.add("GatherND", rows, unsqueezed(graph, ind), batch_dims=1)


def boxes(graph: Any, maps: dict[str, str], cell: Any, name: str = "boxes") -> tuple[str, str]:
    """points.decode_boxes: maps {hm, wh, reg (optional)} -> (rows [N, K, 6] in output pixels, ind [N, K]).

    cell, the Decode, has k, num_classes and cat_spec_wh.
    """
    heat, wh, reg = peaks(graph, maps["hm"]), maps["wh"], maps.get("reg")
    height, width = graph.size(heat, 2), graph.size(heat, 3)
    scores, flat = top_k(graph, heat, cell.k, width)
    pixels = graph.add("Mul", height, width)
    ind, label = graph.add("Mod", flat, pixels, name="ind"), graph.add("Div", flat, pixels, name="label")
    x, y = (unsqueezed(graph, graph.cast(graph.add(operator, ind, width))) for operator in ("Mod", "Div"))
    offset = at_centers(graph, reg, ind, 2) if reg else graph.constant("half", np.float32(0.5))
    center = graph.add("Add", graph.add("Concat", x, y, axis=2), offset, name="center")
    if cell.cat_spec_wh:
        sizes = at_centers(graph, wh, ind, 2 * cell.num_classes)
        sizes = graph.reshape(sizes, graph.ints(0, cell.k, cell.num_classes, 2))
        size = graph.add("GatherND", sizes, unsqueezed(graph, label), batch_dims=2, name="size")
    else:
        size = at_centers(graph, wh, ind, 2)
    half = graph.add("Mul", size, graph.constant("half", np.float32(0.5)))
    corners = [graph.add(operator, center, half) for operator in ("Sub", "Add")]
    score, label = unsqueezed(graph, scores), unsqueezed(graph, graph.cast(label))
    return graph.add("Concat", *corners, score, label, axis=2, name=name), ind
