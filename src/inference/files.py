"""Detection in image files, videos and cameras; its output: drawings, a COCO-style file, a CSV."""
import contextlib
import csv
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

import cv2
import numpy as np

from ..core import errors, interrupts
from ..core.backups import back_up_existing, contains_files, free_name
from ..core.console import progress
from ..core.errors import UserError
from ..core.files import atomic_write, write_json
from ..imaging.drawing import drawing_paths, enlarged, overlay_heatmap, save_image
from ..imaging.reading import read_image, read_size
from ..tasks import rows as row
from ..tasks import task_of
from ..tasks.pictures import draw
from .label_files import LabelFiles
from .pipeline import Detected, detect_all
from .predictor import Predictor

RECORD, TABLE = "predictions.json", "predictions.csv"
PREDICTIONS = contains_files(RECORD, TABLE)  # a test for back_up_existing: whether a folder is an earlier run's


class PredictionFiles:
    """Writes the detections of the chosen labels with at least score_thresh: TABLE row by row, RECORD at close().

    calib_of(path), the camera of an input, see calibrations.py; labels, the LabelFiles to write, too, if any; split,
    the name of the part of a data set that the images are, recorded in RECORD.
    begin() creates the folder, at the first image, and backs up an earlier run's.
    """

    def __init__(self, folder: str, predictor: Predictor, chosen: Sequence[int], score_thresh: float,
                 calib_of: Callable[[str], np.ndarray | None] = lambda path: None, labels: LabelFiles | None = None,
                 split: str = ""):
        self.folder, self.predictor, self.chosen, self.score_thresh = folder, predictor, chosen, score_thresh
        self.calib_of, self.labels, self.split = calib_of, labels, split
        self.description = predictor.detector.description
        self.task = task_of(self.description)
        self.results = self.task.results
        self.images: list[dict] = []
        self.annotations: list[dict] = []
        self.skipped: list[str] = []
        self.file: TextIO | None = None
        self.csv: Any = None

    def begin(self) -> None:
        """Create the folder and the table unless they exist."""
        if self.file:
            return
        os.makedirs(back_up_existing(self.folder, PREDICTIONS), exist_ok=True)
        # File names that are not valid UTF-8 are written byte for byte.
        path = os.path.join(self.folder, TABLE)
        self.file = open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")
        self.csv = csv.writer(self.file)
        self.csv.writerow(["file", "frame", "class", "score", *self.results.table_columns(self.description)])
        if self.labels:
            self.labels.begin()

    def add(self, source: dict, detected: Detected, label_name: str) -> np.ndarray:
        """Record the detections in an image, whose origin source describes; label_name, see LabelFiles.add. Returns
        the image with its boxes drawn."""
        self.begin()
        assert self.file and detected.image is not None and detected.detections is not None
        height, width = detected.image.shape[:2]
        rows = row.best_first(self.predictor.in_image(detected.detections, (width, height)))
        rows = rows[(row.scores(rows) >= self.score_thresh) & np.isin(row.labels(rows), self.chosen)]
        calib = self.calib_of(source["file_name"])
        camera = {} if calib is None else {"calib": calib.tolist()}
        self.images.append({"id": len(self.images) + 1, **source, "width": width, "height": height, **camera})
        for record in self.results.coco_records(len(self.images), rows, self.description["category_ids"]):
            area = record["bbox"][2] * record["bbox"][3]
            self.annotations.append({"id": len(self.annotations) + 1, **record, "area": area, "iscrowd": 0})
        for label, score, cells in zip(row.labels(rows), row.scores(rows), self.results.table_cells(rows)):
            name = self.description["classes"][int(label)]
            self.csv.writerow([source["file_name"], source.get("frame", ""), name, f"{score:.4f}", *cells])
        self.file.flush()
        if self.labels:
            self.labels.add(label_name, rows, (width, height))
        return draw(self.task, detected.image, rows, self.description)

    def drawn_size(self, image: np.ndarray) -> tuple[int, int]:
        """(width, height) of an image with its drawing, which may be enlarged and have a part beside it."""
        nothing = np.zeros((0, row.width(self.results.columns(self.description))), np.float32)
        height, width = draw(self.task, image, nothing, self.description).shape[:2]
        return width, height

    def heatmap(self, image: np.ndarray) -> np.ndarray:
        """An image overlaid with its heatmap, enlarged if it is small."""
        return enlarged(overlay_heatmap(image, *self.predictor.heatmap(image)))

    def close(self) -> None:
        """Write the COCO-style file if begin() was called."""
        if not self.file:
            return
        self.file.close()
        classes = zip(self.description["category_ids"], self.description["classes"])
        fields = self.results.category_fields(self.description)
        categories = [{"id": number, "name": name, **fields} for number, name in classes]
        write_json(os.path.join(self.folder, RECORD), {
            **({"split": self.split} if self.split else {}), "images": self.images, "annotations": self.annotations,
            "categories": categories, "skipped": self.skipped})


def detect_in_images(files: PredictionFiles, paths: Sequence[str], base: str, max_pixels: int, heatmap: bool) -> None:
    """Detect in image files until an interrupt; drawn images keep their paths relative to the folder base."""
    predictor = files.predictor
    names = dict(zip(paths, drawing_paths([os.path.relpath(path, base or ".") for path in paths])))
    load = functools.partial(read_image, max_pixels=max_pixels)
    detecting = detect_all(predictor.detector, paths, load, predictor.config, size_of=read_size,
                           calib_of=files.calib_of)
    for detected in progress(detecting, "detecting", total=len(paths)):
        path = detected.item
        if detected.problem:
            files.skipped.append(f"{path}: {detected.problem}")
            continue
        name = names[path]
        drawn = files.add({"file_name": path}, detected, name)
        save_image(os.path.join(files.folder, "images", name), drawn)
        if heatmap:
            save_image(os.path.join(files.folder, "heatmaps", name), files.heatmap(detected.image))
        if interrupts.INTERRUPTS.requested:
            return


def is_camera(path: str) -> bool:
    """Whether an input is the number of a camera."""
    return path.isdecimal() and not os.path.exists(path)


def detect_in_video(files: PredictionFiles, path: str, max_frames: int | None, heatmap: bool) -> None:
    """Detect in the frames of a video or camera until its end or an interrupt (Ctrl-C), which is how a camera ends."""
    try:
        calib = files.calib_of(path)
    except (OSError, ValueError) as error:
        files.skipped.append(f"{path}: {errors.reason(error)}")
        return
    capture = cv2.VideoCapture(int(path) if is_camera(path) else path)
    if not capture.isOpened():
        reason = "no such camera, or it is in use" if is_camera(path) else "not a video that OpenCV can read"
        files.skipped.append(f"{path}: {reason}")
        return
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    total = 0 if is_camera(path) else max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    total = min(total, max_frames) if max_frames and total else total
    frames = read_frames(capture, max_frames)
    first = next(frames, None)
    if first is None:
        files.skipped.append(f"{path}: no frame can be read")
        return
    files.begin()
    name = f"camera{path}" if is_camera(path) else os.path.splitext(os.path.basename(path))[0]
    target = free_name(os.path.join(files.folder, "videos", f"{name}.mp4"))
    done = 0
    predictor = files.predictor
    items = itertools.chain([first], frames)
    detecting = detect_all(predictor.detector, items, lambda item: item[1], predictor.config,
                           calib_of=lambda item: calib)
    with contextlib.ExitStack() as until_end:
        until_end.callback(capture.release)
        write = until_end.enter_context(video_writer(target, rate, files.drawn_size(first[1])))
        if heatmap:
            heatmaps = free_name(os.path.join(files.folder, "heatmaps", f"{name}.mp4"))
            write_heatmap = until_end.enter_context(video_writer(heatmaps, rate, enlarged(first[1]).shape[1::-1]))
        for detected in progress(detecting, os.path.basename(target), total=total or None):
            frame = detected.item[0]
            source = {"file_name": path, "frame": frame, "seconds": round(frame / rate, 3)}
            write(files.add(source, detected, f"{name}_{frame}.txt"))
            if heatmap:
                write_heatmap(files.heatmap(detected.image))
            done += 1
            if interrupts.INTERRUPTS.requested:
                return
    if done < 0.9 * total:  # the length in a file's header is not always exact
        files.skipped.append(f"{path}: only {done} of {total} frames can be read")


@contextlib.contextmanager
def video_writer(path: str, rate: float, size: Sequence[int]) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that appends a BGR frame to the video at path, which appears when complete.

    rate, in frames per second; size (width, height). Raises UserError if OpenCV cannot write there.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with atomic_write(path) as partial:
        writer = cv2.VideoWriter(partial, cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        if not writer.isOpened():
            raise UserError(f"{path}: OpenCV cannot write a video here")
        try:
            yield writer.write
        finally:
            writer.release()


def read_frames(capture: cv2.VideoCapture, limit: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, BGR frame) from a video or camera until its end or the limit."""
    number = 0
    while limit is None or number < limit:
        good, frame = capture.read()
        if not good:
            return
        yield number, frame
        number += 1
