"""Detection's preview."""
from src.tasks.detection.preview import draw_batch

__all__ = ["draw_batch"]
