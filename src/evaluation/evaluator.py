"""Evaluation of a detector on a data set: detect, draw, write, score."""
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import errors, interrupts
from ..core.backups import free_name
from ..core.console import LOG, log_skipped, progress
from ..core.files import atomic_folder
from ..data.coco import (
    PARTS,
    Split,
    check_classes,
    check_expected,
    check_objects,
    class_list,
    dataset_name,
    find_split,
    has_objects,
    image_list,
    image_size,
    log_notes,
    read_coco,
)
from ..data.objects import ground_truth
from ..imaging import drawing
from ..imaging.reading import read_image, read_size
from ..inference.pipeline import StageTimes, detect_all
from ..model_utils.combinations import is_scored
from ..model_utils.config import Config
from ..tasks import Task, task_of
from ..tasks.pictures import compare
from .results import Results, results_of, score_and_write
from .table import add_row


@dataclass
class EvaluationSet:
    """The images to evaluate a model on.

    task, the model's; coco, the COCO annotations, or None; annotation, their file's path, or an empty string;
    image_dir, the folder of the images; images [(id, path)]; scoring, whether detections are scored; category_ids, one
    for each of the model's classes; split, the name of the part of the data set.
    """

    task: Task
    coco: Any
    annotation: str
    image_dir: str
    images: list[tuple[int, str]]
    scoring: bool
    category_ids: list[int]
    split: str = "val"

    def ground_truth(self, image_id: int, metainfo: dict) -> np.ndarray | None:
        """Rows [M, D] of an image's objects, see objects.ground_truth; None if detections are not scored."""
        return ground_truth(self.task, self.coco, image_id, self.category_ids, metainfo) if self.scoring else None


def read_evaluation_set(split: Split, description: dict, config: Config) -> EvaluationSet:
    """Return the EvaluationSet of a Split for a model's description.

    Raises UserError if the data set's classes differ from the model's, or if there are no images.
    """
    task = task_of(description)
    scoring, coco = read_annotations(split, task, is_scored(config))
    images = image_list(split, coco)
    if coco:
        log_notes(coco)
    else:
        LOG.info(f"no image list in {config.data_dir}/annotations: images are numbered by file name in "
                 f"{split.image_dir}")
    if scoring:
        category_ids = check_annotations(coco, split.annotation, description, config)
    else:
        category_ids = description["category_ids"]
        check_expected(config, description["classes"], category_ids, "the side file")
        if note := task.results.camera_note(description):
            LOG.info(note)
    if not images:
        raise errors.UserError(f"no images in {split.annotation or split.image_dir}")
    return EvaluationSet(task, coco, split.annotation, split.image_dir, images, scoring, category_ids, split.name)


def read_annotations(split: Split, task: Task, wanted: bool) -> tuple[bool, Any]:
    """(whether detections in a Split are scored, its COCO annotations, or None), if scores are wanted.

    Test images may have no annotations; others must. A list of images has no fields of the task.
    """
    if split.name == "test":
        coco = read_coco(split.annotation, split.image_dir) if split.annotation else None
        if wanted and not (coco and has_objects(coco)):
            LOG.info(f"{split.annotation or split.image_dir} has no annotated objects: detections in the test images "
                     "are written without scores")
            wanted = False
        if not wanted:
            return False, coco
    return wanted, read_coco(split.annotation, split.image_dir, task if wanted else None)


def check_annotations(coco: Any, annotation: str, description: dict, config: Config) -> list[int]:
    """The category id of each of the model's classes in an annotation file that detections are scored against.

    Raises UserError, with a line for each problem: other classes than the model's or the configuration's, no objects.
    """
    problems = errors.Problems()
    category_ids: list[int] = []
    with problems:
        task_of(description).scores.check(description, config.eval_config)
    with problems:
        category_ids = check_classes(description, coco, annotation)
    with problems:
        check_expected(config, *class_list(coco), annotation)
    with problems:
        check_objects(coco, annotation)
    problems.raise_all()
    return category_ids


def check_scoring(config: Config) -> None:
    """Raise UserError, with a line for each, for settings that contradict an evaluation during training."""
    problems = errors.Problems()
    with problems:
        if config.patience and not config.eval_epochs:
            raise errors.UserError(f"patience is {config.patience}, but nothing is evaluated: set eval_epochs and "
                                   "data_dir; --eval_epochs 2 evaluates after every second epoch")
    with problems:
        if config.eval_epochs and not config.data_dir:
            raise errors.UserError(f"eval_epochs is {config.eval_epochs}, but no data set to evaluate on is given "
                                   "(--data_dir)")
    with problems:
        if config.eval_epochs and not is_scored(config):
            raise errors.UserError(f"eval_epochs is {config.eval_epochs}, but run_mode is {config.run_mode} and "
                                   f"enable_eval is {config.enable_eval}; scoring needs val and true")
    problems.raise_all()


def scoring_set(config: Config, description: dict) -> EvaluationSet | None:
    """Return the EvaluationSet for scoring a training with the classes of a description; None if eval_epochs is 0.

    Raises UserError.
    """
    check_scoring(config)
    if not config.eval_epochs:
        return None
    split = find_split(config.data_dir, "val", config.dataset_config, task=task_of(description))
    eval_set = read_evaluation_set(split, description, config)
    if not any(os.path.isfile(path) for _, path in eval_set.images):
        raise errors.UserError(f"none of the {len(eval_set.images)} images of {eval_set.annotation} is in "
                               f"{eval_set.image_dir}; "
                               "dataset_config.val_image_dir sets another folder")
    task, metric = eval_set.task, config.best_metric
    # Scoring takes a quarter of a minute on COCO, even without detections.
    if metric in task.optional_metrics and task.scores.score(eval_set.coco, [], config.eval_config)[1][metric] < 0:
        raise errors.UserError(f"best_metric is {config.best_metric}, but {eval_set.annotation} has no objects that it "
                               f"measures ({task.metrics[metric]}); choose another metric")
    return eval_set


def evaluate(detector: Any, eval_set: EvaluationSet, config: Config,
             report: Callable[[str], None] = LOG.info) -> None:
    """Detect on an EvaluationSet and write the results into save_result_dir; pass scores and folder to `report`.

    Raises Interrupted, with the results so far kept, and UserError if no image can be read.
    """
    split = eval_set.split
    target = os.path.join(config.save_result_dir, split)
    LOG.info(f"detecting in the {PARTS[split]} images of {config.data_dir}")
    with atomic_folder(target, results_of(split)) as folder:
        start = time.perf_counter()
        results, times = detect(detector, eval_set, config, folder)
        seconds = time.perf_counter() - start
        log_skipped(results.skipped)
        require_readable(len(results.skipped), eval_set)
        LOG.info(f"{times.images} images, {len(results.skipped)} skipped, {times.summary(seconds)}")
        results.write(folder, split)
        if len(results.images) < len(eval_set.images):
            os.rename(folder, unfinished := free_name(f"{target}.unfinished"))
            done = f"{len(results.images)} of {len(eval_set.images)}"
            raise interrupts.Interrupted(f"stopped after {done} images; unscored "
                                         f"results in {unfinished}; run the same command to start over")
        if eval_set.scoring:
            extra = {"split": split, "images": len(eval_set.images), "skipped": len(results.skipped),
                     "images_per_second": times.rate(seconds), "stage_seconds": vars(times)}
            name = f"{dataset_name(config.data_dir, eval_set.coco)} {PARTS[split]}"
            text, metrics = score_and_write(folder, eval_set.task, eval_set.coco, results.records, name, extra,
                                            config.eval_config)
            report(text)
    if eval_set.scoring:
        facts = {name: detector.description.get(name, "") for name in ("epoch", "step")}
        facts |= {"split": split, "checkpoint": config.load_checkpoint_path, "images": len(eval_set.images)}
        add_row(config.save_result_dir, eval_set.task, metrics, facts)
    if results.skipped:
        LOG.warning(f"warning: {len(results.skipped)} of {len(eval_set.images)} images were skipped"
                    f"{' and count as images without detections' if eval_set.scoring else ''}")
    report(f"results: {target}")


def require_readable(unread: int, eval_set: EvaluationSet) -> None:
    """Raise UserError if none of an EvaluationSet's images could be read; unread, the number of unreadable ones."""
    if unread == len(eval_set.images):
        raise errors.UserError(f"none of the {unread} images in {eval_set.image_dir} could be read; no results are "
                               "written")


def detect(detector: Any, eval_set: EvaluationSet, config: Config,
           folder: str | None = None) -> tuple[Results, StageTimes]:
    """Detect in the images of an EvaluationSet; after an interrupt the results hold only the images that are done.

    With a folder and visual_image, the images are drawn into folder/images under their file names.
    """
    sizes = {info["id"]: image_size(info) for info in eval_set.coco.dataset["images"]} if eval_set.coco else {}
    file_names = drawing.drawing_paths([os.path.relpath(path, eval_set.image_dir) for _, path in eval_set.images])
    names = {image_id: name for (image_id, _), name in zip(eval_set.images, file_names)}
    records: dict[int, list[dict]] = {}
    skipped, times = [], StageTimes()

    def load(item: tuple[int, str]) -> np.ndarray:
        return read_image(item[1], sizes.get(item[0]), config.dataset_config.max_pixels)

    def size_of(item: tuple[int, str]) -> tuple[int, int] | None:
        return sizes.get(item[0]) or read_size(item[1])

    def calib_of(item: tuple[int, str]) -> np.ndarray | None:
        return eval_set.task.results.camera_of(eval_set.coco.imgs[item[0]]) if eval_set.coco else None

    detecting = detect_all(detector, eval_set.images, load, config, times, size_of, calib_of)
    for detected in interrupts.until_interrupted(progress(detecting, "detecting", total=len(eval_set.images))):
        image_id, path = detected.item
        if detected.problem:
            skipped.append(f"image {image_id} ({path}): {detected.problem}")
            continue
        rows = detected.detections
        records[image_id] = eval_set.task.results.coco_records(image_id, rows, eval_set.category_ids,
                                                           config.eval_config.round_scores)
        if config.visual_image and folder:
            drawn = compare(eval_set.task, detected.image, rows, eval_set.ground_truth(image_id, detector.description),
                            detector.description, config.eval_config.score_thresh)
            drawing.save_image(os.path.join(folder, "images", names[image_id]), drawn)
    unfinished = len(records) + len(skipped) < len(eval_set.images)
    images = [image for image in eval_set.images if image[0] in records] if unfinished else eval_set.images
    in_order = [record for image_id, _ in images for record in records.get(image_id, [])]
    classes = dict(zip(eval_set.category_ids, detector.description["classes"]))
    return Results(eval_set.task, eval_set.annotation, images, in_order, skipped, classes), times
