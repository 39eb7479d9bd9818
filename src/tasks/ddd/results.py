"""Post-processing of 3D boxes: image and camera coordinates, COCO and KITTI records, drawings, tables. On the host.

Sources: the original's utils/post_process.py and detectors/ddd.py.
"""
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ...core.errors import UserError
from ...core.kinds import is_number, list_of
from ...imaging import camera
from ...imaging.boxes_3d import draw_boxes_3d
from ...imaging.view import View
from .. import rows as row
from ..detection import results as boxes
from ..detection.results import category_fields, merge
from .cameras import camera_note, placed
from .categories import IGNORED
from .kitti import Frame, format_frame
from .targets import counted

__all__ = ["camera_note", "category_fields", "merge", "placed"]

WIDTH = row.width(row.COLUMNS)  # of a row without its 3D box
OUTPUT: row.Columns = {**row.COLUMNS, "rot": 8, "depth": 1, "dim": 3}
COLUMNS: row.Columns = {**row.COLUMNS, "alpha": 1, "boxes_3d": 7, "cameras": (3, 4)}
RECORD = {"alpha": is_number, "dim": list_of(is_number, 3), "location": list_of(is_number, 3), "rotation_y": is_number}


def output_columns(metainfo: dict) -> row.Columns:
    """{name: number of values} of the columns of device.Decode's rows."""
    return OUTPUT


def columns(metainfo: dict) -> row.Columns:
    """{name: number of values, or shape} of a row's columns in the image: alpha in radians; boxes_3d x, y, z, h, w, l
    in meters and rotation_y in radians; cameras, the image's projection matrix."""
    return COLUMNS


def camera_of(entry: dict) -> np.ndarray | None:
    """The calibration [3, 4] in an image's entry of an annotation file, None if it has none; raises ValueError for an
    invalid one."""
    try:
        return camera.check_calib(entry["calib"]) if "calib" in entry else None
    except UserError as error:
        raise ValueError(f"its calib: {error}") from error


def make_rows(common: np.ndarray, alpha: np.ndarray, boxes_3d: np.ndarray, calib: np.ndarray) -> np.ndarray:
    """Rows [M, D], float32, of detection's columns [M, 6], alpha [M], boxes_3d [M, 7], and calib [3, 4] or [M, 12]."""
    cameras = np.broadcast_to(calib.reshape(-1, 12), (len(common), 12))
    return np.hstack([common, alpha[:, None], boxes_3d, cameras]).astype(np.float32)


def boxes_3d_of(rows: np.ndarray) -> np.ndarray:
    """The 3D boxes [M, 7] of rows, float64."""
    return row.column(rows, "boxes_3d", COLUMNS).astype(np.float64)


def corners_of(boxes_3d: np.ndarray) -> np.ndarray:
    """The corners [M, 8, 3] of 3D boxes [M, 7]."""
    return camera.corners(boxes_3d[:, 3:6], boxes_3d[:, :3], boxes_3d[:, 6])


def angles(rotation: np.ndarray) -> np.ndarray:
    """The outputs of the head rot [M, 8] -> alpha [M] in radians, from the likelier of the two bins."""
    first = np.arctan2(rotation[:, 2], rotation[:, 3]) - np.pi / 2
    second = np.arctan2(rotation[:, 6], rotation[:, 7]) + np.pi / 2
    return np.where(rotation[:, 1] > rotation[:, 5], first, second)


def to_image(rows: np.ndarray, view: View) -> np.ndarray:
    """Rows of device.Decode [K, 18] in output pixels -> [K, D] in pixels of the image and meters, according to the view
    and its camera.

    A box is the object's size around its center; without a size (net_config.reg_bbox false), it surrounds the 3D box.
    """
    common = boxes.to_image(rows[:, :WIDTH], view)
    rotation, depth, dim = (row.column(rows, name, OUTPUT).astype(np.float64) for name in ("rot", "depth", "dim"))
    sides = row.boxes(common).astype(np.float64)
    centers, alpha = (sides[:, :2] + sides[:, 2:]) / 2, camera.wrapped(angles(rotation))
    assert view.camera is not None  # placed
    locations = camera.unproject(centers, depth * view.depth_factor, view.camera)
    locations[:, 1] += dim[:, 0] / 2
    rotation_y = camera.rotation_of(alpha, centers[:, 0], view.camera)
    boxes_3d = np.hstack([locations, dim, rotation_y[:, None]])
    empty = (sides[:, 2:] <= sides[:, :2]).any(1)
    common[empty, :4] = camera.bounding_boxes(corners_of(boxes_3d[empty]), view.camera)
    return make_rows(common, alpha, boxes_3d, view.camera)


def scaled(rows: np.ndarray, factors: Sequence[float] | np.ndarray) -> np.ndarray:
    """Scale rows [M, D] by factors (x, y), as the image: boxes and cameras, but not the boxes in meters."""
    cameras = row.column(rows, "cameras", COLUMNS) * np.array([[factors[0]], [factors[1]], [1]])
    return make_rows(boxes.scaled(rows[:, :WIDTH], factors), row.column(rows, "alpha", COLUMNS),
                     row.column(rows, "boxes_3d", COLUMNS), cameras)


def coco_records(image_id: int, rows: np.ndarray, category_ids: Sequence[int],
                 round_scores: bool = False) -> list[dict]:
    """Rows [M, D] of an image as COCO result dictionaries: detection's with alpha, dim, location and rotation_y, as in
    annotations."""
    found = boxes_3d_of(rows)
    added = zip(row.column(rows, "alpha", COLUMNS).tolist(), found.tolist())
    return [{**record, "alpha": alpha, "dim": box[3:6], "location": box[:3], "rotation_y": box[6]}
            for record, (alpha, box) in zip(boxes.coco_records(image_id, rows[:, :WIDTH], category_ids, round_scores),
                                            added)]


def rows_from_records(records: Sequence[dict], image: dict, category_ids: Sequence[int]) -> np.ndarray:
    """The inverse of coco_records: the rows [M, D], float32, of an image, given its entry in an annotation file."""
    own = [record for record in records if record["image_id"] == image["id"]]
    found = [[*record["location"], *record["dim"], record["rotation_y"]] for record in own]
    return make_rows(boxes.rows_from_records(records, image, category_ids),
                     np.array([record["alpha"] for record in own]), np.array(found).reshape(-1, 7),
                     np.array(image["calib"]))


def rows_from_objects(objects: dict) -> np.ndarray:
    """Objects of an image as rows [M, D], float32, with score 1, without regions to ignore."""
    kept = counted(objects)
    own = {name: values[kept] for name, values in objects.items()}
    boxes_3d = np.hstack([own["location"], own["dim"], own["rotation_y"]])
    return make_rows(boxes.rows_from_objects(own), own["alpha"][:, 0], boxes_3d, own["calib"])


def draw(image: np.ndarray, rows: np.ndarray, metainfo: dict, with_scores: bool = True) -> np.ndarray:
    """Draw rows [M, D], in pixels of the image, on a copy of a BGR uint8 image, with the bird's-eye view beside it.

    A label has the class, the score and the distance.
    """
    found, labels, scores = boxes_3d_of(rows), row.labels(rows).astype(int), row.scores(rows)
    texts = [" ".join([metainfo["classes"][label], *([f"{score:.2f}"] if with_scores else []), f"{depth:.0f} m"])
             for label, score, depth in zip(labels, scores, found[:, 2])]
    return draw_boxes_3d(image, row.boxes(rows), scores, labels, texts, corners_of(found),
                         row.column(rows, "cameras", COLUMNS).astype(np.float64))


def lines(rows: np.ndarray, metainfo: dict) -> list[list[list[float]]]:
    """Lines x1, y1, x2, y2 in pixels of the image of each of rows [M, D]: the edges of its 3D box."""
    cameras = row.column(rows, "cameras", COLUMNS).astype(np.float64)
    return [camera.segments(own, calib).reshape(-1, 4).tolist()
            for own, calib in zip(corners_of(boxes_3d_of(rows)), cameras)]


def table_columns(metainfo: dict) -> list[str]:
    """The column headers of a table of detections, in addition to class and score."""
    return [*boxes.table_columns(metainfo), "alpha", "x", "y", "z", "height", "width", "length", "rotation_y"]


def table_cells(rows: np.ndarray) -> list[list[str]]:
    """The cells of table_columns for rows [M, D]."""
    numbers = np.hstack([row.column(rows, "alpha", COLUMNS)[:, None], row.column(rows, "boxes_3d", COLUMNS)])
    return [[*cells, *(f"{value:.3f}" for value in own)]
            for cells, own in zip(boxes.table_cells(rows[:, :WIDTH]), numbers)]


def label_values(rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The values in YOLO's label files for rows [M, D]: detection's, of the box in the image."""
    return boxes.label_values(rows[:, :WIDTH], size)


def attributes(metainfo: dict) -> dict:
    """What a Prediction has in addition to its rows: camera, the training data's (see cameras.py)."""
    return {"camera": metainfo["camera"]}


def computed(rows: np.ndarray) -> dict[str, np.ndarray]:
    """What a Prediction computes from its rows [M, D]: the corners of the 3D boxes [M, 8, 3] in meters."""
    return {"corners": corners_of(boxes_3d_of(rows))}


def write_files(folder: str, images: Sequence[tuple[int, str]], records: Sequence[dict],
                classes: dict[int, str]) -> None:
    """Write results/<image>.txt in KITTI's format, which its evaluation program reads, for images [(id, path)] with
    records; classes {category id: name}. Of images with the same name in several folders, <image>_<id>.txt."""
    found: dict[int, list[dict]] = {image_id: [] for image_id, _ in images}
    for record in records:
        found[record["image_id"]].append(record)
    os.makedirs(os.path.join(folder, "results"))
    names = [os.path.splitext(os.path.basename(path))[0] for _, path in images]
    several = {name for name, count in Counter(names).items() if count > 1}
    for (image_id, _), name in zip(images, names):
        name = f"{name}_{image_id}" if name in several else name
        with open(os.path.join(folder, "results", f"{name}.txt"), "w", encoding="utf-8") as file:
            file.write(format_frame(frame_of(found[image_id], classes)))


def frame_of(entries: Sequence[dict], classes: dict[int, str]) -> Frame:
    """COCO records or annotations of one image as a kitti.Frame; regions to ignore have the type that KITTI gives them,
    and those without a 3D box its placeholders."""
    def values(name: str, default: object) -> list:
        return [entry.get(name, default) for entry in entries]

    unknown = -1 if entries and "score" in entries[0] else 0  # as in KITTI's files of detections
    sides = np.array(values("bbox", None), float).reshape(-1, 4)
    sides[:, 2:] += sides[:, :2]
    return Frame(
        names=[_type_of(entry) if entry.get("iscrowd") else classes[entry["category_id"]] for entry in entries],
        truncated=np.array(values("truncated", unknown), float), occluded=np.array(values("occluded", unknown), int),
        alpha=np.array(values("alpha", -10), float), boxes=sides,
        dims=np.array(values("dim", [-1] * 3), float).reshape(-1, 3),
        locations=np.array(values("location", [-1000] * 3), float).reshape(-1, 3),
        rotation_y=np.array(values("rotation_y", -10), float), scores=np.array(values("score", 1), float))


def _type_of(crowd: dict) -> str:
    """KITTI's type of a region to ignore: that of categories.select, or DontCare for other crowds."""
    return next((name for name in IGNORED if name == crowd.get("type")), "DontCare")
