"""Tasks, kinds of detection: one folder each, by name in TASKS."""
from collections.abc import Iterable
from typing import Any

from ..core.errors import UserError
from ..core.suggest import suggest
from .base import Head, Task
from .detection import DETECTION

__all__ = [
    "TASKS", "Head", "Task", "check_metainfo", "head_names", "loss_labels", "losses_of", "metric_labels", "metrics_of",
    "task_of",
]

TASKS = {task.name: task for task in (DETECTION,)}


def task_of(settings: Any) -> Task:
    """The Task named by a net_config, a manifest or a model's description.

    If none is named, as in earlier versions, it is detection. Raises UserError if there is no such task.
    """
    default = DETECTION.name
    name = settings.get("task", default) if isinstance(settings, dict) else getattr(settings, "task", default)
    if not isinstance(name, str) or name not in TASKS:
        near = suggest(name, TASKS) if isinstance(name, str) else ""
        advice = f"did you mean {near}?" if near else f"choose from {', '.join(TASKS)}"
        raise UserError(f"unknown task {name!r}; {advice}")
    return TASKS[name]


def check_metainfo(description: dict) -> None:
    """Raise UserError unless a model's or manifest's description names a task and has its metadata."""
    task = task_of(description)
    for name, test in task.targets.METAINFO.items():
        if not (name in description and test(description[name])):
            raise UserError(f"{name}, which a model for {task.name} needs, is missing or damaged")


def head_names() -> set[str]:
    """The names of all tasks' heads."""
    return {name for task in TASKS.values() for name in task.heads}


def loss_labels() -> dict[str, str]:
    """{name: label in charts} of all tasks' losses."""
    return {name: label for task in TASKS.values() for name, label in task.losses.items()}


def metric_labels() -> dict[str, str]:
    """{name: label in reports} of all tasks' metrics."""
    return {name: words for task in TASKS.values() for name, words in task.metrics.items()}


def losses_of(names: Iterable[str]) -> tuple[str, ...]:
    """The losses of the task that shares most of these names."""
    return _most_shared((task.losses for task in TASKS.values()), names)


def metrics_of(names: Iterable[str]) -> tuple[str, ...]:
    """The metrics of the task that shares most of these names."""
    return _most_shared((task.metrics for task in TASKS.values()), names)


def _most_shared(groups: Iterable[Iterable[str]], names: Iterable[str]) -> tuple[str, ...]:
    """The first group of those that share most of the names."""
    names = set(names)
    return max(map(tuple, groups), key=lambda group: len(names.intersection(group)))
