"""Decoding as ONNX nodes."""
from typing import Any

from ..points_onnx import boxes


def decode(graph: Any, maps: dict[str, str], cell: Any) -> str:
    """device.Decode: maps {head: its map} -> detections [N, K, 6] in output pixels."""
    return boxes(graph, maps, cell, "detections")[0]
