"""The web service's description of an object."""
import numpy as np
from pydantic import Field

from ..detection import schema
from .results import WIDTH, points


class Object(schema.Object):
    """A detected object with its keypoints."""

    keypoints: list[list[float]] = Field(
        description="x, y in pixels like the box, and score of each keypoint in /health's keypoints; 0, 0, 0 if its "
                    "class lacks it")


def objects(rows: np.ndarray, metainfo: dict) -> list[dict]:
    """Convert rows [M, 6 + 3J] to Objects, as dictionaries."""
    found = points(rows).astype(float)
    found[:, :, :2], found[:, :, 2] = found[:, :, :2].round(2), found[:, :, 2].round(4)
    boxes = schema.objects(rows[:, :WIDTH], metainfo)
    return [{**box, "keypoints": own.tolist()} for box, own in zip(boxes, found)]


def about(metainfo: dict) -> dict:
    """Further entries of /health: the keypoints' names, and the pairs that the skeleton joins, by index."""
    facts = metainfo["keypoints"]
    return {"keypoints": {"names": facts["names"], "skeleton": facts["skeleton"], "flip_idx": facts["flip_idx"]}}
