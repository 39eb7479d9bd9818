"""Detections beside the ground truth."""
from collections.abc import Sequence

import numpy as np

from ..imaging.drawing import captioned, fit, side_by_side
from . import rows as row
from .base import Task


def compare(task: Task, image: np.ndarray, rows: np.ndarray, ground_truth: np.ndarray | None, metainfo: dict, score_thresh: float,
            fit_into: Sequence[float] | None = None) -> np.ndarray:
    """An image with its detections of at least score_thresh, and to its right, of a panorama below it, with the ground truth (if not
    None), under captions; BGR uint8.

    Args: rows and ground_truth [M, D] in the image's pixels; fit_into (width, height), to which the image is scaled before, so that
    labels have one size.
    """
    shown = image if fit_into is None else fit(image, *fit_into)
    factors = np.divide(shown.shape[1::-1], image.shape[1::-1])
    rows = task.results.scaled(rows[row.scores(rows) >= score_thresh], factors)
    panels = [captioned(task.results.draw(shown, rows, metainfo), "prediction")]
    if ground_truth is not None:
        drawn = task.results.draw(shown, task.results.scaled(ground_truth, factors), metainfo, with_scores=False)
        panels.append(captioned(drawn, "ground truth"))
    return side_by_side(panels)
