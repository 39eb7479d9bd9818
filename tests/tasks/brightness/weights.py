"""No other project has the head light."""
from src.tasks.detection.weights import describe_heads

__all__ = ["describe_heads"]
REQUIRED = ("hm", "wh", "light")
MMDETECTION: dict[str, str] = {}
