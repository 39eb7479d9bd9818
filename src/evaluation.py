"""Scoring COCO records with pycocotools, and the files of an evaluation."""
import contextlib
import io
import math
import os
from collections import Counter
from dataclasses import dataclass

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.core import tables
from src.core.errors import UserError
from src.core.files import write_json
from src.core.kept import holds
from src.core.kinds import dictionary_of, having, is_number, is_string, is_whole, list_of, or_none
from src.tasks.detection import voc_scores
from src.tasks.detection.voc_scores import score_text

METRIC_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")
# What is in metrics.json, in it if eval.py wrote it, and in val_pred_result.json.
SCORES = {**dict.fromkeys(METRIC_NAMES, is_number), **dict.fromkeys(("AP_per_class", "AP50_per_class"), dictionary_of(or_none(is_number)))}
MOST_CLASSES = 120  # that class_table shows
STAGES = ("images", "preparing", "computing", "finishing")
TIMES = {"images_per_second": is_number, "stage_seconds": having(**dict.fromkeys(STAGES, is_number))}
FOUND = {
    "annotation": is_string, "images": list_of(having(id=is_whole, file_name=is_string)),
    "annotations": list_of(having(image_id=is_whole, category_id=is_whole, bbox=list_of(is_number, 4), score=is_number)),
}


def check_classes(description, coco, annotation):
    """The annotation's category id of each of the model's classes. Raises UserError unless both name the same classes."""
    ids = {category["name"]: category["id"] for category in coco.dataset["categories"]}
    for name in description["classes"]:
        if name not in ids:
            raise UserError(f"{annotation} has no class {name!r}, which the model was trained on; it has {len(ids)} classes: {_some(ids)}")
    for name in ids:
        if name not in description["classes"]:
            raise UserError(f"the model was not trained on {name!r} of {annotation}; "
                            f"it knows {len(description['classes'])} classes: {_some(description['classes'])}")
    return [ids[name] for name in description["classes"]]


def check_objects(coco, annotation):
    """Raise UserError unless there is an object to score detections against: pycocotools would give -1 for everything."""
    if not any(entry["category_id"] in coco.cats and not entry["iscrowd"] for entry in coco.dataset["annotations"]):
        raise UserError(f"{annotation} holds no objects (but crowds) to score detections against; without scores, eval.py detects with "
                        "--enable_eval false")


def _some(names, limit=8):
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def evaluate(coco, records):
    """pycocotools' evaluation of records against coco, accumulated: a COCOeval."""
    with contextlib.redirect_stdout(io.StringIO()):
        if records:
            results = coco.loadRes(records)
        else:  # pycocotools cannot load an empty list
            results = COCO()
            results.dataset = {**coco.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def score(coco, records):
    """COCO's evaluation of records against coco: (its 12-line table, metrics).

    metrics: the twelve numbers by METRIC_NAMES, AP_per_class and AP50_per_class {class name: value, None without objects}, and
    objects_per_class, the numbers of those that count: all but crowds.
    """
    evaluation = evaluate(coco, records)
    with contextlib.redirect_stdout(io.StringIO()) as table:
        evaluation.summarize()
    metrics = {name: float(value) for name, value in zip(METRIC_NAMES, evaluation.stats)}
    precision = evaluation.eval["precision"]  # [IoU, recall, class, area, detections]
    for key, values in (("AP_per_class", precision[:, :, :, 0, -1]), ("AP50_per_class", precision[:1, :, :, 0, -1])):
        metrics[key] = {}
        for index, category_id in enumerate(evaluation.params.catIds):
            of_class = values[:, :, index]
            known = of_class[of_class > -1]
            metrics[key][coco.cats[category_id]["name"]] = float(np.mean(known)) if known.size else None
    numbers = Counter(entry["category_id"] for entry in coco.dataset["annotations"] if not entry.get("iscrowd"))
    metrics["objects_per_class"] = {coco.cats[category_id]["name"]: numbers[category_id] for category_id in evaluation.params.catIds}
    return table.getvalue().rstrip(), metrics


def class_table(metrics):
    """AP, AP50 and the number of objects of each class, of score()'s metrics, as lines of text; of very many classes the best and worst."""
    values = metrics["AP_per_class"]
    names = list(values)
    if len(names) > MOST_CLASSES:
        names.sort(key=lambda name: math.inf if values[name] is None else -values[name])
    rows = [[name, score_text(values[name]), score_text(metrics["AP50_per_class"][name]), str(metrics["objects_per_class"][name])]
            for name in names]
    return tables.table(["class", "AP", "AP50", "objects"], tables.without_middle(rows, MOST_CLASSES))


# ---------------------------------------------------------------- where the errors are


def match(ground_truth, detections, iou_thresh=0.5):
    """Pair the objects of one image with detections, each at most once, whatever their classes: the pair that overlaps most first, of
    equal ones that of the higher score.

    Args: COCO dictionaries with bbox, the ground truth without crowds, the detections with a score. Returns [(index of the object, index
    of the detection, IoU)].
    """
    if not ground_truth or not detections:
        return []
    overlaps = mask.iou([record["bbox"] for record in detections], [record["bbox"] for record in ground_truth], [0] * len(ground_truth))
    candidates = np.argwhere(overlaps >= iou_thresh)
    scores = np.array([record["score"] for record in detections])
    order = np.lexsort((-scores[candidates[:, 0]], -overlaps[tuple(candidates.T)]))
    pairs, taken, found = [], set(), set()
    for detection, target in candidates[order].tolist():
        if detection not in taken and target not in found:
            pairs.append((target, detection, float(overlaps[detection, target])))
            taken.add(detection)
            found.add(target)
    return pairs


def _by_image(coco, records, score_thresh):
    """{image id: (its objects but crowds, its records of at least that score that are not in a crowd)}."""
    by_image = {image_id: [] for image_id in coco.imgs}
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


def confusion_matrix(coco, records, score_thresh, iou_thresh=0.5):
    """int [C + 1, C + 1] in the order of the category ids: rows the ground truth, columns the detections; the last is background."""
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


def image_quality(coco, records, score_thresh, iou_thresh=0.5):
    """{image id: quality in [0, 1]} of the images with objects or detections: the sum of the true positives' IoU over
    true positives + false negatives / 2 + false positives / 2 (panoptic quality, Kirillov et al. 2019, on boxes)."""
    quality = {}
    for image_id, (ground_truth, detections) in _by_image(coco, records, score_thresh).items():
        overlaps = []
        for category_id in {record["category_id"] for record in ground_truth + detections}:
            of_class = [[record for record in part if record["category_id"] == category_id] for part in (ground_truth, detections)]
            overlaps += [overlap for _, _, overlap in match(*of_class, iou_thresh)]
        if ground_truth or detections:
            quality[image_id] = sum(overlaps) / ((len(ground_truth) + len(detections)) / 2)
    return quality


# ---------------------------------------------------------------- files


def results_of(mode):
    """The test for utils.keep_earlier whether a folder is that of such an evaluation's results."""
    return holds(f"{mode}_pred_result.json", f"{mode}_pred_eval.json")


@dataclass
class Results:
    """What was detected: the annotation file ("" without), images [(id, path)], COCO records, sentences about the images skipped."""

    annotation: str
    images: list
    records: list
    skipped: list

    def write(self, folder, mode):
        """Write <mode>_pred_result.json (images and records) and <mode>_pred_eval.json (records alone) into a folder."""
        write_json(os.path.join(folder, f"{mode}_pred_result.json"), {
            "annotation": os.path.abspath(self.annotation) if self.annotation else "",
            "images": [{"id": image_id, "file_name": os.path.abspath(path)} for image_id, path in self.images],
            "annotations": self.records, "skipped": self.skipped,
        })
        write_json(os.path.join(folder, f"{mode}_pred_eval.json"), self.records)


def score_and_write(folder, coco, records, name, extra, voc_metric=False):
    """Score records, write metrics.json with `extra` added into a folder; returns the tables, with the data set's name above them.

    voc_metric adds Pascal VOC's table and its numbers, VOC_mAP_07 (11 points) and VOC_mAP_area, with those of each class.
    """
    text, metrics = score(coco, records)
    text = f"overall performance on {name} validation dataset\n{text}\n{class_table(metrics)}"
    if voc_metric:
        result, objects = voc_scores.score(coco, records)
        for rule, key in (("11 points", "07"), ("area", "area")):
            metrics[f"VOC_mAP_{key}"], metrics[f"VOC_AP_{key}_per_class"] = voc_scores.mean(result[rule]), result[rule]
        text += f"\nPascal VOC, IoU {voc_scores.IOU}, without difficult objects\n{voc_scores.table(result, objects)}"
    write_json(os.path.join(folder, "metrics.json"), {**metrics, **extra})
    return text
