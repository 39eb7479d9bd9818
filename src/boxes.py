"""The boxes of COCO annotations as arrays."""
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pycocotools.coco import COCO


def ground_truth_boxes(coco: "COCO", image_id: int, category_ids: Sequence[int]) -> np.ndarray:
    """The annotated boxes of an image as [M, 6]: x1, y1, x2, y2, 1, label; category_ids in the order of the labels."""
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    boxes, labels, _ = usable_boxes(coco.imgToAnns[image_id], labels, math.inf, math.inf)
    return np.hstack([boxes, np.ones((len(boxes), 1)), labels[:, None]]).astype(np.float32)


def box_problem(box: Sequence[float], width: float, height: float) -> str:
    """Why a box x, y, w, h of an image cannot be trained on, "" if it can."""
    x, y, w, h = map(float, box)
    if not (math.isfinite(x + y + w + h) and w > 0 and h > 0):
        return f"box without area {box}"
    outside = x >= width or y >= height or x + w <= 0 or y + h <= 0
    return f"box {box} outside the {width}x{height} image" if outside else ""


def usable_boxes(annotations: Iterable[dict], labels_of_ids: dict[int, int], width: float, height: float) -> tuple[np.ndarray,
                 np.ndarray, list[str]]:
    """The boxes of one image that can be trained on.

    Args: annotations of the image, COCO style; labels_of_ids {category id: label}; the image's size in pixels.
    Returns boxes [M, 4] float32 as x1, y1, x2, y2 (not clipped), labels [M] int32, and for each annotation left out
    one sentence that names it.
    """
    boxes, labels, skipped = [], [], []
    for annotation in annotations:
        name = f"annotation {annotation.get('source_id', annotation.get('id'))} of image {annotation.get('image_id')}"
        label = labels_of_ids.get(annotation.get("category_id"))
        if label is None:
            skipped.append(f"{name}: unknown category id {annotation.get('category_id')}")
            continue
        try:
            x, y, w, h = (float(value) for value in annotation["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError):
            skipped.append(f"{name}: no box of four numbers")
            continue
        if problem := box_problem(annotation["bbox"], width, height):
            skipped.append(f"{name}: {problem}")
        else:
            boxes.append([x, y, x + w, y + h])
            labels.append(label)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int32), skipped
