"""The web service's description of an object."""
import numpy as np
from pydantic import Field

from .. import rows as row
from ..detection import schema
from .results import COLUMNS, WIDTH, boxes_3d_of, lines


class Object(schema.Object):
    """A detected object with its 3D box, in camera coordinates: x right, y down, z forward."""

    location: list[float] = Field(description="x, y, z of its bottom's center, in meters")
    dimensions: list[float] = Field(description="height, width, length, in meters")
    rotation_y: float = Field(description="about the vertical axis, in radians; 0 where its length lies along x")
    alpha: float = Field(description="rotation relative to the line of sight, in radians")
    lines: list[list[float]] = Field(description="edges of the 3D box in the image, x1, y1, x2, y2 in pixels")


def objects(rows: np.ndarray, metainfo: dict) -> list[dict]:
    """Convert rows [M, D] to Objects, as dictionaries."""
    found = boxes_3d_of(rows)
    alpha = row.column(rows, "alpha", COLUMNS).astype(np.float64)
    edges = [[[round(value, 1) for value in line] for line in own] for own in lines(rows, metainfo)]
    return [{**common, "location": box[:3], "dimensions": box[3:6], "rotation_y": box[6], "alpha": angle, "lines": own}
            for common, box, angle, own in zip(schema.objects(rows[:, :WIDTH], metainfo), found.round(3).tolist(),
                                               alpha.round(3).tolist(), edges)]


def about(metainfo: dict) -> dict:
    """Further entries of /health: the training's camera, which applies to images without calibration."""
    return {"camera": metainfo["camera"]}
