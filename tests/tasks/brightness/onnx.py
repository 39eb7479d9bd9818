"""Decoding as ONNX nodes."""
from src.tasks.points_onnx import at_centers, boxes


def decode(graph, maps, cell):
    rows, ind = boxes(graph, maps, cell)
    light = at_centers(graph, maps["light"], ind, cell.channels)
    return graph.add("Concat", rows, light, axis=2, name="detections")
