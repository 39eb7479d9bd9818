"""Scoring of COCO records with pycocotools: average precision, best F1, confusion, quality per image."""
import contextlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ...core.tables import table as text_table
from ...core.tables import truncate_middle
from . import DETECTION, thresholds, voc_scores
from .thresholds import threshold_curves
from .voc_scores import score_text

__all__ = ["check", "class_table", "confusion_matrix", "evaluate", "found_objects", "image_quality", "match",
           "pairs_by_score", "per_class", "point_table", "results_of", "score", "score_voc", "tables",
           "threshold_curves"]

MAX_SHOWN_CLASSES = 120  # in class_table
QUALITY = "overlap"  # what image_quality sums up


def evaluate(coco: COCO, records: Sequence[dict]) -> COCOeval:
    """pycocotools' accumulated evaluation of records against coco."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, results_of(coco, records), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def results_of(coco: COCO, records: Sequence[dict]) -> COCO:
    """Records as pycocotools' COCO."""
    if records:
        return coco.loadRes(records)
    results = COCO()  # pycocotools cannot load an empty list
    results.dataset = {**coco.dataset, "annotations": []}
    results.createIndex()
    return results


def check(metainfo: dict, eval_config: Any) -> None:
    """Raise UserError for settings that do not fit a model's metainfo; here there are none."""


def score(coco: COCO, records: Sequence[dict], eval_config: Any = None) -> tuple[str, dict[str, Any]]:
    """COCO's evaluation of records against coco: (its 12-line table, metrics). eval_config has no effect.

    metrics: the twelve numbers by the names of the task's metrics; AP_per_class and AP50_per_class {class name: value,
    None if it has no objects}; objects_per_class, the numbers of objects that count: all but crowds; those of
    thresholds.best_points.
    """
    evaluation = evaluate(coco, records)
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()
    metrics: dict[str, Any] = {name: float(value) for name, value in zip(DETECTION.metrics, evaluation.stats)}
    metrics |= per_class(coco, evaluation) | thresholds.best_points(evaluation)
    numbers = Counter(entry["category_id"] for entry in coco.dataset["annotations"] if not entry.get("iscrowd"))
    metrics["objects_per_class"] = {coco.cats[category_id]["name"]: numbers[category_id]
                                    for category_id in evaluation.params.catIds}
    return table.getvalue().rstrip(), metrics


def per_class(coco: COCO, evaluation: COCOeval) -> dict[str, dict[str, float | None]]:
    """{"AP_per_class", "AP50_per_class": {class name: value, None if it has no objects}} of an evaluation."""
    precision = evaluation.eval["precision"]  # [threshold, recall, class, area, detections]
    metrics: dict[str, dict[str, float | None]] = {"AP_per_class": {}, "AP50_per_class": {}}
    for key, values in zip(metrics, (precision[:, :, :, 0, -1], precision[:1, :, :, 0, -1])):
        for index, category_id in enumerate(evaluation.params.catIds):
            of_class = values[:, :, index]
            known = of_class[of_class > -1]
            metrics[key][coco.cats[category_id]["name"]] = float(np.mean(known)) if known.size else None
    return metrics


def score_voc(coco: COCO, records: list[dict]) -> tuple[str, dict]:
    """(Pascal VOC's table, {VOC_mAP_07 (11 points), VOC_mAP_area, and both per class: values}) of records."""
    result, objects = voc_scores.score(coco, records)
    values: dict = {}
    for rule, key in (("11 points", "07"), ("area", "area")):
        values |= {f"VOC_mAP_{key}": voc_scores.mean(result[rule]), f"VOC_AP_{key}_per_class": result[rule]}
    table = voc_scores.table(result, objects)
    return f"Pascal VOC, IoU {voc_scores.IOU}, without difficult objects\n{table}", values


def tables(metrics: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Further tables of a report: of the best F1, [(title, header, rows)]."""
    rows = thresholds.point_rows(metrics)
    return [(thresholds.TITLE, ["class", *thresholds.POINT], rows)] if rows else []


def class_table(metrics: dict[str, Any]) -> str:
    """Format AP, AP50 and objects per class, from score()'s metrics; only the best and worst of many classes."""
    values = metrics["AP_per_class"]
    names = list(values)
    if len(names) > MAX_SHOWN_CLASSES:
        names.sort(key=lambda name: math.inf if values[name] is None else -values[name])
    rows = [[name, score_text(values[name]), score_text(metrics["AP50_per_class"][name]),
             str(metrics["objects_per_class"][name])] for name in names]
    return text_table(["class", "AP", "AP50", "objects"], truncate_middle(rows, MAX_SHOWN_CLASSES))


def point_table(metrics: dict[str, Any]) -> str:
    """Format precision, recall, F1 and threshold of each class, from score()'s metrics; see class_table."""
    return thresholds.point_table(metrics, MAX_SHOWN_CLASSES)


# ---------------------------------------------------------------- errors by class and image


def match(ground_truth: Sequence[dict], detections: Sequence[dict],
          iou_thresh: float = 0.5) -> list[tuple[int, int, float]]:
    """Match the objects of one image to detections one to one, ignoring classes: highest IoU first, then highest score.

    Args: COCO dictionaries with bbox, the ground truth without crowds, the detections with a score. Returns [(index of
    the object, index of the detection, IoU)].
    """
    if not ground_truth or not detections:
        return []
    overlaps = mask.iou([record["bbox"] for record in detections], [record["bbox"] for record in ground_truth],
                        [0] * len(ground_truth))
    candidates = np.argwhere(overlaps >= iou_thresh)
    scores = np.array([record["score"] for record in detections])
    order = np.lexsort((-scores[candidates[:, 0]], -overlaps[tuple(candidates.T)]))
    pairs = []
    taken: set[int] = set()
    found: set[int] = set()
    for detection, target in candidates[order].tolist():
        if detection not in taken and target not in found:
            pairs.append((target, detection, float(overlaps[detection, target])))
            taken.add(detection)
            found.add(target)
    return pairs


def found_objects(coco: COCO, records: Sequence[dict],
                  counts: Callable[[dict], Any] = bool) -> Iterator[tuple[dict, dict | None]]:
    """Each annotation that counts, except crowds, and the record that found it, or None.

    An object is found by the record of its class with the highest score among those with IoU >= 0.5, each of which
    finds the object that it overlaps most.
    """
    found: dict[tuple, list[dict]] = {}
    for record in records:
        found.setdefault((record["image_id"], record["category_id"]), []).append(record)
    objects: dict[tuple, list[dict]] = {}
    for entry in coco.dataset["annotations"]:
        if not entry.get("iscrowd") and counts(entry):
            objects.setdefault((entry["image_id"], entry["category_id"]), []).append(entry)
    for key, entries in objects.items():
        yield from pairs_by_score(entries, found.get(key, []))


def pairs_by_score(objects: Sequence[dict], detections: Sequence[dict],
                   iou_thresh: float = 0.5) -> list[tuple[dict, dict | None]]:
    """Each object with the detection that found it, or None: detections choose in the order of their scores."""
    taken: dict[int, dict] = {}
    detections = sorted(detections, key=lambda record: -record["score"])
    if detections:
        overlaps = mask.iou([record["bbox"] for record in detections], [entry["bbox"] for entry in objects],
                            [0] * len(objects))
        for number in np.flatnonzero((overlaps >= iou_thresh).any(1)):
            best = int(overlaps[number].argmax())
            if overlaps[number, best] >= iou_thresh:
                taken[best] = detections[number]
                overlaps[:, best] = -1
    return [(entry, taken.get(index)) for index, entry in enumerate(objects)]


def _by_image(coco: COCO, records: Sequence[dict], score_thresh: float) -> dict[int, tuple[list[dict], list[dict]]]:
    """{image id: (its objects except crowds, its records of at least that score outside crowds)}."""
    by_image: dict[int, list[dict]] = {image_id: [] for image_id in coco.imgs}
    for record in records:
        if record["score"] >= score_thresh:
            by_image[record["image_id"]].append(record)
    images = {}
    for image_id, detections in by_image.items():
        annotations = coco.imgToAnns[image_id]
        crowds = [annotation["bbox"] for annotation in annotations if annotation.get("iscrowd")]
        if crowds and detections:
            inside = mask.iou([record["bbox"] for record in detections], crowds, [1] * len(crowds)).max(1)
            detections = [record for record, share in zip(detections, inside) if share < 0.5]
        images[image_id] = ([annotation for annotation in annotations if not annotation.get("iscrowd")], detections)
    return images


def confusion_matrix(coco: COCO, records: Sequence[dict], score_thresh: float, iou_thresh: float = 0.5) -> np.ndarray:
    """int [C + 1, C + 1] in the order of category ids, last the background: rows ground truth, columns detections."""
    row = {category_id: index for index, category_id in enumerate(sorted(coco.cats))}
    matrix = np.zeros((len(row) + 1, len(row) + 1), int)
    for ground_truth, detections in _by_image(coco, records, score_thresh).values():
        actual = [row[annotation["category_id"]] for annotation in ground_truth]
        predicted = [row[record["category_id"]] for record in detections]
        pairs = match(ground_truth, detections, iou_thresh)
        for target, detection, _ in pairs:
            matrix[actual[target], predicted[detection]] += 1
        for target in set(range(len(actual))) - {target for target, _, _ in pairs}:
            matrix[actual[target], -1] += 1
        for detection in set(range(len(predicted))) - {detection for _, detection, _ in pairs}:
            matrix[-1, predicted[detection]] += 1
    return matrix


def image_quality(coco: COCO, records: Sequence[dict], score_thresh: float, iou_thresh: float = 0.5,
                  likeness: Callable[[dict, dict], float] | None = None) -> dict[int, float]:
    """{image id: quality in [0, 1]} of the images with objects or detections.

    The sum of the true positives' IoU over true positives + false negatives / 2 + false positives / 2 (panoptic
    quality, Kirillov et al. 2019, on boxes). likeness(object, detection) in [0, 1] replaces the IoU in the sum.
    """
    quality = {}
    for image_id, (ground_truth, detections) in _by_image(coco, records, score_thresh).items():
        overlaps: list[float] = []
        for category_id in {record["category_id"] for record in ground_truth + detections}:
            objects, found = ([record for record in group if record["category_id"] == category_id]
                              for group in (ground_truth, detections))
            overlaps += [likeness(objects[target], found[detection]) if likeness else overlap
                         for target, detection, overlap in match(objects, found, iou_thresh)]
        if ground_truth or detections:
            quality[image_id] = sum(overlaps) / ((len(ground_truth) + len(detections)) / 2)
    return quality
