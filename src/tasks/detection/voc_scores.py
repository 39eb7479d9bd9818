"""Pascal VOC's average precision for COCO records, as defined by its development kit."""
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask

from ...core import tables

IOU = 0.5
RULES = {"11 points": True, "area": False}  # VOC2007; VOC2010 and later


def is_difficult(annotation: dict) -> bool:
    """Whether an annotation is marked difficult; published conversions use `ignore`."""
    return bool(annotation.get("difficult", annotation.get("ignore", 0)))


def average_precision(recall: np.ndarray, precision: np.ndarray, eleven_points: bool) -> float:
    """AP of recall and precision [M] after each detection, best first.

    eleven_points: the mean, over recalls 0, 0.1, ..., 1, of the maximum precision at that recall or higher; else the
    area under the monotonically decreasing envelope of precision.
    """
    if eleven_points:
        return float(np.mean([precision[recall >= level].max(initial=0.0) for level in np.linspace(0, 1, 11) - 1e-12]))
    recall = np.concatenate([[0.0], recall, [1.0]])
    best = np.maximum.accumulate(np.concatenate([[0.0], precision, [0.0]])[::-1])[::-1]
    return float(np.sum(np.diff(recall) * best[1:]))


def judge(ground_truth: dict[int, list[dict]], detections: Sequence[dict]) -> tuple[np.ndarray, np.ndarray, int]:
    """Classify the detections of one class: (true positives, false positives, number of objects).

    The first two are bool [M], best score first. Args: ground_truth {image id: annotations}, detections the class's
    records. A detection is matched to the object it overlaps most, with an IoU of at least 0.5; an object's first match
    is a true positive, further ones are false positives. Ignored are matches of difficult objects, and unmatched
    detections with at least half of their area in a crowd, which COCO ignores and VOC does not have.
    """
    crowds = {image_id: [annotation["bbox"] for annotation in annotations if annotation.get("iscrowd")]
              for image_id, annotations in ground_truth.items()}
    ground_truth = {image_id: [annotation for annotation in annotations if not annotation.get("iscrowd")]
                    for image_id, annotations in ground_truth.items()}
    order = np.argsort([-record["score"] for record in detections], kind="stable")
    true_positives, false_positives = np.zeros(len(order), bool), np.zeros(len(order), bool)
    boxes = {image_id: [annotation["bbox"] for annotation in annotations]
             for image_id, annotations in ground_truth.items()}
    difficult = {image_id: [is_difficult(annotation) for annotation in annotations]
                 for image_id, annotations in ground_truth.items()}
    overlaps: dict[int, np.ndarray] = {}
    indices: dict[int, list[int]] = {}
    for index, record in enumerate(detections):
        indices.setdefault(record["image_id"], []).append(index)
    for image_id, of_image in indices.items():
        if boxes.get(image_id):
            of_class = [detections[index]["bbox"] for index in of_image]
            overlaps.update(zip(of_image, mask.iou(of_class, boxes[image_id], [0] * len(boxes[image_id]))))
    taken = set()  # (image id, index) of matched objects
    for rank, index in enumerate(order):
        image_id = detections[index]["image_id"]
        best = int(np.argmax(overlaps[index])) if index in overlaps else None
        if best is None or overlaps[index][best] < IOU:
            regions = crowds.get(image_id)
            box = [detections[index]["bbox"]]
            false_positives[rank] = not regions or mask.iou(box, regions, [1] * len(regions)).max() < IOU
        elif not difficult[image_id][best]:
            true_positives[rank] = (image_id, best) not in taken
            false_positives[rank] = not true_positives[rank]
            taken.add((image_id, best))
    return true_positives, false_positives, sum(not flag for flags in difficult.values() for flag in flags)


def score(coco: Any, records: Sequence[dict]) -> tuple[dict[str, dict[str, float | None]], dict[str, int]]:
    """VOC's evaluation of COCO records: {rule: {class name: AP, None if it has no objects}}, {class name: objects}.

    Objects exclude crowds and difficult ones.
    """
    result: dict[str, dict[str, float | None]] = {rule: {} for rule in RULES}
    objects = {}
    by_class: dict[int, list[dict]] = {category_id: [] for category_id in coco.cats}
    for record in records:
        by_class[record["category_id"]].append(record)
    for category_id in sorted(coco.cats):
        name = coco.cats[category_id]["name"]
        ground_truth: dict[int, list[dict]] = {}
        for number in coco.getAnnIds(catIds=[category_id]):
            ground_truth.setdefault(coco.anns[number]["image_id"], []).append(coco.anns[number])
        true_positives, false_positives, objects[name] = judge(ground_truth, by_class[category_id])
        right, wrong = np.cumsum(true_positives), np.cumsum(false_positives)
        for rule, eleven_points in RULES.items():
            result[rule][name] = None
            if objects[name]:
                precision = right / np.maximum(right + wrong, 1)
                result[rule][name] = average_precision(right / objects[name], precision, eleven_points)
    return result, objects


def mean(of_classes: dict[str, float | None]) -> float:
    """The mean over the classes with objects."""
    known = [value for value in of_classes.values() if value is not None]
    return float(np.mean(known)) if known else 0.0


def table(result: dict[str, dict[str, float | None]], objects: dict[str, int]) -> str:
    """Format the results of score() as lines of text."""
    rows = [[name, str(count), *(score_text(result[rule][name]) for rule in RULES)] for name, count in objects.items()]
    rows.append(["mAP", str(sum(objects.values())), *(score_text(mean(result[rule])) for rule in RULES)])
    return tables.table(["class", "objects", "AP 11 points", "AP area"], rows)


def score_text(value: float | None) -> str:
    """Format a score for tables."""
    return "-" if value is None else f"{value:.3f}"
