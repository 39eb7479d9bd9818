"""The files of an evaluation."""
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.backups import contains_files
from ..core.files import write_json
from ..core.kinds import dict_with, dictionary_of, is_int64, is_number, is_string, list_of, or_none
from ..tasks import Task
from ..tasks.detection.thresholds import POINT

if TYPE_CHECKING:
    from pycocotools.coco import COCO

# Fields of metrics.json, further ones if eval.py wrote it or it has the best F1, and fields of val_pred_result.json.
SCORES = {"AP": is_number, "AP50": is_number,
          **dict.fromkeys(("AP_per_class", "AP50_per_class"), dictionary_of(or_none(is_number)))}
POINTS = {name: test for key in POINT for name, test in
          ((key, or_none(is_number)), (f"{key}_per_class", dictionary_of(or_none(is_number))))}
STAGES = ("images", "preparing", "computing", "finishing")
TIMES = {"images_per_second": is_number, "stage_seconds": dict_with(**dict.fromkeys(STAGES, is_number))}
FOUND = {
    "annotation": is_string, "images": list_of(dict_with(id=is_int64, file_name=is_string)),
    "annotations": list_of(dict_with(image_id=is_int64, category_id=is_int64, bbox=list_of(is_number, 4),
                                  score=is_number)),
}


def results_of(split: str) -> Callable[[str], bool]:
    """A test for backups.back_up_existing: whether a folder holds the results of an evaluation on this split."""
    return contains_files(f"{split}_pred_result.json", f"{split}_pred_eval.json")


@dataclass
class Results:
    """The outcome of detecting on a data set.

    task, the model's; annotation, the annotation file's path, or an empty string; images [(id, path)]; records, COCO
    records; skipped, a sentence for each image that was skipped; classes {category id: name}.
    """

    task: Task
    annotation: str
    images: list[tuple[int, str]]
    records: list[dict]
    skipped: list[str]
    classes: dict[int, str] = field(default_factory=dict)

    def write(self, folder: str, split: str) -> None:
        """Write <split>_pred_result.json (images and records), <split>_pred_eval.json (records only) and the task's
        further files into a folder."""
        write_json(os.path.join(folder, f"{split}_pred_result.json"), {
            "task": self.task.name, "annotation": os.path.abspath(self.annotation) if self.annotation else "",
            "images": [{"id": image_id, "file_name": os.path.abspath(path)} for image_id, path in self.images],
            "annotations": self.records, "skipped": self.skipped,
        })
        write_json(os.path.join(folder, f"{split}_pred_eval.json"), self.records)
        self.task.results.write_files(folder, self.images, self.records, self.classes)


def score_and_write(folder: str, task: Task, coco: "COCO", records: list[dict], name: str, extra: dict,
                    eval_config: Any) -> tuple[str, dict]:
    """Score records and write metrics.json, with `extra` added, into a folder; returns (the tables below a title line
    with the name of the data set and its split, "shapes validation", the content of metrics.json).

    eval_config.voc_metric adds the Pascal VOC table and its numbers: VOC_mAP_07 (11 points), VOC_mAP_area, and both per
    class.
    """
    text, metrics = task.scores.score(coco, records, eval_config)
    tables = f"{task.scores.class_table(metrics)}\n{task.scores.point_table(metrics)}"
    text = f"overall performance on {name} dataset\n{text}\n{tables}"
    if eval_config.voc_metric:
        table, values = task.scores.score_voc(coco, records)
        text, metrics = f"{text}\n{table}", {**metrics, **values}
    metrics |= extra
    write_json(os.path.join(folder, "metrics.json"), metrics)
    return text, metrics
