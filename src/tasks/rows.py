"""Detections as rows [..., D]: a box x1, y1, x2, y2, a score, a label, and the task's additional columns."""
import math
from collections.abc import Mapping

import numpy as np

Columns = Mapping[str, int | tuple[int, ...]]  # {name: number of values, or shape}
COLUMNS: Columns = {"box": 4, "score": 1, "label": 1}  # of all tasks, before additional ones


def width(columns: Columns) -> int:
    """The number of values in a row."""
    return sum(math.prod(_shape(columns[name])) for name in columns)


def _shape(size: int | tuple[int, ...]) -> tuple[int, ...]:
    return size if isinstance(size, tuple) else () if size == 1 else (size,)


def column(rows: np.ndarray, name: str, columns: Columns = COLUMNS) -> np.ndarray:
    """A view of one column: [...] if it is a single number, else [..., its shape].

    >>> column(np.array([[1, 2, 3, 4, 0.5, 7]]), "label")
    array([7.])
    """
    names = list(columns)
    start = width({before: columns[before] for before in names[: names.index(name)]})
    shape = _shape(columns[name])
    return rows[..., start : start + math.prod(shape)].reshape(*rows.shape[:-1], *shape)


def boxes(rows: np.ndarray) -> np.ndarray:
    """[..., 4] x1, y1, x2, y2."""
    return column(rows, "box")


def scores(rows: np.ndarray) -> np.ndarray:
    """[...] scores."""
    return column(rows, "score")


def labels(rows: np.ndarray) -> np.ndarray:
    """[...] labels, as floats."""
    return column(rows, "label")


def added(rows: np.ndarray, columns: Columns) -> dict[str, np.ndarray]:
    """The task's additional columns: {name: [..., its shape], or [...] if it is a single number}."""
    return {name: column(rows, name, columns) for name in columns if name not in COLUMNS}


def clipped(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Rows [M, D] in image pixels with their boxes clipped to an image of size (width, height); those with a box
    entirely outside the image are left out.

    >>> clipped(np.array([[-3, 1, 4, 9, 0.5, 7], [9, 1, 12, 4, 0.5, 7]]), (8, 6))[:, :4]
    array([[0., 1., 4., 6.]])
    """
    corners = boxes(rows).reshape(-1, 2, 2)
    outside = ((corners.max(1) <= 0) | (corners.min(1) >= size)).any(1)
    rows = rows[~outside]
    return np.hstack([np.clip(boxes(rows), 0, np.tile(size, 2)), rows[:, 4:]]).astype(rows.dtype)


def best_first(rows: np.ndarray) -> np.ndarray:
    """Sort rows [M, D] by score, highest first."""
    return rows[np.argsort(-scores(rows), kind="stable")]
