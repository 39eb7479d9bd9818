"""Scoring of 3D boxes: KITTI's benchmark, errors of depth, rotation and dimensions, COCO's evaluation of boxes."""
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ...core.tables import table as text_table
from ...imaging.camera import wrapped
from ..detection import scores as boxes
from ..detection import thresholds
from ..detection.scores import class_table, confusion_matrix, evaluate, point_table, score_voc, threshold_curves
from ..detection.voc_scores import score_text
from . import DDD
from .kitti import LEVELS, Frame, ap, average_precision, overlaps_3d
from .results import frame_of

__all__ = ["check", "class_table", "confusion_matrix", "evaluate", "image_quality", "point_table", "score",
           "score_voc", "tables", "threshold_curves"]

QUALITY = "overlap of the 3D boxes"  # what image_quality sums up
OVERLAPS = {"car": 0.7}  # KITTI's, in lower case; of other classes LOOSE
LOOSE = 0.5
MODERATE = LEVELS.index("moderate")
CLOSE = 0.05  # relative error of a depth that counts as right
TURNED = 150.0  # degrees from which an object faces the other way


def overlap_of(name: str) -> float:
    """KITTI's least overlap for a class."""
    return OVERLAPS.get(name.lower(), LOOSE)


def check(metainfo: dict, eval_config: Any) -> None:
    """Raise UserError for settings that do not fit a model's metainfo; here there are none."""


def frames_of(coco: COCO, records: Sequence[dict]) -> tuple[list[Frame], list[Frame]]:
    """(labels, detections) of all images as KITTI's frames."""
    names = {category_id: entry["name"] for category_id, entry in coco.cats.items()}
    found: dict[int, list[dict]] = {image_id: [] for image_id in coco.imgs}
    for record in records:
        found[record["image_id"]].append(record)
    return ([frame_of(coco.imgToAnns[image_id], names) for image_id in coco.imgs],
            [frame_of(found[image_id], names) for image_id in coco.imgs])


def kitti_scores(coco: COCO, records: Sequence[dict]) -> dict[str, dict[float, dict[str, np.ndarray]]]:
    """{class name: {overlap: {"box", "orientation", "bev", "3d": precision [levels, recalls]}}} at KITTI's overlap and
    at LOOSE."""
    labels, detections = frames_of(coco, records)
    return {entry["name"]: {overlap: average_precision(labels, detections, entry["name"], overlap)
                            for overlap in {overlap_of(entry["name"]), LOOSE}}
            for _, entry in sorted(coco.cats.items())}


def score(coco: COCO, records: Sequence[dict], eval_config: Any = None) -> tuple[str, dict[str, Any]]:
    """KITTI's and COCO's evaluations of records against coco: (their tables, metrics). eval_config has no effect.

    metrics: the numbers by the names of the task's metrics, means over the classes, -1 if no object counts; kitti
    {class name: {"box@0.7": [AP of each level at 40 positions, at 11]}}; AP_per_class and AP50_per_class {class name:
    3D AP, moderate}; depth_error (median, relative), depth_error_m, rotation_error_deg and dim_error (means),
    turned_around, the share off by more than TURNED, None if no object is found; found_objects, the share of objects
    that are found; objects_per_class; precision, recall, F1 and threshold as in detection, of boxes in the image.
    """
    of_boxes, box_metrics = boxes.score(coco, records)
    found = kitti_scores(coco, records)

    def per_class(metric: str, strict: bool, level: int = MODERATE, positions: int = 40) -> dict[str, float | None]:
        values = {name: ap(curves[overlap_of(name) if strict else LOOSE][metric], positions)[level]
                  for name, curves in found.items()}
        return {name: None if np.isnan(value) else float(value) for name, value in values.items()}

    def mean(values: dict[str, float | None]) -> float:
        known = [value for value in values.values() if value is not None]
        return float(np.mean(known)) if known else -1.0

    metrics: dict[str, Any] = {
        "AP": mean(per_class("3d", True)), "AP50": mean(per_class("3d", False)),
        "AP_easy": mean(per_class("3d", True, 0)), "AP_hard": mean(per_class("3d", True, 2)),
        "AP_11": mean(per_class("3d", True, positions=11)), "BEV_AP": mean(per_class("bev", True)),
        "BEV_AP50": mean(per_class("bev", False)), "AOS": mean(per_class("orientation", True)),
        "box_AP_KITTI": mean(per_class("box", True)),
    }
    errors = box_errors(coco, records)
    metrics |= error_metrics(errors)
    metrics |= thresholds.of_boxes(box_metrics)
    metrics |= {f"box_{name}": value for name, value in box_metrics.items() if f"box_{name}" in DDD.metrics}
    numbers = Counter(entry["category_id"] for entry in coco.dataset["annotations"] if not entry.get("iscrowd"))
    metrics |= {"AP_per_class": per_class("3d", True), "AP50_per_class": per_class("3d", False),
                "objects_per_class": {entry["name"]: numbers[number] for number, entry in sorted(coco.cats.items())},
                "kitti": {name: kitti_entry(curves) for name, curves in found.items()}}
    return f"{kitti_table(found)}\n{error_text(metrics)}\nboxes in the image\n{of_boxes}", metrics


def kitti_entry(curves: dict[float, dict[str, np.ndarray]]) -> dict[str, list[list[float | None]]]:
    """{"3d@0.7": [AP of each level at 40 recall positions, at 11], ...} of one class; None if no object counts."""
    return {f"{metric}@{overlap:g}": [[None if np.isnan(value) else float(value) for value in ap(curve, count)]
                                      for count in (40, 11)]
            for overlap, metrics in sorted(curves.items(), reverse=True) for metric, curve in metrics.items()}


def kitti_table(found: dict[str, dict[float, dict[str, np.ndarray]]]) -> str:
    """kitti_scores as text, in percent as KITTI prints them."""
    rows = []
    for name, curves in found.items():
        for overlap, metrics in sorted(curves.items(), reverse=True):
            for metric, curve in metrics.items():
                cells = [["-" if np.isnan(value) else f"{100 * value:.2f}" for value in ap(curve, count)]
                         for count in (40, 11)]
                rows.append([name, metric, f"{overlap:g}", *cells[0], " / ".join(cells[1])])
    return ("KITTI's average precision in percent, at 40 recall positions and at 11\n"
            + text_table(["class", "metric", "overlap", *LEVELS, "at 11"], rows))


def box_errors(coco: COCO, records: Sequence[dict]) -> np.ndarray:
    """float [M, 4] of all objects (without regions to ignore): relative error and error of the depth in meters, of the
    rotation in degrees, mean relative error of the dimensions; infinite where the object was not found."""
    errors = []
    for entry, record in boxes.found_objects(coco, records):
        if record is None:
            errors.append([np.inf] * 4)
            continue
        away = abs(record["location"][2] - entry["location"][2])
        turned = abs(float(wrapped(np.array(record["rotation_y"] - entry["rotation_y"]))))
        larger = np.abs(np.array(record["dim"]) / np.array(entry["dim"]) - 1).mean()
        errors.append([away / entry["location"][2], away, np.degrees(turned), larger])
    return np.array(errors, float).reshape(-1, 4)


def image_quality(coco: COCO, records: Sequence[dict], score_thresh: float) -> dict[int, float]:
    """detection's image_quality with the IoU of the 3D boxes in its sum."""
    return boxes.image_quality(coco, records, score_thresh, likeness=overlap_3d)


def overlap_3d(entry: dict, record: dict) -> float:
    """IoU of the 3D boxes of an annotation and a record."""
    one, other = (np.array([*box["dim"], *box["location"], box["rotation_y"]], float) for box in (entry, record))
    return float(overlaps_3d(one[None], other[None])[0])


def error_metrics(errors: np.ndarray) -> dict[str, Any]:
    """Metrics of box_errors, see score."""
    found = errors[np.isfinite(errors).all(1)]
    if not len(found):
        return {"depth_right": -1.0, **dict.fromkeys(("depth_error", "depth_error_m", "rotation_error_deg",
                                                      "dim_error")),
                "turned_around": None, "found_objects": 0.0 if len(errors) else None}
    return {"depth_right": float((found[:, 0] <= CLOSE).mean()), "depth_error": float(np.median(found[:, 0])),
            "depth_error_m": float(found[:, 1].mean()), "rotation_error_deg": float(found[:, 2].mean()),
            "turned_around": float((found[:, 2] > TURNED).mean()),
            "dim_error": float(found[:, 3].mean()), "found_objects": len(found) / len(errors)}


def error_text(metrics: dict[str, Any]) -> str:
    """Metrics of error_metrics as text."""
    if metrics["depth_error"] is None:
        return "no object was found, so depths have no errors"
    errors = ", ".join(f"{name} {text}" for name, text in error_cells(metrics).items())
    return f"of the {100 * metrics['found_objects']:.1f} % of objects that were found (IoU 0.5): {errors}"


def error_cells(metrics: dict[str, Any]) -> dict[str, str]:
    """{what: its number with a unit} of error_metrics for objects that were found."""
    return {"median error of the depth": f"{100 * metrics['depth_error']:.1f} %",
            "mean": f"{metrics['depth_error_m']:.2f} m", "within 5 %": f"{100 * metrics['depth_right']:.1f} %",
            "rotation": f"{metrics['rotation_error_deg']:.1f} degrees",
            "the other way round": f"{100 * metrics['turned_around']:.1f} %",
            "dimensions": f"{100 * metrics['dim_error']:.1f} %"}


def tables(metrics: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Further tables of a report: KITTI's scores and errors, the best F1, [(title, header, rows)]."""
    kitti = metrics.get("kitti") or {}
    rows = [[name, *key.split("@"), *map(score_text, values[0])]
            for name, curves in kitti.items() for key, values in curves.items()]
    title = "KITTI's average precision at 40 recall positions; curves and errors below are of boxes in the image"
    found = [(title, ["class", "metric", "overlap", *LEVELS], rows)] if rows else []
    if metrics.get("depth_error") is not None:
        cells = error_cells(metrics)
        found.append((f"Errors of the objects that were found, {100 * metrics['found_objects']:.0f} %", [*cells],
                      [[*cells.values()]]))
    return found + boxes.tables(metrics)
