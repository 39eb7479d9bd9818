"""points.py as ONNX nodes: peaks, the top K, values at centers."""
from typing import Any

import numpy as np


def peaks(graph: Any, heat: str) -> str:
    """points.suppress_non_peaks: [N, C, H, W]."""
    peak = graph.add("MaxPool", heat, kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="peak")
    return graph.add("Mul", heat, graph.cast(graph.add("Equal", heat, peak)), name="peaks")


def top_k(graph, heat, k, width):
    """points.top_k: scores of the k largest values of [N, C, H, W], largest first, and their positions in [C H W]: each [N, k].

    The k largest values lie in the k lines whose own largest values are largest. k lines of -1 are added, for maps of fewer values.
    """
    lines = graph.reshape(heat, graph.ints(0, -1), width)
    lines = graph.add("Pad", lines, graph.ints(0, 0, 0, 0, k, 0), graph.constant("minus_one", np.float32(-1)), name="lines")
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
    values = graph.add("ReduceProd", graph.add("Slice", graph.add("Shape", heat), graph.ints(1), graph.ints(4)), keepdims=1)
    return graph.add("Relu", scores, name="scores"), graph.add("Min", flat, graph.add("Sub", values, graph.ints(1)), name="flat")


def unsqueezed(graph, value):
    """[N, K] as [N, K, 1]."""
    return graph.add("Unsqueeze", value, graph.ints(2))


def at_centers(graph, maps, ind, depth):
    """points.gather_at_centers: [N, depth, H, W] and ind [N, K] -> [N, K, depth]."""
    rows = graph.reshape(graph.add("Transpose", maps, perm=[0, 2, 3, 1]), graph.ints(0, -1, depth))
    return graph.add("GatherND", rows, unsqueezed(graph, ind), batch_dims=1)
