"""Detection's scores, and the share of objects whose detected brightness is off by at most 0.1."""
import numpy as np

from src.tasks.detection import scores
from src.tasks.detection.scores import (
    QUALITY,
    check,
    class_table,
    confusion_matrix,
    evaluate,
    image_quality,
    point_table,
    score_voc,
    tables,
    threshold_curves,
)

__all__ = ["QUALITY", "check", "class_table", "confusion_matrix", "evaluate", "image_quality", "point_table",
           "score_voc", "tables", "threshold_curves"]


def score(coco, records, eval_config=None):
    text, metrics = scores.score(coco, records)
    right = []
    for image_id, annotations in coco.imgToAnns.items():
        found = [record for record in records if record["image_id"] == image_id]
        for target, detection, _ in scores.match(annotations, found):
            right.append(np.abs(np.subtract(found[detection]["light"], annotations[target]["light"])).mean() <= 0.1)
    metrics["light_right"] = sum(right) / len(coco.anns)
    return f"{text}\n right brightness = {metrics['light_right']:.3f}", metrics
