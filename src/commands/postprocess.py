"""Score the result files of offline (Ascend 310) inference; write detections in image pixels and the COCO metrics."""
import os

from ..core import errors
from ..core.console import LOG, log_skipped, progress, show
from ..core.errors import UserError
from ..model_utils.config import get_config


def main() -> None:
    config = get_config(__doc__, script="postprocess")
    LOG.info(config.summary())
    # Slow to load, and not needed for --help or a wrong option.
    from ..core.backups import require_ours
    from ..core.files import atomic_folder
    from ..data import coco as coco_files
    from ..evaluation import results
    from ..inference import offline
    from ..native.extensions import require_extensions
    from ..tasks import task_of
    from ..weights.side_file import checked_evaluation

    target = os.path.join(config.save_path, "val")
    require_ours(target, results.results_of("val"), option="--save_path")
    errors.require_dir(config.result_path, "folder of results (--result_path)")
    meta = offline.read_meta(config.meta_path)
    if os.path.isdir(config.label_path):
        split = coco_files.find_split(config.label_path, "val", config.dataset_config, task=task_of(meta))
        data_dir = config.label_path
    else:
        annotation = errors.require_file(config.label_path, "annotation file (--label_path)")
        split = coco_files.Split(annotation, "")
        data_dir = os.path.dirname(os.path.dirname(os.path.abspath(annotation)))
    require_extensions()
    task = task_of(meta)
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
        show(results.score_and_write(folder, task, coco, records, dataset, extra, options))
    show(f"results: {target}")
