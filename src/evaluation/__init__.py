"""Scoring a detector on a data set."""
from ..tasks.detection.scores import score

__all__ = ["score"]
