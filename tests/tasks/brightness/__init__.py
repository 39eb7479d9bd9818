"""A task outside of src/: boxes with a class and, per color channel named by its category, each object's brightness.

It shows that a task is one folder.
"""
from src.tasks import Task
from src.tasks.detection import DETECTION

BRIGHTNESS = Task(
    name="brightness", heads=(*DETECTION.heads, "light"), class_heads=DETECTION.class_heads,
    losses={**DETECTION.losses, "light_loss": "brightness"},
    metrics={**DETECTION.metrics, "light_right": "true positives off by at most 0.1"}, package=__package__,
    options=DETECTION.options, layers=DETECTION.layers,
)
