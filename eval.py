"""Detect on the images of a COCO-format data set and score the detections."""
import os
import time

from src import errors
from src.mindspore_version import require_mindspore
from src.model_utils.config import get_config


def main():
    config = get_config(__doc__)
    print(config.summary(), flush=True)
    require_mindspore()
    from src.model_utils.moxing_adapter import modelarts

    with modelarts(config, "data_dir"):
        evaluate(config)


def evaluate(config):
    """Detect, score and write what config asks for."""
    from src.coco import check_expected, class_list, dataset_name, find_split, image_list, image_size, read_coco, truth_boxes
    from src.side_file import adopt_evaluation, read_side_file

    description = read_side_file(config.load_checkpoint_path)
    try:
        split = find_split(config.data_dir, config.run_mode, config.dataset_config)
    except errors.UserError as error:
        raise errors.UserError(f"{error} (run_mode is {config.run_mode}, from {config.origin('run_mode')})") from error
    # MindSpore is slow to load, and not needed for --help, a wrong option or a wrong path.
    from src import evaluation, visual
    from src.extensions import require_extensions
    from src.image_files import read_picture, read_size
    from src.inference import StageTimes, detect_all, load_detector
    from src.model_utils.device_adapter import set_device
    from src.post_process import coco_records
    from src.utils import free_name, keep_earlier, log, progress

    require_extensions()
    adopt_evaluation(config, description, "the side file")
    target = set_device(config.device_target, config.device_id, config.conv_allow_hf32, config.jit_level)
    detector = load_detector(config.load_checkpoint_path, config.eval_config, target, config.net_config.dcn_impl)
    description = detector.description
    coco = read_coco(split.annotation) if split.annotation else None
    images = image_list(split, coco)
    for note in coco.notes if coco else [f"no list of the images in {config.data_dir}/annotations: their ids are their places in the "
                                         f"order of the files' names in {split.image_dir}"]:
        log(note)
    scoring = config.enable_eval and config.run_mode == "val"
    category_ids = evaluation.check_classes(description, coco, split.annotation) if scoring else description["category_ids"]
    check_expected(config, *(class_list(coco) if scoring else (description["classes"], category_ids)),
                   split.annotation if scoring else "the side file")
    if scoring:
        evaluation.check_objects(coco, split.annotation)
    if not images:
        raise errors.UserError(f"no images in {split.annotation or split.image_dir}")

    folder = keep_earlier(os.path.join(config.save_result_dir, config.run_mode))
    os.makedirs(folder)
    found, skipped = {}, []
    times = StageTimes()
    start = time.perf_counter()
    sizes = {info["id"]: image_size(info) for info in coco.dataset["images"]} if coco else {}

    def load(item):
        return read_picture(item[1], sizes.get(item[0]), config.dataset_config.max_pixels)

    detecting = detect_all(detector, images, load, config, times, lambda item: sizes.get(item[0]) or read_size(item[1]))
    for detected in errors.until_interrupted(progress(detecting, "detecting", total=len(images))):
        image_id, path = detected.item
        if detected.problem:
            skipped.append(f"image {image_id} ({path}): {detected.problem}")
            continue
        found[image_id] = coco_records(image_id, detected.detections, category_ids, config.eval_config.round_scores)
        if config.visual_image:
            truth = truth_boxes(coco, image_id, category_ids) if scoring else None
            picture = visual.compare(detected.picture, detected.detections, truth, description["classes"], config.eval_config.score_thresh)
            visual.save_picture(os.path.join(folder, "images", f"{image_id}.jpg"), picture)
    seconds = time.perf_counter() - start
    for problem in skipped:
        log(f"skipped {problem}")
    log(f"{times.images} images, {len(skipped)} skipped, {times.summary(seconds)}")

    records = [record for image_id, _ in images for record in found.get(image_id, [])]
    if errors.INTERRUPTS.requested and times.images + len(skipped) < len(images):
        evaluation.write_records(folder, config.run_mode, split, [image for image in images if image[0] in found], records, skipped)
        os.rename(folder, unfinished := free_name(f"{folder}.unfinished"))
        raise errors.Interrupted(f"{len(found)} of {len(images)} images are detected, their records are in {unfinished}; nothing is "
                                 "scored, and the same command starts anew")
    evaluation.write_records(folder, config.run_mode, split, images, records, skipped)
    if scoring:
        extra = {"images": len(images), "skipped": len(skipped), "images_per_second": times.rate(seconds), "stage_seconds": vars(times)}
        name = dataset_name(config.data_dir, coco)
        log(evaluation.score_and_write(folder, coco, records, name, extra, config.eval_config.voc_metric))
    log(f"results: {folder}")


if __name__ == "__main__":
    errors.run(main)
