"""No other project has the head light."""
from src.tasks.detection.weights import (
    DATASET,
    SETTINGS,
    coco_categories,
    counted,
    counted_names,
    describe_heads,
    named_channels,
)

__all__ = ["DATASET", "SETTINGS", "coco_categories", "counted", "counted_names", "describe_heads", "named_channels"]
REQUIRED = ("hm", "wh", "light")
MMDETECTION: dict[str, str] = {}
