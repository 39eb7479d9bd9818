"""Places for labels next to boxes: clear of each other, and of objects as far as possible."""
from collections.abc import Sequence

import numpy as np

NEAREST = 400  # places tried away from a box, the nearest ones
PER_HEIGHT = 0.1  # a label's height away from its box counts as much as hiding this share of an object
PER_RANK = 0.001  # of the order in _beside, which decides between places that are equally good

Place = tuple[int, int, int, int]  # x1, y1, x2, y2


def place_labels(sizes: Sequence[tuple[int, int]], boxes: np.ndarray, canvas: tuple[int, int]) -> list[Place | None]:
    """Rectangles for labels in a canvas (width, height), in pixels; None for a label for which no place is left.

    Args: sizes [(width, height)] of the labels, the most important first, and their boxes [M, 4], int. Labels do not
    overlap. Each is where it hides the least of the objects, as shares of their boxes, and is close to its own box.
    """
    areas = np.maximum((boxes[:, 2:] - boxes[:, :2]).prod(1), 1)
    taken = np.zeros((0, 4), int)
    places: list[Place | None] = []
    for box, (width, height) in zip(boxes, sizes):
        width, height = min(width, canvas[0]), min(height, canvas[1])
        corners = np.concatenate([_beside(box, width, height), _anywhere(box, width, height, canvas)])
        corners = np.clip(corners, 0, [canvas[0] - width, canvas[1] - height])
        found = np.hstack([corners, corners + (width, height)])
        free = ~(_shared(found, taken) > 0).any(1)
        if not free.any():
            places.append(None)
            continue
        hidden = (_shared(found, boxes) / areas).sum(1)
        away = np.maximum(np.maximum(found[:, :2] - box[2:], box[:2] - found[:, 2:]), 0).sum(1) / height
        cost = hidden + PER_HEIGHT * away + PER_RANK * np.arange(len(found)).clip(max=10)
        best = found[np.where(free, cost, np.inf).argmin()]
        taken = np.vstack([taken, best])
        places.append((int(best[0]), int(best[1]), int(best[2]), int(best[3])))
    return places


def _beside(box: np.ndarray, width: int, height: int) -> np.ndarray:
    """Corners x, y [10, 2] of a label above, below, beside and inside a box."""
    x1, y1, x2, y2 = box
    return np.array([
        (x1, y1 - height), (x2 - width, y1 - height), (x1, y2), (x2 - width, y2), (x2, y1), (x1 - width, y1),
        (x1, y1), (x2 - width, y1), (x1, y2 - height), (x2 - width, y2 - height)])


def _anywhere(box: np.ndarray, width: int, height: int, canvas: tuple[int, int]) -> np.ndarray:
    """Corners x, y [M, 2] of the NEAREST places in the canvas, in rows of labels."""
    step = max(1, width // 2)
    columns = np.arange(0, max(1, canvas[0] - width + 1), max(step, canvas[0] // 200))
    rows = np.arange(0, max(1, canvas[1] - height + 1), max(height, canvas[1] // 200))
    corners = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2)
    middle = np.array([(box[0] + box[2] - width) / 2, (box[1] + box[3] - height) / 2])
    return corners[np.argsort(np.abs(corners - middle).sum(1), kind="stable")[:NEAREST]]


def _shared(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The shared areas [M, N] of rectangles [M, 4] and [N, 4]."""
    low = np.maximum(ones[:, None, :2], others[None, :, :2])
    high = np.minimum(ones[:, None, 2:], others[None, :, 2:])
    return np.maximum(high - low, 0).prod(-1)
