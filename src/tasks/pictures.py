"""Drawings of detections next to the ground truth."""
from collections.abc import Sequence

import numpy as np

from ..imaging.drawing import captioned, fit, side_by_side
from . import rows as row
from .base import Task


def compare(task: Task, image: np.ndarray, rows: np.ndarray, ground_truth: np.ndarray | None, metainfo: dict,
            score_thresh: float, fit_into: Sequence[float] | None = None) -> np.ndarray:
    """Draw an image with its detections of at least score_thresh, next to the ground truth if given; BGR uint8.

    Both have captions; the ground truth is to the right, or below a panorama. Args: rows and ground_truth [M, D] in
    pixels of the image; fit_into (width, height), to which the image is scaled first, so that all labels have the same
    size.
    """
    shown = image if fit_into is None else fit(image, *fit_into)
    factors = np.divide(shown.shape[1::-1], image.shape[1::-1])
    rows = task.results.scaled(rows[row.scores(rows) >= score_thresh], factors)
    panels = [captioned(task.results.draw(shown, rows, metainfo), "prediction")]
    if ground_truth is not None:
        drawn = task.results.draw(shown, task.results.scaled(ground_truth, factors), metainfo, with_scores=False)
        panels.append(captioned(drawn, "ground truth"))
    return side_by_side(panels)
