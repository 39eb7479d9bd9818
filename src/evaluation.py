"""Scoring COCO records with pycocotools, and the files of an evaluation."""
import contextlib
import io
import os

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from src.errors import UserError
from src.utils import write_json

METRIC_NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")


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


def _some(names, limit=8):
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def score(coco, records):
    """COCO's evaluation of records against coco: (its 12-line table, metrics).

    metrics: the twelve numbers by METRIC_NAMES, and AP_per_class and AP50_per_class {class name: value, None without objects}.
    """
    with contextlib.redirect_stdout(io.StringIO()) as table:
        if records:
            results = coco.loadRes(records)
        else:  # pycocotools cannot load an empty list
            results = COCO()
            results.dataset = {**coco.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        start = len(table.getvalue())
        evaluation.summarize()
    metrics = {name: float(value) for name, value in zip(METRIC_NAMES, evaluation.stats)}
    precision = evaluation.eval["precision"]  # [IoU, recall, class, area, detections]
    for key, values in (("AP_per_class", precision[:, :, :, 0, -1]), ("AP50_per_class", precision[:1, :, :, 0, -1])):
        metrics[key] = {}
        for place, category_id in enumerate(evaluation.params.catIds):
            of_class = values[:, :, place]
            known = of_class[of_class > -1]
            metrics[key][coco.cats[category_id]["name"]] = float(np.mean(known)) if known.size else None
    return table.getvalue()[start:].rstrip(), metrics


def write_records(folder, mode, split, images, records, skipped):
    """Write <mode>_pred_result.json (what was looked at and found) and <mode>_pred_eval.json (COCO records) into a folder.

    Args: split the dataset.Split of the images; images [(id, path)]; skipped sentences about those without records.
    """
    write_json(os.path.join(folder, f"{mode}_pred_result.json"), {
        "annotation": os.path.abspath(split.annotation) if split.annotation else "",
        "images": [{"id": image_id, "file_name": path} for image_id, path in images],
        "annotations": records, "skipped": skipped,
    })
    write_json(os.path.join(folder, f"{mode}_pred_eval.json"), records)


def score_and_write(folder, coco, records, name, extra):
    """Score records, write metrics.json with `extra` added into a folder; returns the table, with the data set's name above it."""
    table, metrics = score(coco, records)
    write_json(os.path.join(folder, "metrics.json"), {**metrics, **extra})
    return f"overall performance on {name} validation dataset\n{table}"
