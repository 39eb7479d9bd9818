"""Precision, recall and F1 of boxes over the score threshold, and the threshold of the best F1."""
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from ...core.tables import table as text_table
from ...core.tables import truncate_middle
from .voc_scores import score_text

POINT = ("precision", "recall", "F1", "threshold")  # keys of metrics, and with _per_class dictionaries of the classes
TITLE = "Precision, recall and F1 of boxes (IoU 0.5) at the score threshold of the best F1"


@dataclass(frozen=True)
class Curve:
    """Counts over the score threshold.

    thresholds float [M], the distinct scores, highest first; true_positives and detections, int [M], the numbers of
    detections with at least that score, the first only of those that found an object; objects, the number of objects.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    detections: np.ndarray
    objects: int

    @property
    def precision(self) -> np.ndarray:
        """[M] shares of the detections that found an object."""
        return self.true_positives / self.detections

    @property
    def recall(self) -> np.ndarray:
        """[M] shares of the objects that were found; 0 without objects."""
        return self.true_positives / max(self.objects, 1)

    @property
    def f1(self) -> np.ndarray:
        """[M] harmonic means of precision and recall."""
        return 2 * self.true_positives / (self.detections + self.objects)

    def at(self, thresholds: np.ndarray) -> dict[str, np.ndarray]:
        """{"precision", "recall", "F1": [N]} at thresholds [N]; without detections precision is NaN, the others 0."""
        count = np.searchsorted(-self.thresholds, -np.asarray(thresholds), side="right")
        values = ((math.nan, self.precision), (0.0, self.recall), (0.0, self.f1))
        return {name: np.concatenate([[none], of_all])[count] for name, (none, of_all) in zip(POINT, values)}

    def best(self) -> dict[str, float | None]:
        """{"precision", "recall", "F1", "threshold"} of the best F1, of equal ones that of the highest threshold.

        All are None without objects. If no object is found at any threshold, the threshold is None, as is the precision
        without detections.
        """
        if not self.objects:
            return dict.fromkeys(POINT)
        if not self.f1.any():
            return {"precision": 0.0 if len(self.thresholds) else None, "recall": 0.0, "F1": 0.0, "threshold": None}
        place = int(self.f1.argmax())
        values = (self.precision, self.recall, self.f1, self.thresholds)
        return {name: float(of_all[place]) for name, of_all in zip(POINT, values)}


def count(scores: np.ndarray, found: np.ndarray, objects: int) -> Curve:
    """The Curve of detections with scores [M], of which those in the mask found [M] found an object, each another."""
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    last = np.flatnonzero(np.append(np.diff(scores), 1)[: len(scores)])  # of equal scores
    return Curve(scores[last], np.cumsum(found[order])[last], last + 1, objects)


def threshold_curves(evaluation: COCOeval) -> tuple[Curve, dict[str, Curve]]:
    """(the Curve of all classes together, {class name: its Curve}) of COCO's evaluation of boxes, at IoU 0.5.

    The matches are COCO's: the best 100 detections per image and class count, those in crowds do not. The first Curve
    counts detections of classes without objects, too.
    """
    params, names = evaluation.params, evaluation.cocoGt.cats
    images, areas = len(params.imgIds), len(params.areaRng)
    parts = []
    for index in range(len(params.catIds)):
        start = index * areas * images  # the entries of area "all" come first
        entries = [entry for entry in evaluation.evalImgs[start : start + images] if entry is not None]
        scores = np.concatenate([np.zeros(0), *(entry["dtScores"] for entry in entries)])
        counted = np.concatenate([np.zeros(0, bool), *(entry["dtIgnore"][0] == 0 for entry in entries)])
        found = np.concatenate([np.zeros(0, bool), *(entry["dtMatches"][0] > 0 for entry in entries)])
        objects = sum(int((np.array(entry["gtIgnore"]) == 0).sum()) for entry in entries)
        parts.append((scores[counted], found[counted], objects))
    curves = {names[number]["name"]: count(*part) for number, part in zip(params.catIds, parts)}
    scores, found, numbers = zip(*parts)
    return count(np.concatenate(scores), np.concatenate(found), sum(numbers)), curves


def best_points(evaluation: COCOeval) -> dict[str, Any]:
    """Metrics: POINT of all classes together, and <name>_per_class {class name: value}; see threshold_curves and
    Curve.best."""
    together, curves = threshold_curves(evaluation)
    points = {name: curve.best() for name, curve in curves.items()}
    per_class = {f"{key}_per_class": {name: point[key] for name, point in points.items()} for key in POINT}
    return together.best() | per_class


def of_boxes(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Those of detection's metrics that best_points adds, for tasks whose objects also have boxes."""
    return {name: metrics[name] for key in POINT for name in (key, f"{key}_per_class")}


def point_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Rows (class, *POINT) of best_points as text, the last of all classes; [] for metrics of earlier versions."""
    if "F1_per_class" not in metrics:
        return []
    rows = [[name, *(score_text(metrics[f"{key}_per_class"][name]) for key in POINT)]
            for name in metrics["F1_per_class"]]
    return [*rows, ["all", *(score_text(metrics[key]) for key in POINT)]]


def point_table(metrics: Mapping[str, Any], most: int) -> str:
    """point_rows as lines below TITLE; of more than `most` classes only those with the best and the worst F1."""
    *rows, last = point_rows(metrics)
    if len(rows) > most:
        rows.sort(key=lambda row: -(metrics["F1_per_class"][row[0]] or 0))
    recall = slice(2, 3)  # "-" without objects; precision and threshold also without true positives
    return f"{TITLE}\n{text_table(['class', *POINT], [*truncate_middle(rows, most, recall), last])}"
