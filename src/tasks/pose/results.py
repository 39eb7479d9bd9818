"""Post-processing of objects with keypoints: image coordinates, merged scales, COCO records, drawings, tables.

Sources: the original's utils/post_process.py and detectors/multi_pose.py.
"""
from collections.abc import Sequence

import numpy as np

from ...core.kinds import is_number, list_of
from ...imaging import geometry
from ...imaging.skeletons import draw_keypoints
from ...imaging.view import View
from .. import rows as row
from ..detection import results as boxes
from ..detection.results import camera_note, camera_of, computed, merge, placed, write_files

__all__ = ["camera_note", "camera_of", "computed", "merge", "placed", "write_files"]

WIDTH = row.width(row.COLUMNS)  # of a row without keypoints
RECORD = {"keypoints": list_of(is_number), "keypoint_scores": list_of(is_number)}  # tests of a record's fields


def columns(metainfo: dict) -> row.Columns:
    """{name: number of values, or shape} of a row's columns: keypoints are J times x, y, score."""
    return {**row.COLUMNS, "keypoints": (len(metainfo["keypoints"]["names"]), 3)}


output_columns = columns


def points(rows: np.ndarray) -> np.ndarray:
    """The keypoints [M, J, 3] of rows [M, 6 + 3J]: x, y, score, 0 if the class lacks it; a copy."""
    return rows[:, WIDTH:].reshape(len(rows), (rows.shape[1] - WIDTH) // 3, 3).copy()


def with_points(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows [M, 6] with keypoints [M, J, 3]."""
    return np.hstack([rows, places.reshape(len(rows), 3 * places.shape[1])]).astype(np.float32)


def to_image(rows: np.ndarray, view: View) -> np.ndarray:
    """Rows [K, D] in output pixels -> float32 [K, D] in pixels of the original image, according to the view."""
    found, (out_h, out_w) = points(rows), view.out_hw
    matrix = geometry.affine_matrix(view.center, view.width, 0, (out_w, out_h), inverse=True)
    present = found.any(-1)
    found[present, :2] = geometry.transform_points(found[present, :2], matrix) / view.scale
    return with_points(boxes.to_image(rows[:, :WIDTH], view), found)


def scaled(rows: np.ndarray, factors: Sequence[float] | np.ndarray) -> np.ndarray:
    """Scale rows [M, D] by factors (x, y), as the image."""
    return with_points(boxes.scaled(rows[:, :WIDTH], factors), points(rows) * (*factors, 1))


def coco_records(image_id: int, rows: np.ndarray, category_ids: Sequence[int],
                 round_scores: bool = False) -> list[dict]:
    """Rows [M, D] of an image as COCO result dictionaries: detection's with keypoints, J times x, y, visibility (2, or
    0 if the class lacks it), and keypoint_scores [J]."""
    records = boxes.coco_records(image_id, rows[:, :WIDTH], category_ids, round_scores)
    found = points(rows)
    scores = found[:, :, 2].tolist()
    found[:, :, 2] = 2 * found.any(-1)
    return [{**record, "keypoints": own.ravel().tolist(), "keypoint_scores": own_scores}
            for record, own, own_scores in zip(records, found, scores)]


def rows_from_records(records: Sequence[dict], image: dict, category_ids: Sequence[int]) -> np.ndarray:
    """The inverse of coco_records: the rows [M, D], float32, of an image, given its entry in an annotation file."""
    joints = len(records[0]["keypoint_scores"]) if records else 0
    own = [record for record in records if record["image_id"] == image["id"]]
    found = np.array([record["keypoints"] for record in own], np.float32).reshape(len(own), joints, 3)
    found[:, :, 2] = np.array([record["keypoint_scores"] for record in own]).reshape(len(own), joints)
    return with_points(boxes.rows_from_records(records, image, category_ids), found)


def rows_from_objects(objects: dict) -> np.ndarray:
    """Objects of an image as rows [M, D], float32, with score 1; keypoints have 1 if they are labeled."""
    rows = boxes.rows_from_objects(objects)
    found = objects["keypoints"].reshape(len(rows), objects["keypoints"].shape[1] // 3, 3).copy()
    found[:, :, 2] = found[:, :, 2] > 0
    return with_points(rows, found)


def draw(image: np.ndarray, rows: np.ndarray, metainfo: dict, with_scores: bool = True) -> np.ndarray:
    """Draw rows [M, D], in pixels of the image, on a copy of a BGR uint8 image."""
    facts = metainfo["keypoints"]
    drawn = draw_keypoints(image, points(rows), facts["skeleton"], facts["flip_idx"])
    return boxes.draw(drawn, rows[:, :WIDTH], metainfo, with_scores)


def lines(rows: np.ndarray, metainfo: dict) -> list[list[list[float]]]:
    """Lines x1, y1, x2, y2 in pixels of the image of each of rows [M, D]: the bones between its keypoints, and the
    keypoints as lines without length."""
    found = []
    for own in points(rows):
        pairs = [*metainfo["keypoints"]["skeleton"], *((joint, joint) for joint in range(len(own)))]
        found.append([[*own[a, :2].tolist(), *own[b, :2].tolist()] for a, b in pairs if own[a].any() and own[b].any()])
    return found


def table_columns(metainfo: dict) -> list[str]:
    """The column headers of a table of detections, in addition to class and score."""
    names = metainfo["keypoints"]["names"]
    return [*boxes.table_columns(metainfo), *(f"{name}_{part}" for name in names for part in ("x", "y", "score"))]


def table_cells(rows: np.ndarray) -> list[list[str]]:
    """The cells of table_columns for rows [M, D]; empty for keypoints that the class lacks."""
    return [[*cells, *(cell for x, y, score in own for cell in _cells(x, y, score))]
            for cells, own in zip(boxes.table_cells(rows[:, :WIDTH]), points(rows))]


def _cells(x: float, y: float, score: float) -> list[str]:
    return [f"{x:.2f}", f"{y:.2f}", f"{score:.4f}"] if x or y or score else [""] * 3


def label_values(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The values [M, 4 + 3J] in YOLO's pose labels for rows [M, D]: detection's, then x, y, in fractions of the image's
    size (width, height), and visibility 2 of each keypoint; 0, 0, 0 if the class lacks it or it is outside the image.
    """
    found = points(rows).astype(np.float64)
    present = found.any(-1) & (found[:, :, :2] >= 0).all(-1) & (found[:, :, :2] <= size).all(-1)
    found = np.where(present[:, :, None], np.dstack([found[:, :, :2] / size, np.full(present.shape, 2.0)]), 0)
    return np.hstack([boxes.label_values(rows[:, :WIDTH], size), found.reshape(len(rows), 3 * found.shape[1])])


def category_fields(metainfo: dict) -> dict:
    """The fields of every category in a COCO-style file of records: keypoints, skeleton (from 1), flip_idx (from 0)."""
    facts = metainfo["keypoints"]
    return {"keypoints": facts["names"], "skeleton": [[a + 1, b + 1] for a, b in facts["skeleton"]],
            "flip_idx": facts["flip_idx"]}


def attributes(metainfo: dict) -> dict:
    """What a Prediction has in addition to its rows: keypoint_names, and skeleton, pairs of their indices."""
    facts = metainfo["keypoints"]
    return {"keypoint_names": facts["names"], "skeleton": facts["skeleton"]}
