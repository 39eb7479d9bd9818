"""Boxes of the network -> boxes of the original image; merging scales; COCO records. On the host, in NumPy.

Sources: the original's utils/post_process.py and detectors/ctdet.py.
"""
from collections.abc import Sequence

import numpy as np

from ...imaging import geometry
from ...imaging.view import View
from ...native.extensions import extension


def to_image(detections: np.ndarray, view: View) -> np.ndarray:
    """Detections [K, 6] in output pixels -> [K, 6] float32 in pixels of the original image; view says where they lie."""
    out_h, out_w = view.out_hw
    matrix = geometry.affine_matrix(view.center, view.width, 0, (out_w, out_h), inverse=True)
    boxes = geometry.transform_points(detections[:, :4].reshape(-1, 2, 2), matrix).reshape(-1, 4) / view.scale
    return np.hstack([boxes, detections[:, 4:]]).astype(np.float32)


def merge(detections: Sequence[np.ndarray], use_soft_nms: bool, k: int) -> np.ndarray:
    """Join the detections of one image, one array [K, 6] a scale, in class order; at most k are left.

    Several scales always go through soft-NMS (gaussian, class by class), one scale if use_soft_nms. Of equal scores at
    the limit all are kept, as in the original.
    """
    joined = np.concatenate(detections)
    if len(detections) > 1 or use_soft_nms:
        joined = _soft_nms_per_class(joined)
    else:
        joined = joined[np.argsort(joined[:, 5], kind="stable")]
    if len(joined) > k:
        joined = joined[joined[:, 4] >= np.partition(joined[:, 4], len(joined) - k)[len(joined) - k]]
    return joined


def _soft_nms_per_class(detections):
    nms = extension("soft_nms")
    kept = [np.zeros((0, 6), np.float32)]
    for label in np.unique(detections[:, 5]):
        boxes = nms.soft_nms(detections[detections[:, 5] == label, :5], method=nms.METHODS["gaussian"])
        kept.append(np.hstack([boxes, np.full((len(boxes), 1), label, np.float32)]))
    return np.concatenate(kept)


def coco_records(image_id: int, detections: np.ndarray, category_ids: Sequence[int], round_scores: bool = False) -> list[dict]:
    """Detections [M, 6] of an image as COCO result dictionaries: bbox x, y, width, height.

    round_scores rounds the scores to two digits: the original's choice, which leaves the rank of detections that it makes
    equal to chance.
    """
    return [
        {
            "image_id": image_id, "category_id": category_ids[int(label)],
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": round(float(score), 2) if round_scores else float(score),
        }
        for x1, y1, x2, y2, score, label in detections
    ]


def detections_of(records: Sequence[dict], image_id: int, category_ids: Sequence[int]) -> np.ndarray:
    """The way back from coco_records: the detections [M, 6], float32, of one image among COCO result dictionaries."""
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    rows = [[*record["bbox"], record["score"], labels[record["category_id"]]] for record in records if record["image_id"] == image_id]
    detections = np.array(rows, np.float32).reshape(-1, 6)
    detections[:, 2:4] += detections[:, :2]
    return detections
