"""Detections as YOLO's label files: a line "class x y width height" for each object, in fractions of the image."""
import os
from collections.abc import Sequence

import numpy as np

from ..core.backups import free_name
from ..core.files import atomic_write
from ..tasks import rows as row
from ..tasks import task_of

CLASSES = "classes.txt"  # the classes' names, one per line


class LabelFiles:
    """Writes label files into a folder, and CLASSES.

    A class is its index in the model's classes; x and y are the box's center. The values of the model's task follow,
    such as a pose's keypoints, and with `with_scores` the score.
    """

    def __init__(self, folder: str, description: dict, with_scores: bool):
        self.folder, self.description, self.with_scores = folder, description, with_scores

    def begin(self) -> None:
        """Create the folder and CLASSES."""
        names = [" ".join(name.split()) for name in self.description["classes"]]
        self._write(os.path.join(self.folder, CLASSES), names)

    def add(self, name: str, rows: np.ndarray, size: tuple[int, int]) -> None:
        """Write rows [M, D], in pixels of an image of size (width, height), into <name without extension>.txt.

        An image without detections has an empty file. If the name is taken, as by a.jpg for a.png, a number follows.
        """
        values = task_of(self.description).results.label_values(rows, size)
        if self.with_scores:
            values = np.hstack([values, row.scores(rows)[:, None]])
        lines = [" ".join([str(int(label)), *(f"{value:.6g}" for value in own)])
                 for label, own in zip(row.labels(rows), values)]
        self._write(free_name(os.path.join(self.folder, f"{os.path.splitext(name)[0]}.txt")), lines)

    def _write(self, path: str, lines: Sequence[str]) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with atomic_write(path) as partial, open(partial, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
