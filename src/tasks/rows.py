"""Detections as rows [..., D]: a box x1, y1, x2, y2, a score, a label, and the task's additional columns."""
import numpy as np

COLUMNS = {"box": 4, "score": 1, "label": 1}  # of all tasks, before additional ones


def width(columns: dict[str, int]) -> int:
    """The number of values in a row."""
    return sum(columns.values())


def column(rows: np.ndarray, name: str, columns: dict[str, int] = COLUMNS) -> np.ndarray:
    """A view of one column: [...] if it is a single number, else [..., its width].

    >>> column(np.array([[1, 2, 3, 4, 0.5, 7]]), "label")
    array([7.])
    """
    names = list(columns)
    start = sum(columns[before] for before in names[: names.index(name)])
    return rows[..., start] if columns[name] == 1 else rows[..., start : start + columns[name]]


def boxes(rows: np.ndarray) -> np.ndarray:
    """[..., 4] x1, y1, x2, y2."""
    return column(rows, "box")


def scores(rows: np.ndarray) -> np.ndarray:
    """[...] scores."""
    return column(rows, "score")


def labels(rows: np.ndarray) -> np.ndarray:
    """[...] labels, as floats."""
    return column(rows, "label")


def added(rows: np.ndarray, columns: dict[str, int]) -> dict[str, np.ndarray]:
    """The task's additional columns: {name: [..., its width], or [...] if it is a single number}."""
    return {name: column(rows, name, columns) for name in columns if name not in COLUMNS}


def best_first(rows: np.ndarray) -> np.ndarray:
    """Sort rows [M, D] by score, highest first."""
    return rows[np.argsort(-scores(rows), kind="stable")]
