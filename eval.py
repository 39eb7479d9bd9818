"""Detect on the images of a COCO-format data set and score the detections."""
import os
import time

from src import errors
from src.model_utils.config import get_config


def main():
    config = get_config(__doc__)
    from src.model_utils.moxing_adapter import modelarts

    with modelarts(config, "data_dir"):
        evaluate(config)


def evaluate(config):
    """Detect, score and write what config asks for."""
    # MindSpore is slow to load, and not needed for --help or a wrong option.
    from src import dataset, evaluation, visual
    from src.engine import detect_all, load_detector
    from src.model_utils.device_adapter import set_device
    from src.post_process import coco_records
    from src.utils import keep_earlier, log, progress, write_json

    split = dataset.find_split(config.data_dir, config.run_mode, config.dataset_config)
    target = set_device(config.device_target, config.device_id, config.conv_allow_hf32, config.jit_level)
    detector, description = load_detector(config.load_checkpoint_path, config.eval_config.K, target, config.net_config.dcn_impl)
    coco = dataset.read_coco(split.annotation) if split.annotation else None
    images = dataset.image_list(split, coco)
    scoring = config.enable_eval and config.run_mode == "val"
    category_ids = evaluation.check_classes(description, coco, split.annotation) if scoring else description["category_ids"]
    if not images:
        raise errors.UserError(f"no images in {split.annotation or split.image_dir}")

    folder = keep_earlier(os.path.join(config.save_result_dir, config.run_mode))
    os.makedirs(folder)
    records, skipped = [], []
    start = time.time()
    for image_id, path, detections, problem in progress(detect_all(detector, images, config, description), "detecting", total=len(images)):
        if problem:
            skipped.append(f"image {image_id} ({path}): {problem}")
            continue
        records += coco_records(image_id, detections, category_ids, config.eval_config.round_scores)
        if config.visual_image:
            truth = dataset.truth_boxes(coco, image_id) if scoring else None
            visual.save_comparison(os.path.join(folder, "images", f"{image_id}.jpg"), path, detections, truth,
                                   description["classes"], config.eval_config.score_thresh)
    seconds = time.time() - start
    for problem in skipped:
        log(f"skipped {problem}")
    log(f"{len(images) - len(skipped)} images, {len(skipped)} skipped, {len(images) / seconds:.2f} images/s")

    write_json(os.path.join(folder, f"{config.run_mode}_pred_result.json"),
               {"images": [{"id": image_id, "file_name": path} for image_id, path in images], "annotations": records, "skipped": skipped})
    write_json(os.path.join(folder, f"{config.run_mode}_pred_eval.json"), records)
    if scoring:
        table, metrics = evaluation.score(coco, records)
        metrics.update(images=len(images), skipped=len(skipped), images_per_second=len(images) / seconds)
        write_json(os.path.join(folder, "metrics.json"), metrics)
        log(f"overall performance on {dataset.dataset_name(config.data_dir, coco)} validation dataset\n{table}")
    log(f"results: {folder}")


if __name__ == "__main__":
    errors.run(main)
