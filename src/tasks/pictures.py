"""Drawings of detections next to the ground truth."""
from collections.abc import Sequence

import numpy as np

from ..imaging.drawing import captioned, enlarged, fit, side_by_side
from . import rows as row
from .base import Task


def draw(task: Task, image: np.ndarray, rows: np.ndarray, metainfo: dict, with_scores: bool = True) -> np.ndarray:
    """Draw rows [M, D], in pixels of a BGR uint8 image, on a copy of it, which is enlarged if it is small."""
    shown = enlarged(image)
    factors = np.divide(shown.shape[1::-1], image.shape[1::-1])
    return task.results.draw(shown, task.results.scaled(rows, factors), metainfo, with_scores)


def panels(task: Task, image: np.ndarray, rows: np.ndarray, ground_truth: np.ndarray | None, metainfo: dict,
           score_thresh: float, fit_into: Sequence[float] | None = None) -> list[tuple[str, np.ndarray]]:
    """[(caption, drawing)] of an image with its detections of at least score_thresh, and with any ground truth.

    Args: rows and ground_truth [M, D] in pixels of the image; fit_into (width, height), to which the image is scaled
    first, so that all labels have the same size.
    """
    shown = image if fit_into is None else fit(image, *fit_into)
    factors = np.divide(shown.shape[1::-1], image.shape[1::-1])
    rows = task.results.scaled(rows[row.scores(rows) >= score_thresh], factors)
    drawn = [("prediction" if len(rows) else "prediction: nothing found", draw(task, shown, rows, metainfo))]
    if ground_truth is not None:
        truth = task.results.scaled(ground_truth, factors)
        drawn.append(("ground truth" if len(truth) else "ground truth: no objects",
                      draw(task, shown, truth, metainfo, with_scores=False)))
    return drawn


def compare(task: Task, image: np.ndarray, rows: np.ndarray, ground_truth: np.ndarray | None, metainfo: dict,
            score_thresh: float, fit_into: Sequence[float] | None = None) -> np.ndarray:
    """The panels as one BGR uint8 image with captions; the ground truth is to the right, or below a panorama."""
    drawn = panels(task, image, rows, ground_truth, metainfo, score_thresh, fit_into)
    return side_by_side([captioned(panel, caption) for caption, panel in drawn])
