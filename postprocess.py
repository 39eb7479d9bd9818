"""Score the result files of offline (Ascend 310) inference: boxes of the original images, COCO table."""
import os

from src.core import errors
from src.core.errors import UserError
from src.model_utils.config import get_config


def main():
    config = get_config(__doc__)
    print(config.summary(), flush=True)
    # Slow to load, and not needed for --help or a wrong option.
    from src.core.console import log, log_skipped, progress
    from src.core.files import whole_folder
    from src.core.kept import require_ours
    from src.data.coco import (
        Split,
        check_classes,
        check_expected,
        check_objects,
        class_list,
        dataset_name,
        find_split,
        log_notes,
        read_coco,
    )
    from src.evaluation import results
    from src.inference import offline
    from src.native.extensions import require_extensions
    from src.tasks.detection.results import coco_records, merge, to_image
    from src.weights.side_file import checked_evaluation

    target = os.path.join(config.save_path, "val")
    require_ours(target, results.results_of("val"), option="--save_path")
    errors.require_dir(config.result_path, "folder of results (--result_path)")
    meta = offline.read_meta(config.meta_path)
    if os.path.isdir(config.label_path):
        split, data_dir = find_split(config.label_path, "val", config.dataset_config), config.label_path
    else:
        annotation = errors.require_file(config.label_path, "annotation file (--label_path)")
        split, data_dir = Split(annotation, ""), os.path.dirname(os.path.dirname(os.path.abspath(annotation)))
    require_extensions()
    coco = read_coco(split.annotation, split.image_dir)
    check_expected(config, *class_list(coco), split.annotation)
    log_notes(coco)
    config.take(checked_evaluation(meta.get("evaluation", {}), config.meta_path), "the exported file")
    log(f"soft-NMS {str(config.eval_config.SOFT_NMS).lower()} ({config.origin('eval_config.SOFT_NMS')})")
    category_ids = check_classes(meta, coco, split.annotation)
    check_objects(coco, split.annotation)
    options = config.eval_config
    records, skipped = [], list(meta["skipped"])
    for entry in progress(meta["images"], "post-processing"):
        if entry["id"] not in coco.imgs:
            skipped.append(f"image {entry['id']}: not among the images of {split.annotation} that can be scored")
            continue
        path = os.path.join(config.result_path, offline.result_name(offline.input_name(entry["id"])))
        try:
            detections = offline.read_result(path, meta["K"], len(meta["classes"]))
        except (OSError, ValueError) as error:
            skipped.append(f"image {entry['id']} ({path}): {errors.reason(error)}")
            continue
        detections = merge([to_image(detections, entry["view"])], options.SOFT_NMS, meta["K"])
        records += coco_records(entry["id"], detections, category_ids, options.round_scores)
    log_skipped(skipped)
    images = [(entry["id"], entry["file_name"]) for entry in meta["images"]]
    if not records:
        raise UserError(f"{config.result_path}: no result of any of the {len(images)} images")
    extra = {"images": len(images) + len(meta["skipped"]), "skipped": len(skipped)}
    with whole_folder(target, results.results_of("val")) as folder:
        results.Results(split.annotation, images, records, skipped).write(folder, "val")
        log(f"{extra['images'] - len(skipped)} images, {len(skipped)} skipped")
        log(results.score_and_write(folder, coco, records, dataset_name(data_dir, coco), extra, options.voc_metric))
    log(f"results: {target}")


if __name__ == "__main__":
    errors.run(main)
