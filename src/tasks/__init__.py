"""What is detected: a folder for each task, and TASKS, which has them by name."""
from collections.abc import Iterable
from typing import Any

from ..core.errors import UserError
from ..core.suggest import suggest
from .base import Head, Task
from .detection import DETECTION

__all__ = ["TASKS", "Head", "Task", "head_names", "loss_labels", "losses_of", "metric_words", "metrics_of", "task_of"]

TASKS = {task.name: task for task in (DETECTION,)}


def task_of(settings: Any) -> Task:
    """The Task that a net_config, a manifest or a model's description names; those of earlier versions name none, and are detection's.

    Raises UserError if there is no such task.
    """
    name = settings.get("task", DETECTION.name) if isinstance(settings, dict) else getattr(settings, "task", DETECTION.name)
    if name not in TASKS:
        near = suggest(name, TASKS) if isinstance(name, str) else ""
        raise UserError(f"there is no task {name!r}; " + (f"did you mean {near}?" if near else f"choose from {', '.join(TASKS)}"))
    return TASKS[name]


def head_names() -> set[str]:
    """The names of the heads of all tasks."""
    return {name for task in TASKS.values() for name in task.heads}


def loss_labels() -> dict[str, str]:
    """{name: what charts call it} of the losses of all tasks."""
    return {name: label for task in TASKS.values() for name, label in task.losses.items()}


def metric_words() -> dict[str, str]:
    """{name: what reports call it} of the metrics of all tasks."""
    return {name: words for task in TASKS.values() for name, words in task.metrics.items()}


def losses_of(names: Iterable[str]) -> tuple[str, ...]:
    """The losses of the task that most of these names are losses of."""
    return max((tuple(task.losses) for task in TASKS.values()), key=lambda losses: len(set(losses) & set(names)))


def metrics_of(names: Iterable[str]) -> tuple[str, ...]:
    """The metrics of the task that most of these names are metrics of."""
    return max((tuple(task.metrics) for task in TASKS.values()), key=lambda metrics: len(set(metrics) & set(names)))
