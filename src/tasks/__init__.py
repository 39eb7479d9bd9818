"""What is detected: a folder for each task, and TASKS, which has them by name."""
from typing import Any

from .base import Head, Task
from .detection import DETECTION

__all__ = ["TASKS", "Head", "Task", "head_names", "loss_labels", "task_of"]

TASKS = {task.name: task for task in (DETECTION,)}


def head_names() -> set[str]:
    """The names of the heads of all tasks."""
    return {name for task in TASKS.values() for name in task.heads}


def loss_labels() -> dict[str, str]:
    """{name: what charts call it} of the losses of all tasks."""
    return {name: label for task in TASKS.values() for name, label in task.losses.items()}


def task_of(net_config: Any) -> Task:
    """The Task of a net_config; one of earlier versions names none, and is detection's."""
    return TASKS[getattr(net_config, "task", DETECTION.name)]
