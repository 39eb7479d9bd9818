"""Detect in pictures, folders of them, videos or a camera; writes pictures with boxes, a COCO-style predictions.json and a CSV."""
import contextlib
import csv
import difflib
import functools
import glob
import itertools
import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from src import errors
from src.errors import UserError
from src.mindspore_version import require_mindspore
from src.model_utils.config import load_defaults
from src.options import OptionParser, add_model_options, check_model_options

VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
WRITABLE = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
RECORD, TABLE = "predictions.json", "predictions.csv"


def main(argv=None):
    options = parse(argv)
    require_mindspore()
    if options.heatmap and options.mindir:
        raise UserError("an exported file ends in detections and has no heatmap: --heatmap needs --load_checkpoint_path")
    sources, base = find_sources(options.input)
    check_model_options(options)
    check_output(options.output, base)

    # What is slow to load is loaded when there is something to do.
    from src.predictor import Predictor
    from src.utils import keep_earlier, log

    eval_options = {name: getattr(options, name) for name in ("flip_test", "keep_res", "batch_size", "multi_scales")
                    if getattr(options, name) is not None}
    model = options.load_checkpoint_path or options.mindir
    predictor = Predictor(model, options.device_target, options.device_id, options.input_res, **eval_options)
    chosen = choose_classes(options.classes, predictor.classes)
    folder = options.output
    if os.path.isdir(folder) and os.listdir(folder):
        keep_earlier(folder)
    os.makedirs(folder, exist_ok=True)
    record = Record(folder, predictor, chosen, options)
    with errors.INTERRUPTS.noted():  # what is found is written whole
        record.pictures([path for path in sources if not is_video(path)], base)
        for path in sources:
            if is_video(path) and not errors.INTERRUPTS.requested:
                record.video(path)
        record.close()
    for problem in record.skipped:
        log(f"skipped {problem}")
    log(f"{len(record.images)} pictures or frames, {len(record.annotations)} objects, {len(record.skipped)} skipped: {folder}")
    if errors.INTERRUPTS.requested:
        raise errors.Interrupted(f"{folder} holds what was found until then; the same command starts anew, and keeps that folder aside")
    return 1 if record.skipped else 0


def parse(argv):
    """The command line; defaults that default_config.yaml has are taken from there."""
    values, helps, _ = load_defaults()
    parser = OptionParser(description=__doc__, epilog="Exit code 1 if a file was skipped, 2 for a mistake in the options.")
    add_model_options(parser)
    parser.add_argument("--input", required=True,
                        help="image, folder (with all folders in it), pattern such as 'a/*.jpg', video, or number of a camera")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--score_thresh", type=float, default=values["eval_config.score_thresh"],
                        help="smallest score that is drawn and written (default: %(default)s)")
    parser.add_argument("--classes", metavar="A,B", help="only these classes, names separated by commas")
    parser.add_argument("--flip_test", nargs="?", const="true", help=helps["eval_config.flip_test"])
    parser.add_argument("--keep_res", nargs="?", const="true",
                        help="detect at each image's own size; else each is fitted into the size that the recipe evaluates at")
    parser.add_argument("--input_res", type=int, nargs=2, metavar=("W", "H"), help="size to fit into, if not that")
    parser.add_argument("--multi_scales", metavar="LIST", help="scales to detect at and merge, such as \"[0.75, 1, 1.25]\"; "
                        "without --keep_res a scale above 1 zooms into the middle of the picture")
    parser.add_argument("--batch_size", type=int, help=helps["eval_config.batch_size"])
    parser.add_argument("--heatmap", action="store_true", help="write the heatmap over each picture or frame, too")
    parser.add_argument("--max_pixels", type=int, default=values["dataset_config.max_pixels"],
                        help="largest picture; a larger one is skipped (default: %(default)s)")
    parser.add_argument("--max_frames", type=int, help="stop after this many frames of a video or camera")
    options = parser.parse_args(argv)
    if not 0 <= options.score_thresh <= 1:
        raise UserError(f"--score_thresh is {options.score_thresh}; expected a number from 0 to 1")
    if options.max_frames is not None and options.max_frames < 1:
        raise UserError(f"--max_frames is {options.max_frames}; expected at least 1")
    return options


# ---------------------------------------------------------------- input and output


def is_camera(path):
    """Whether an input names a camera."""
    return path.isdecimal() and not os.path.exists(path)


def is_video(path):
    """Whether an input is a video or a camera."""
    return is_camera(path) or path.lower().endswith(VIDEO_ENDINGS)


def find_sources(text):
    """(paths of files, or a camera's number, and the folder they all lie in) of --input. Raises UserError if there is nothing."""
    from src.coco import IMAGE_ENDINGS

    if is_camera(text):
        return [text], ""
    if os.path.isdir(text):
        found = sorted(os.path.join(folder, name) for folder, _, names in os.walk(text) for name in names)
        results = tuple(os.path.join(os.path.dirname(path), "") for path in found if os.path.basename(path) == RECORD)
        found = [path for path in found if not path.startswith(results)]  # of an earlier call
        sources = [path for path in found if path.lower().endswith(IMAGE_ENDINGS + VIDEO_ENDINGS)]
        if not sources:
            raise UserError(f"no images or videos in {text} ({len(found)} other files)")
        return sources, text
    if os.path.isfile(text):
        return [text], os.path.dirname(text)
    sources = sorted(path for path in glob.glob(text, recursive=True) if os.path.isfile(path))
    if not sources:
        raise UserError(f"no file, folder or pattern that matches: {text}")
    return sources, os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in sources])


def check_output(folder, base):
    """Raise UserError unless the output folder is new, empty, or of an earlier call."""
    if os.path.join(os.path.realpath(base), "").startswith(os.path.join(os.path.realpath(folder), "")):
        raise UserError(f"--output {folder} holds the input; name another folder")
    if os.path.isdir(folder) and os.listdir(folder):
        if not any(os.path.exists(os.path.join(folder, name)) for name in (RECORD, TABLE)):
            raise UserError(f"--output {folder} holds other files; name a new folder")
    elif os.path.lexists(folder) and not os.path.isdir(folder):
        raise UserError(f"--output {folder} is no folder")


def choose_classes(text, classes):
    """Labels of the classes named in text, of all without. Raises UserError with the nearest name for an unknown one."""
    if not text:
        return list(range(len(classes)))
    chosen = []
    for name in (part.strip() for part in text.split(",")):
        if name not in classes:
            near = difflib.get_close_matches(name, classes, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}"
            raise UserError(f"--classes: the model has no class {name!r}; {hint}")
        chosen.append(classes.index(name))
    return chosen


# ---------------------------------------------------------------- results


class Record:
    """Detects, draws, and collects what was found; the files in folder appear with close(), the CSV grows as it goes."""

    def __init__(self, folder, predictor, chosen, options):
        self.folder, self.predictor, self.chosen, self.options = folder, predictor, chosen, options
        self.images, self.annotations, self.skipped = [], [], []
        # A file's name that is no text goes in as the bytes it is.
        self.file = open(os.path.join(folder, TABLE), "w", encoding="utf-8", errors="surrogateescape", newline="")
        self.csv = csv.writer(self.file)
        self.csv.writerow(["file", "frame", "class", "score", "x1", "y1", "x2", "y2"])

    def pictures(self, paths, base):
        """Detect in image files; the pictures drawn keep their place below base."""
        from src.image_files import read_picture, read_size
        from src.inference import detect_all
        from src.utils import progress
        from src.visual import save_picture

        config = self.predictor.config
        load = functools.partial(read_picture, max_pixels=self.options.max_pixels)
        detecting = detect_all(self.predictor.detector, paths, load, config, size_of=read_size)
        for detected in progress(detecting, "detecting", total=len(paths)):
            path = detected.item
            if detected.problem:
                self.skipped.append(f"{path}: {detected.problem}")
                continue
            drawn = self.add({"file_name": path}, detected)
            name = os.path.relpath(path, base or ".")
            if not name.lower().endswith(WRITABLE):
                name += ".png"
            save_picture(os.path.join(self.folder, "images", name), drawn)
            if self.options.heatmap:
                save_picture(os.path.join(self.folder, "heatmaps", name), self.heatmap(detected.picture))
            if errors.INTERRUPTS.requested:
                return

    def video(self, path):
        """Detect in a video's or a camera's frames, until an interrupt (Ctrl-C): the end of a camera."""
        import cv2

        from src.inference import detect_all
        from src.utils import free_name, progress

        capture = cv2.VideoCapture(int(path) if is_camera(path) else path)
        if not capture.isOpened():
            what = "no such camera, or it is in use" if is_camera(path) else "not a video that OpenCV can read"
            self.skipped.append(f"{path}: {what}")
            return
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        total = 0 if is_camera(path) else max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        total = min(total, self.options.max_frames) if self.options.max_frames and total else total
        frames = read_frames(capture, self.options.max_frames)
        first = next(frames, None)
        if first is None:
            self.skipped.append(f"{path}: no frame can be read")
            return
        name = f"camera{path}" if is_camera(path) else os.path.splitext(os.path.basename(path))[0]
        target = free_name(os.path.join(self.folder, "videos", f"{name}.mp4"))
        size = (first[1].shape[1], first[1].shape[0])
        done = 0
        detecting = detect_all(self.predictor.detector, itertools.chain([first], frames), lambda item: item[1], self.predictor.config)
        with contextlib.ExitStack() as until_end:
            until_end.callback(capture.release)
            write = until_end.enter_context(video_writer(target, rate, size))
            if self.options.heatmap:
                heatmaps = free_name(os.path.join(self.folder, "heatmaps", f"{name}.mp4"))
                write_heatmap = until_end.enter_context(video_writer(heatmaps, rate, size))
            for detected in progress(detecting, os.path.basename(target), total=total or None):
                frame = detected.item[0]
                write(self.add({"file_name": path, "frame": frame, "seconds": round(frame / rate, 3)}, detected))
                if self.options.heatmap:
                    write_heatmap(self.heatmap(detected.picture))
                done += 1
                if errors.INTERRUPTS.requested:
                    return
        if done < 0.9 * total:  # what a file says of its length is not always exact
            self.skipped.append(f"{path}: only {done} of {total} frames can be read")

    def add(self, source, detected):
        """Record what was found in a picture; returns the picture with it drawn."""
        import numpy as np

        from src.post_process import coco_records
        from src.predictor import as_prediction
        from src.visual import draw_detections

        found = as_prediction(detected.detections, self.predictor.classes)
        found = found.above(self.options.score_thresh)
        found = found.keep(np.isin(found.labels, self.chosen))
        height, width = detected.picture.shape[:2]
        self.images.append({"id": len(self.images) + 1, **source, "width": width, "height": height})
        category_ids = self.predictor.detector.description["category_ids"]
        for record in coco_records(len(self.images), found.detections(), category_ids):
            area = record["bbox"][2] * record["bbox"][3]
            self.annotations.append({"id": len(self.annotations) + 1, **record, "area": area, "iscrowd": 0})
        for (x1, y1, x2, y2), score, name in zip(found.boxes, found.scores, found.class_names):
            self.csv.writerow([source["file_name"], source.get("frame", ""), name, f"{score:.4f}", *(f"{v:.2f}" for v in (x1, y1, x2, y2))])
        self.file.flush()
        return draw_detections(detected.picture, found.detections(), self.predictor.classes)

    def heatmap(self, picture):
        """A picture under its heatmap."""
        from src.visual import overlay_heatmap

        return overlay_heatmap(picture, *self.predictor.heatmap(picture))

    def close(self):
        """Write the COCO-style file."""
        from src.utils import write_json

        self.file.close()
        description = self.predictor.detector.description
        categories = [{"id": number, "name": name} for number, name in zip(description["category_ids"], description["classes"])]
        write_json(os.path.join(self.folder, RECORD), {"images": self.images, "annotations": self.annotations, "categories": categories,
                                                       "skipped": self.skipped})


@contextlib.contextmanager
def video_writer(path, rate, size):
    """A function that adds a BGR frame to the video at path, of rate frames a second and size (width, height); it appears whole."""
    import cv2

    from src.utils import whole_file

    os.makedirs(os.path.dirname(path), exist_ok=True)
    with whole_file(path) as partial:
        writer = cv2.VideoWriter(partial, cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
        if not writer.isOpened():
            raise UserError(f"{path}: OpenCV cannot write a video here")
        try:
            yield writer.write
        finally:
            writer.release()


def read_frames(capture, limit):
    """(number, BGR frame) of a video or camera, until it ends or the limit is reached."""
    number = 0
    while limit is None or number < limit:
        good, frame = capture.read()
        if not good:
            return
        yield number, frame
        number += 1


if __name__ == "__main__":
    errors.run(main)
