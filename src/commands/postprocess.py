"""Score the result files of offline (Ascend 310) inference; write detections in image pixels and the COCO metrics."""
import os
from typing import TYPE_CHECKING

from ..core import errors
from ..core.console import LOG, log_skipped, progress, show
from ..core.errors import UserError
from ..model_utils.config import Config, get_config

if TYPE_CHECKING:
    from ..data.coco import Split
    from ..tasks import Task


def main() -> None:
    config = get_config(__doc__, script="postprocess")
    LOG.info(config.summary())
    # Slow to load, and not needed for --help or a wrong option.
    from ..core.backups import require_ours
    from ..core.files import atomic_folder
    from ..data import coco as coco_files
    from ..evaluation import results, table
    from ..inference import offline
    from ..native.extensions import require_extensions
    from ..tasks import task_of
    from ..weights.side_file import checked_evaluation

    target = os.path.join(config.save_path, "val")
    require_ours(target, results.results_of("val"), option="--save_path")
    require_ours(os.path.join(config.save_path, table.TABLE), table.is_table, option="--save_path")
    errors.require_dir(config.result_path, "folder of results (--result_path)")
    meta = offline.read_meta(config.meta_path)
    task = task_of(meta)
    split, data_dir = find_labels(config, task)
    require_extensions()
    coco = coco_files.read_coco(split.annotation, split.image_dir, task)
    coco_files.check_expected(config, *coco_files.class_list(coco), split.annotation)
    coco_files.log_notes(coco)
    config.take(checked_evaluation(meta.get("evaluation", {}), config.meta_path), "the exported file")
    LOG.info(f"soft-NMS {str(config.eval_config.SOFT_NMS).lower()} ({config.origin('eval_config.SOFT_NMS')})")
    category_ids = coco_files.check_classes(meta, coco, split.annotation)
    coco_files.check_objects(coco, split.annotation)
    options = config.eval_config
    records, skipped = [], list(meta["skipped"])
    for entry in progress(meta["images"], "post-processing"):
        if entry["id"] not in coco.imgs:
            skipped.append(f"image {entry['id']}: not a usable image of {split.annotation}")
            continue
        path = os.path.join(config.result_path, offline.result_name(offline.input_name(entry["id"])))
        try:
            detections = offline.read_result(path, meta)
        except (OSError, ValueError) as error:
            skipped.append(f"image {entry['id']} ({path}): {errors.reason(error)}")
            continue
        detections = task.results.merge([task.results.to_image(detections, entry["view"])], options.SOFT_NMS, meta["K"])
        records += task.results.coco_records(entry["id"], detections, category_ids, options.round_scores)
    log_skipped(skipped)
    images = [(entry["id"], entry["file_name"]) for entry in meta["images"]]
    if not records:
        raise UserError(f"{config.result_path}: no usable result for any of the {len(images)} images")
    count = len(images) + len(meta["skipped"])
    extra = {"split": "val", "images": count, "skipped": len(skipped)}
    with atomic_folder(target, results.results_of("val")) as folder:
        classes = dict(zip(category_ids, meta["classes"]))
        results.Results(task, split.annotation, images, records, skipped, classes).write(folder, "val")
        LOG.info(f"{count - len(skipped)} images, {len(skipped)} skipped")
        dataset = f"{coco_files.dataset_name(data_dir, coco)} {coco_files.PARTS['val']}"
        text, metrics = results.score_and_write(folder, task, coco, records, dataset, extra, options)
        show(text)
    facts = {"split": "val", "checkpoint": config.result_path, "images": count}
    table.add_row(config.save_path, task, metrics, facts)
    show(f"results: {target}")


def find_labels(config: Config, task: "Task") -> tuple["Split", str]:
    """(The Split of --label_path, a data set's folder or an annotation file; the data set's folder). Raises
    UserError."""
    from ..data.coco import Split, find_split

    if os.path.isdir(config.label_path):
        return find_split(config.label_path, "val", config.dataset_config, task=task), config.label_path
    annotation = errors.require_file(config.label_path, "annotation file (--label_path)")
    return Split(annotation, ""), os.path.dirname(os.path.dirname(os.path.abspath(annotation)))
