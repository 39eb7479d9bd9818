"""Tasks, kinds of detection: one folder each, by name in TASKS."""
from collections.abc import Iterable
from typing import Any

from ..core.errors import UserError
from ..core.suggest import suggest
from .base import Head, Task
from .ddd import DDD
from .detection import DETECTION
from .pose import POSE

__all__ = [
    "AUTO", "TASKS", "Head", "Task", "check_metainfo", "fitting_task", "head_names", "logged_losses", "loss_labels",
    "losses_of", "metric_labels", "metrics_of", "score_tables",
    "task_of",
]

AUTO = "auto"  # the task that fits the data
TASKS = {task.name: task for task in (DETECTION, POSE, DDD)}


def task_of(settings: Any) -> Task:
    """The Task named by a net_config, a manifest or a model's description.

    If none is named, as in earlier versions, or AUTO without data, it is detection. Raises UserError if there is no
    such task.
    """
    default = DETECTION.name
    name = settings.get("task", default) if isinstance(settings, dict) else getattr(settings, "task", default)
    if name == AUTO:
        return DETECTION
    if not isinstance(name, str) or name not in TASKS:
        near = suggest(name, TASKS) if isinstance(name, str) else ""
        advice = f"did you mean {near}?" if near else f"choose from {', '.join(TASKS)}"
        raise UserError(f"unknown task {name!r}; {advice}")
    return TASKS[name]


def fitting_task(content: Any) -> Task:
    """The Task whose fields the content of an annotation file has; the file may be damaged."""
    special = (task for task in TASKS.values() if task is not DETECTION and isinstance(content, dict))
    return next((task for task in special if task.targets.fits(content)), DETECTION)


def check_metainfo(description: dict) -> None:
    """Raise UserError unless a model's or manifest's description names a task and has its metadata."""
    task = task_of(description)
    for name, test in task.targets.METAINFO.items():
        if not (name in description and test(description[name])):
            raise UserError(f"{name}, which a model for {task.name} needs, is missing or damaged")
    if not task.targets.is_consistent(description):
        raise UserError(f"{', '.join(task.targets.METAINFO)} and classes do not belong together")


def head_names() -> set[str]:
    """The names of all tasks' heads."""
    return {name for task in TASKS.values() for name in task.heads}


def loss_labels() -> dict[str, str]:
    """{name: label in charts} of all tasks' losses."""
    return {name: label for task in TASKS.values() for name, label in task.losses.items()}


def metric_labels(names: Iterable[str] = ()) -> dict[str, str]:
    """{name: label in reports} of all tasks' metrics, or of the task that shares most of these names."""
    names = set(names)
    if names:
        return max((task.metrics for task in TASKS.values()), key=lambda metrics: len(names.intersection(metrics)))
    return {name: words for task in TASKS.values() for name, words in task.metrics.items()}


def losses_of(names: Iterable[str]) -> tuple[str, ...]:
    """The losses of the task that shares most of these names."""
    return _most_shared((task.losses for task in TASKS.values()), names)


def logged_losses(names: Iterable[str]) -> tuple[str, ...]:
    """Those of a step's losses that its log line has besides their sum: none in detection, whose line is the model
    zoo's."""
    return () if set(names) <= set(DETECTION.losses) else tuple(names)


def metrics_of(names: Iterable[str]) -> tuple[str, ...]:
    """The metrics of the task that shares most of these names."""
    return _most_shared((task.metrics for task in TASKS.values()), names)


def score_tables(metrics: dict) -> list[tuple[str, list[str], list[list[str]]]]:
    """[(title, header, rows)] of further scores in a report, by the task that has all of these metrics."""
    task = next((task for task in TASKS.values() if set(task.metrics) <= set(metrics)), DETECTION)
    return task.scores.tables(metrics)


def _most_shared(groups: Iterable[Iterable[str]], names: Iterable[str]) -> tuple[str, ...]:
    """The first group of those that share most of the names."""
    names = set(names)
    return max(map(tuple, groups), key=lambda group: len(names.intersection(group)))
