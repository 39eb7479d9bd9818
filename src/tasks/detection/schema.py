"""The web service's description of an object."""
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from .. import rows as row


class Object(BaseModel):
    """A detected object."""

    model_config = ConfigDict(populate_by_name=True)
    class_name: str = Field(alias="class", description="name of its class")
    label: int = Field(ge=0, description="index of its class in /health's classes")
    score: float = Field(ge=0, le=1)
    box: list[float] = Field(min_length=4, max_length=4,
                             description="x1, y1, x2, y2 in pixels of the image after its EXIF orientation is applied")


def objects(rows: np.ndarray, metainfo: dict) -> list[dict]:
    """Convert rows [M, 6] to Objects, as dictionaries: building models would take longer."""
    return [{"class": metainfo["classes"][int(label)], "label": int(label), "score": round(float(score), 4),
             "box": [round(float(side), 2) for side in box]}
            for box, score, label in zip(row.boxes(rows), row.scores(rows), row.labels(rows))]


def about(metainfo: dict) -> dict:
    """Further entries of /health."""
    return {}
