"""Detect objects in images, videos or a camera stream; write drawings, a COCO-style predictions.json and a CSV file.
With --save_txt, also write YOLO's label files."""
import argparse
import glob
import os
from collections.abc import Callable, Sequence

import numpy as np

from ..core import interrupts
from ..core.backups import require_ours
from ..core.console import LOG, log_skipped, show
from ..core.errors import UserError
from ..core.project import next_steps
from ..core.suggest import suggest
from ..data.coco import PARTS, find_split, image_list, log_notes, read_coco
from ..data.labels.formats import endings
from ..imaging.headers import IMAGE_ENDINGS
from ..inference.calibrations import USAGE, calibrations
from ..inference.files import PREDICTIONS, RECORD, PredictionFiles, detect_in_images, detect_in_video, is_camera
from ..inference.label_files import LabelFiles
from ..inference.models import uses_of
from ..inference.options import OptionParser, add_clip_option, add_model_options, device_options, open_model_of
from ..inference.predictor import NO_HEATMAP, Predictor
from ..model_utils.config import get_config, load_defaults
from ..tasks import task_of
from ..weights.run_folder import run_of

VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.heatmap and (options.exported or options.runtime != "auto"):
        raise UserError(f"--heatmap requires --load_checkpoint_path, without --runtime: {NO_HEATMAP}")
    model = open_model_of(options)
    calib_of = calibrations(options.calib, model.description)
    if options.split:
        sources, base, cameras = find_part(options, model.description)
        calib_of = calib_of if options.calib else cameras
    else:
        sources, base = find_sources(options.input)
    check_output(options.output, base)

    eval_options = {name: getattr(options, name)
                    for name in ("flip_test", "keep_res", "batch_size", "multi_scales", "depth_by_focal")
                    if getattr(options, name) is not None}
    predictor = Predictor(model, input_res=options.input_res, use_ema=options.use_ema, clip=options.clip == "true",
                          **device_options(options), **eval_options)
    LOG.info(predictor.settings)
    note = task_of(model.description).results.camera_note(model.description)
    if note and not options.calib:
        LOG.info(note)
    chosen = choose_classes(options.classes, predictor.classes)
    folder = options.output
    labels = os.path.join(folder, "labels")
    files = PredictionFiles(folder, predictor, chosen, options.score_thresh, calib_of,
                            LabelFiles(labels, model.description, options.save_conf) if options.save_txt else None,
                            options.split or "")
    with interrupts.INTERRUPTS.deferred():  # finish writing the results
        images = [path for path in sources if not is_video(path)]
        detect_in_images(files, images, base, options.max_pixels, options.heatmap)
        for path in sources:
            if is_video(path) and not interrupts.INTERRUPTS.requested:
                detect_in_video(files, path, options.max_frames, options.heatmap)
        files.close()
    log_skipped(files.skipped)
    if not files.images:
        if interrupts.INTERRUPTS.requested:
            raise interrupts.Interrupted("no results are written")
        raise UserError(f"{options.input}: none of {len(files.skipped)} files could be read; no results are written")
    part = f"{options.split} part of {options.input}: " if options.split else ""
    show(f"{part}{len(files.images)} images or frames, {len(files.annotations)} objects, {len(files.skipped)} skipped: "
         f"{folder}")
    if files.images and not files.annotations:
        LOG.info(f"no object with a score of {options.score_thresh} or more; see --score_thresh")
    if interrupts.INTERRUPTS.requested:
        raise interrupts.Interrupted(f"{folder} contains the results so far; "
                                     "the same command backs it up and starts over")
    further = [step for step in uses_of(run_of(model.path) or model.path) if step[0] != "tools/predict.py"]
    LOG.info(next_steps(*further))
    return 1 if files.skipped else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; defaults come from default_config.yaml. Raises UserError."""
    values, helps, _ = load_defaults()
    parser = OptionParser(description=__doc__,
                          epilog="Exit code: 1 if files were skipped, 2 if all were or for a wrong option.")
    add_model_options(parser)
    parser.add_argument("--input", required=True,
                        help="image, folder (searched recursively), pattern such as 'a/*.jpg', video, or camera number")
    parser.add_argument("--split", choices=[*PARTS],
                        help="detect in the images of this part of a COCO-format data set, whose folder is --input")
    parser.add_argument("--config_path", metavar="FILE", help="configuration of the data set, for --split")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--save_txt", action="store_true",
                        help="also write labels/<image>.txt in YOLO's form, a line \"class x y width height\" for each "
                             "object, in fractions of the image; a pose's keypoints follow")
    parser.add_argument("--save_conf", action="store_true", help="end these lines in the score (with --save_txt)")
    add_clip_option(parser)
    parser.add_argument("--score_thresh", type=float, default=values["eval_config.score_thresh"],
                        help="minimum score to draw and write (default: %(default)s)")
    parser.add_argument("--classes", metavar="A,B", help="detect only these classes (names, separated by commas)")
    parser.add_argument("--flip_test", nargs="?", const="true", help=helps["eval_config.flip_test"])
    parser.add_argument("--keep_res", nargs="?", const="true",
                        help="detect at each image's original size instead of fitting it into the input size")
    parser.add_argument("--input_res", type=int, nargs=2, metavar=("W", "H"),
                        help="input size to fit images into (default: the recipe's evaluation size)")
    parser.add_argument("--multi_scales", metavar="LIST",
                        help="scales to detect at and merge, such as \"[0.75, 1, 1.25]\"; without --keep_res, scales "
                             "above 1 zoom into the center of the image")
    parser.add_argument("--batch_size", type=int, help=helps["eval_config.batch_size"])
    parser.add_argument("--calib", nargs="+", metavar="FILE",
                        help=f"camera of the images, for 3D boxes: {USAGE} (default: the training's camera)")
    parser.add_argument("--depth_by_focal", nargs="?", const="true", help=helps["eval_config.depth_by_focal"])
    parser.add_argument("--heatmap", action="store_true",
                        help="also write each image or frame overlaid with its heatmap")
    parser.add_argument("--max_pixels", type=int, default=values["dataset_config.max_pixels"],
                        help="skip images with more than this many pixels (default: %(default)s)")
    parser.add_argument("--max_frames", type=int, help="stop after this many frames of a video or camera stream")
    options = parser.parse_args(argv)
    if not 0 <= options.score_thresh <= 1:
        raise UserError(f"--score_thresh is {options.score_thresh}; expected a number from 0 to 1")
    if options.max_frames is not None and options.max_frames < 1:
        raise UserError(f"--max_frames is {options.max_frames}; expected at least 1")
    if options.save_conf and not options.save_txt:
        raise UserError("--save_conf adds scores to the files of --save_txt; set that, too")
    if options.config_path and not options.split:
        raise UserError("--config_path describes the data set of --split; set that, too")
    return options


# ---------------------------------------------------------------- input and output


def is_video(path: str) -> bool:
    """Whether an input is a video or a camera."""
    return is_camera(path) or path.lower().endswith(VIDEO_ENDINGS)


def find_sources(text: str) -> tuple[list[str], str]:
    """Return ([paths or camera number], common folder) for --input. Raises UserError if nothing matches."""
    if is_camera(text):
        return [text], ""
    if os.path.isdir(text):
        found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(text) for name in names)
        results = tuple(os.path.join(os.path.dirname(path), "") for path in found if os.path.basename(path) == RECORD)
        found = [path for path in found if not path.startswith(results)]  # of an earlier run
        sources = [path for path in found if path.lower().endswith(IMAGE_ENDINGS + VIDEO_ENDINGS)]
        if not sources:
            raise UserError(f"no images or videos in {text}; it contains {endings(found)}")
        if others := sorted(set(found) - set(sources)):
            LOG.info(f"ignoring {len(others)} other files in {text}: {endings(others)}")
        return sources, text
    if os.path.isfile(text):
        return [text], os.path.dirname(text)
    sources = sorted(path for path in glob.glob(text, recursive=True) if os.path.isfile(path))
    if not sources:
        raise UserError(f"--input matches no file or folder: {text}")
    return sources, os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in sources])


def find_part(options: argparse.Namespace,
              description: dict) -> tuple[list[str], str, Callable[[str], np.ndarray | None]]:
    """Return ([image paths], common folder, a function: path -> its camera) for --split of the data set --input.

    Raises UserError if the data set has no such part, or if it has no images.
    """
    config = get_config(__doc__, ["--config_path", options.config_path] if options.config_path else [])
    task = task_of(description)
    split = find_split(options.input, options.split, config.dataset_config, "--input", task)
    coco = read_coco(split.annotation, split.image_dir) if split.annotation else None
    if coco:
        log_notes(coco)
    images = image_list(split, coco)
    if not images:
        raise UserError(f"no images in {split.annotation or split.image_dir}")
    LOG.info(f"detecting in the {PARTS[options.split]} images of {options.input}: {len(images)}, "
             f"{split.annotation or split.image_dir}")
    entries = {path: coco.imgs[image_id] for image_id, path in images} if coco else {}
    return [path for _, path in images], split.image_dir, lambda path: (
        task.results.camera_of(entries[path]) if path in entries else None)


def check_output(folder: str, base: str) -> None:
    """Raise UserError unless the output folder is new, empty or of an earlier run, and does not contain the input."""
    if os.path.join(os.path.realpath(base), "").startswith(os.path.join(os.path.realpath(folder), "")):
        raise UserError(f"--output {folder} holds the input; choose another folder")
    require_ours(folder, PREDICTIONS, option="--output")


def choose_classes(text: str | None, classes: Sequence[str]) -> list[int]:
    """Return the labels of the classes named in text, or of all classes if it is empty.

    Raises UserError for an unknown name, with the nearest known one.
    """
    if not text:
        return list(range(len(classes)))
    chosen = []
    for name in map(str.strip, text.split(",")):
        if name not in classes:
            near, known = suggest(name, classes), ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
            hint = f"did you mean {near!r}?" if near else f"its classes are {known}"
            raise UserError(f"--classes: the model has no class {name!r}; {hint}")
        chosen.append(classes.index(name))
    return chosen
