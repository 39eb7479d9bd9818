"""Post-processing of detections: image coordinates, merged scales, COCO records, drawings, tables. On the host.

Sources: the original's utils/post_process.py and detectors/ctdet.py.
"""
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...imaging import geometry
from ...imaging.drawing import draw_boxes
from ...imaging.view import View
from ...native.extensions import extension
from .. import rows as row

RECORD: dict = {}  # tests of a record's further fields: {name: its test}


def columns(metainfo: dict) -> row.Columns:
    """{name: number of values} of a row's columns: only the common ones."""
    return row.COLUMNS


def output_columns(metainfo: dict) -> row.Columns:
    """{name: number of values} of the columns of device.Decode's rows: only the common ones."""
    return row.COLUMNS


def camera_of(entry: dict) -> np.ndarray | None:
    """The calibration in an image's entry of an annotation file: boxes need none."""
    return None


def camera_note(metainfo: dict) -> str:
    """A sentence on the camera of images without calibration, "" for a task that needs none, as here."""
    return ""


def placed(view: View, calib: Any, description: dict, options: Any) -> View:
    """The View of an image with what to_image needs: nothing further."""
    return view


def to_image(rows: np.ndarray, view: View) -> np.ndarray:
    """Rows [K, D] in output pixels -> float32 [K, D] in pixels of the original image, according to the view."""
    out_h, out_w = view.out_hw
    matrix = geometry.affine_matrix(view.center, view.width, 0, (out_w, out_h), inverse=True)
    boxes = geometry.transform_points(row.boxes(rows).reshape(-1, 2, 2), matrix).reshape(-1, 4) / view.scale
    return np.hstack([boxes, rows[:, 4:]]).astype(np.float32)


def scaled(rows: np.ndarray, factors: Sequence[float] | np.ndarray) -> np.ndarray:
    """Scale rows [M, D] by factors (x, y), as the image."""
    return np.hstack([row.boxes(rows) * np.tile(factors, 2), rows[:, 4:]]).astype(np.float32)


def merge(scales: Sequence[np.ndarray], use_soft_nms: bool, k: int) -> np.ndarray:
    """Merge the rows of one image, one array [K, D] per scale, in class order; at most k remain.

    Several scales always go through soft-NMS (gaussian, per class), one scale only with use_soft_nms. Rows with equal
    scores at the limit are all kept, as in the original.
    """
    joined = np.concatenate(scales)
    if len(scales) > 1 or use_soft_nms:
        joined = _soft_nms_per_class(joined)
    else:
        joined = joined[np.argsort(row.labels(joined), kind="stable")]
    if len(joined) > k:
        scores = row.scores(joined)
        joined = joined[scores >= np.partition(scores, len(joined) - k)[len(joined) - k]]
    return joined


def _soft_nms_per_class(rows: np.ndarray) -> np.ndarray:
    nms, labels = extension("soft_nms"), row.labels(rows)
    kept = [nms.soft_nms(rows[labels == label], method=nms.METHODS["gaussian"]) for label in np.unique(labels)]
    return np.concatenate([rows[:0], *kept])


def coco_records(image_id: int, rows: np.ndarray, category_ids: Sequence[int],
                 round_scores: bool = False) -> list[dict]:
    """Rows [M, 6] of an image as COCO result dictionaries: bbox x, y, width, height.

    round_scores rounds the scores to two digits, as the original does; the order of detections that become equal is
    then arbitrary.
    """
    return [
        {
            "image_id": image_id, "category_id": category_ids[int(label)],
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
            "score": round(float(score), 2) if round_scores else float(score),
        }
        for x1, y1, x2, y2, score, label in rows
    ]


def rows_from_records(records: Sequence[dict], image: dict, category_ids: Sequence[int]) -> np.ndarray:
    """The inverse of coco_records: the rows [M, 6], float32, of an image, given its entry in an annotation file."""
    labels = {category_id: label for label, category_id in enumerate(category_ids)}
    of_image = [[*record["bbox"], record["score"], labels[record["category_id"]]]
                for record in records if record["image_id"] == image["id"]]
    rows = np.array(of_image, np.float32).reshape(-1, 6)
    rows[:, 2:4] += rows[:, :2]
    return rows


def rows_from_objects(objects: dict) -> np.ndarray:
    """Objects of an image as rows [M, 6], float32, with score 1."""
    boxes, labels = objects["boxes"], objects["labels"]
    return np.hstack([boxes, np.ones((len(boxes), 1)), labels[:, None]]).astype(np.float32)


def draw(image: np.ndarray, rows: np.ndarray, metainfo: dict, with_scores: bool = True) -> np.ndarray:
    """Draw rows [M, 6], in pixels of the image, on a copy of a BGR uint8 image."""
    labels, scores = row.labels(rows), row.scores(rows)
    names = [metainfo["classes"][int(label)] for label in labels]
    texts = [f"{name} {score:.2f}" for name, score in zip(names, scores)] if with_scores else names
    return draw_boxes(image, row.boxes(rows), scores, labels, texts)


def lines(rows: np.ndarray, metainfo: dict) -> list[list[list[float]]]:
    """Lines x1, y1, x2, y2 in pixels of the image that each of rows [M, 6] has besides its box: none."""
    return [[] for _ in rows]


def table_columns(metainfo: dict) -> list[str]:
    """The column headers of a table of detections, in addition to class and score."""
    return ["x1", "y1", "x2", "y2"]


def table_cells(rows: np.ndarray) -> list[list[str]]:
    """The cells of table_columns for rows [M, 6]."""
    return [[f"{side:.2f}" for side in box] for box in row.boxes(rows)]


def label_values(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The values [M, 4] in YOLO's label files for rows [M, 6]: center x, y, width and height of the box, in fractions
    of the image's size (width, height)."""
    boxes = row.boxes(rows).astype(np.float64) / np.tile(size, 2)
    return np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])


def category_fields(metainfo: dict) -> dict:
    """Further fields of every category in a COCO-style file of records: none."""
    return {}


def attributes(metainfo: dict) -> dict:
    """What a Prediction has in addition to its rows: nothing."""
    return {}


def computed(rows: np.ndarray) -> dict[str, np.ndarray]:
    """What a Prediction computes from its rows: nothing."""
    return {}


def write_files(folder: str, images: Sequence[tuple[int, str]], records: Sequence[dict],
                classes: dict[int, str]) -> None:
    """Further files of an evaluation in its folder: none."""
