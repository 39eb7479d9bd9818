"""Objects with a box and a class (paper, section 3)."""
from ..base import Task

DETECTION = Task(
    name="detection", heads=("hm", "wh", "reg"), class_heads=("hm", "wh"),
    losses={"hm_loss": "heatmap", "wh_loss": "size (before its weight)", "off_loss": "offset"},
    width=6, package=__package__,
)
