"""Decoding as ONNX nodes."""
from typing import Any

import numpy as np

from ..points_onnx import at_centers, boxes, peaks, unsqueezed
from .device import FAR, REACH, THRESHOLD


def decode(graph: Any, maps: dict[str, str], cell: Any) -> str:
    """device.Decode: maps {head: its map} -> objects with keypoints [N, K, 6 + 3J] in output pixels."""
    k, joints = cell.k, cell.joints
    rows, ind = boxes(graph, maps, cell)
    width = graph.size(maps["hm"], 3)
    center = _points(graph, unsqueezed(graph, ind), width, 2)  # [N, K, 2]
    guess = graph.reshape(at_centers(graph, maps["hps"], ind, 2 * joints), graph.ints(0, 0, joints, 2))
    guess = graph.add("Add", guess, graph.add("Unsqueeze", center, graph.ints(2)), name="guess")
    if cell.hm_hp:
        points = _match(graph, maps, cell, guess, rows)
    else:
        score = graph.add("Slice", rows, graph.ints(4), graph.ints(5), graph.ints(2))
        score = graph.add("Expand", graph.add("Unsqueeze", score, graph.ints(3)), graph.ints(1, k, joints, 1))
        points = graph.add("Concat", guess, score, axis=3)
    if not cell.all_the_same:
        label = graph.add("Slice", rows, graph.ints(5), graph.ints(6), graph.ints(2))
        label = graph.add("Squeeze", graph.add("Cast", label, to=7), graph.ints(2))
        points = graph.add("Mul", points, graph.add("Gather", graph.constant("has", cell.has.asnumpy()), label, axis=0))
    points = graph.reshape(points, graph.ints(0, 0, 3 * joints), name="keypoints")
    return graph.add("Concat", rows, points, axis=2, name="detections")


def _points(graph: Any, ind: str, width: str, axis: int) -> str:
    """Positions y * W + x, with a last axis of 1, as x, y: float32 [..., 2]."""
    x, y = (graph.cast(graph.add(operator, ind, width)) for operator in ("Mod", "Div"))
    return graph.add("Concat", x, y, axis=axis)


def _match(graph: Any, maps: dict[str, str], cell: Any, guess: str, rows: str) -> str:
    """Decode._match: keypoints [N, K, J, 3] of guesses [N, K, J, 2] and rows [N, K, 6]."""
    k, joints, heat = cell.k, cell.joints, maps["hm_hp"]
    width, height = graph.size(heat, 3), graph.size(heat, 2)
    values = graph.reshape(peaks(graph, heat), graph.ints(0, joints, -1))
    pads = graph.ints(0, 0, 0, 0, 0, k)  # for maps with fewer pixels than k
    values = graph.add("Pad", values, pads, graph.constant("minus_one", np.float32(-1)))
    scores, ind = graph.add("TopK", values, graph.ints(k), axis=2, outputs=2, name="keypoint_peaks")
    last = graph.add("Sub", graph.add("Mul", width, height), graph.ints(1))
    scores, ind = graph.add("Relu", scores), graph.add("Min", ind, last)
    places = _points(graph, graph.add("Unsqueeze", ind, graph.ints(3)), width, 3)
    if cell.hp_offset:
        offset = at_centers(graph, maps["hp_offset"], graph.reshape(ind, graph.ints(0, joints * k)), 2)
        offset = graph.reshape(offset, graph.ints(0, joints, k, 2))
    else:
        offset = graph.constant("half", np.float32(0.5))
    places = graph.add("Add", places, offset)
    threshold = graph.constant("threshold", np.float32(THRESHOLD))
    found = graph.add("Unsqueeze", graph.add("Greater", scores, threshold), graph.ints(3))
    places = graph.add("Where", found, places, graph.constant("far", np.float32(FAR)), name="places")
    guess = graph.add("Transpose", guess, perm=[0, 2, 1, 3])  # [N, J, K, 2]
    from_guess, to_place = (graph.add("Unsqueeze", value, graph.ints(axis))
                            for value, axis in ((guess, 3), (places, 2)))
    nearest = graph.add("ArgMin", _length(graph, graph.add("Sub", from_guess, to_place)), axis=3, keepdims=0)
    peak_score = graph.add("GatherElements", scores, nearest, axis=2)
    peak = graph.add("GatherND", places, graph.add("Unsqueeze", nearest, graph.ints(3)), batch_dims=2, name="nearest")
    distance = _length(graph, graph.add("Sub", peak, guess))
    box = graph.add("Unsqueeze", graph.add("Slice", rows, graph.ints(0), graph.ints(4), graph.ints(2)), graph.ints(1))
    low, high = graph.add("Split", box, graph.ints(2, 2), axis=3, outputs=2, name="corners")  # [N, 1, K, 2]
    side = _reduce(graph, "ReduceMax", graph.add("Sub", high, low))
    reach = graph.add("Mul", side, graph.constant("reach", np.float32(REACH)))
    inside = [_all(graph, graph.add(operator, peak, corner))
              for operator, corner in (("GreaterOrEqual", low), ("LessOrEqual", high))]
    taken = graph.add("And", *inside)
    for operator, one, other in (("LessOrEqual", distance, reach), ("GreaterOrEqual", peak_score, threshold)):
        taken = graph.add("And", taken, graph.add(operator, one, other))
    score = graph.add("Where", taken, peak_score, _heat_at(graph, heat, guess, width, height, joints))
    place = graph.add("Where", graph.add("Unsqueeze", taken, graph.ints(3)), peak, guess)
    points = graph.add("Concat", place, graph.add("Unsqueeze", score, graph.ints(3)), axis=3)
    return graph.add("Transpose", points, perm=[0, 2, 1, 3])


def _heat_at(graph: Any, heat: str, points: str, width: str, height: str, joints: int) -> str:
    """device.heat_at: the values of heat [N, J, H, W] at points [N, J, K, 2], 0 outside: [N, J, K]."""
    cell = graph.add("Floor", points)
    limit = graph.add("Sub", graph.cast(graph.add("Concat", width, height, axis=0)),
                      graph.constant("one_float", np.float32(1)))
    nearest = graph.add("Min", graph.add("Max", cell, graph.constant("zero_float", np.float32(0))), limit)
    inside = _all(graph, graph.add("Equal", cell, nearest))
    column, row = graph.add("Split", graph.add("Cast", nearest, to=7), graph.ints(1, 1), axis=3, outputs=2,
                            name="column_and_row")
    flat = graph.add("Add", graph.add("Mul", row, width), column)
    values = graph.add("GatherND", graph.reshape(heat, graph.ints(0, joints, -1)), flat, batch_dims=2)
    return graph.add("Mul", values, graph.cast(inside))


def _length(graph: Any, vectors: str) -> str:
    """The lengths of vectors [..., 2]."""
    return _reduce(graph, "ReduceL2", vectors)


def _all(graph: Any, booleans: str) -> str:
    """Whether both of [..., 2] are true."""
    smallest = _reduce(graph, "ReduceMin", graph.cast(booleans))
    return graph.add("Greater", smallest, graph.constant("half", np.float32(0.5)))


def _reduce(graph: Any, operator: str, value: str) -> str:
    """A reduction over the last axis of a value of four or five, which it removes."""
    if graph.opset >= 18:
        return graph.add(operator, value, graph.ints(-1), keepdims=0)
    return graph.add(operator, value, axes=[-1], keepdims=0)
