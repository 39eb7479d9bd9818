"""Checks of a COCO-format data set: reports what conversion, training and evaluation will. Does not need MindSpore."""
import contextlib
import os
from collections import Counter
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from ..core import errors
from ..core.console import progress
from ..core.errors import UserError
from ..imaging import reading
from ..imaging.color import apply_color
from ..imaging.headers import read_header
from ..model_utils.config import Config
from ..tasks import Task, task_of
from ..tasks.augmentation import Layout
from .coco import (
    Split,
    check_classes,
    check_expected,
    check_objects,
    chosen_task,
    find_split,
    image_list,
    image_size,
    metainfo_of,
    read_for,
)
from .conversion import log_task_notes, observed
from .epochs import epoch_order
from .objects import counted_boxes, usable_objects, without_objects
from .samples import MAX_DRAWN_IMAGES, augmented_batch, sample_layout
from .summary import Boxes, collect

MAX_EXAMPLES = 3  # named findings of a kind
SKIPPED_IMAGES = MISSING, WRONG_SIZE, UNREADABLE, EMPTIED, SHARED_ID = (
    "image files are missing", "images differ in size from the annotation file", "images cannot be read",
    "images have no usable annotation and are skipped", "ids are shared by several files, which are skipped")
NEARLY = 64  # of 255: an image with all values below this is nearly black, and inversely nearly white
DULL, DEEP = ("images are nearly black or nearly white; is that intended?",
              "images have more than 8 bits per channel: run without --quick to see whether they use the full range")
BEYOND = "boxes extend beyond their image and are clipped"
SKIPPED = {  # text in the message about a skipped entry: kind
    "box without area": "boxes have no area and are skipped",
    "outside the": "boxes lie outside their image and are skipped",
    "the same box and class": "boxes are duplicates and count once", "it cannot count as": EMPTIED,
    "files have this id": SHARED_ID, "": "annotations are unusable and are skipped",
}
NO_OBJECTS = "images have no objects and are skipped (dataset_config.keep_empty keeps them)"


@dataclass
class SplitReport:
    """The findings in the "train", "val" or "test" split of a data set.

    refusals: reasons why conversion or evaluation would refuse the split; found {kind: [messages]}; images [(id, path,
    objects, stated size)], the usable ones; boxes, their summary.Boxes.
    """

    name: str
    annotation: str = ""
    image_dir: str = ""
    coco: Any = None
    metainfo: dict = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    found: dict[str, list[str]] = field(default_factory=dict)
    images: list[tuple] = field(default_factory=list)
    boxes: Boxes | None = None

    def add(self, kind: str, message: str) -> None:
        """Add a finding of a kind."""
        self.found.setdefault(kind, []).append(message)

    def add_skipped(self, message: str) -> None:
        """Add a skipped entry; its kind follows from the message."""
        self.add(next(kind for text, kind in SKIPPED.items() if text in message), message)

    def lines(self) -> list[str]:
        """The findings as lines of text."""
        lines = [f"refused: {message}" for message in self.refusals]
        for kind, messages in self.found.items():
            lines.append(f"{len(messages)} {kind}:")
            lines += [f"  {message}" for message in messages[:MAX_EXAMPLES]]
            lines += [f"  and {len(messages) - MAX_EXAMPLES} more"] if len(messages) > MAX_EXAMPLES else []
        return lines

    @property
    def is_sound(self) -> bool:
        """Whether conversion and evaluation accept this split, with all of its images."""
        return not self.refusals and not set(self.found) & set(SKIPPED_IMAGES)


def check_split(data_dir: str, name: str, config: Config, quick: bool = False) -> SplitReport:
    """Check the "train", "val" or "test" split of a data set. With quick, only image headers are read."""
    report, options = SplitReport(name), config.dataset_config
    try:
        split = find_split(data_dir, name, options, task=chosen_task(config))
        report.annotation, report.image_dir = split.annotation, split.image_dir
        if not split.annotation:
            raise UserError(f"{data_dir} has no annotation file for the {name} images in {split.image_dir}, so there "
                            f"is nothing to check; eval.py --split {name} detects in them without scores")
        coco = report.coco = read_for(config, split)
        task = task_of(config.net_config)
        report.metainfo = {"task": task.name, **task.targets.configured(metainfo_of(coco, task), config)}
        check_expected(config, report.metainfo["classes"], report.metainfo["category_ids"], split.annotation)
        if name == "val":
            check_objects(coco, split.annotation)
    except UserError as error:
        report.refusals.append(str(error))
    if not report.metainfo:
        return report
    for note in coco.notes:
        report.add("notes on the annotation file", note)
    for message in coco.skipped:
        report.add_skipped(message)
    boxes = report.boxes = _check_images(report, split, options, task, quick)
    for path, count in Counter(os.path.normpath(path) for _, path, *_ in report.images).items():
        if count > 1:
            report.add("image files are listed under more than one id", f"{path}: {count} times")
    if not report.images:
        report.refusals.append(f"{split.annotation}: no usable image in {split.image_dir} "
                               f"({len(coco.dataset['images'])} listed)")
    elif name == "train" and not len(boxes.labels):
        report.refusals.append(f"{split.annotation}: no object in any of {len(report.images)} usable images")
    elif len(boxes.labels):
        try:
            report.metainfo = observed(task, report.metainfo, [objects for _, _, objects, _ in report.images])
        except UserError as error:
            report.refusals.append(f"{split.annotation}: {error}")
        else:
            log_task_notes(task, report.metainfo)
    return report


def _check_images(report: SplitReport, split: Split, options: Any, task: Task, quick: bool) -> Boxes:
    """Read all images of a split, and their boxes; adds images and findings to the report."""
    coco, rows = report.coco, []
    read_file = _read_header if quick else _read_pixels

    def load(item: tuple[int, str]) -> tuple | Exception:
        try:
            return read_file(item[1], image_size(coco.imgs[item[0]]), options.max_pixels)
        except (OSError, ValueError) as error:
            return error

    listed = image_list(split, coco)
    with (ThreadPoolExecutor(options.num_workers) as pool,
          contextlib.closing(cast(Generator, pool.map(load, listed))) as files):
        loaded = progress(files, f"reading the {report.name} images", len(listed))
        for (image_id, path), read in zip(listed, loaded):
            name, annotations = f"image {image_id} ({path})", coco.imgToAnns[image_id]
            if isinstance(read, Exception):
                report.add(_kind(read), f"{name}: {errors.reason(read)}")
                continue
            size, kind, remark = read
            if kind:
                report.add(kind, f"{name}: {remark}")
            objects, problems = usable_objects(annotations, size, task, report.metainfo)
            boxes = objects["boxes"]
            for message in problems:
                report.add_skipped(message)
            if annotations and not len(boxes):
                report.add_skipped(f"{name}: {without_objects(len(annotations))}")
                continue
            for box in boxes[((boxes[:, :2] < -1) | (boxes[:, 2:] > np.array(size) + 1)).any(1)]:
                report.add(BEYOND, f"{name} of {size[0]}x{size[1]}: {box.round(1).tolist()}")
            if report.name == "train" and not annotations and not options.keep_empty:
                report.add(NO_OBJECTS, name)
                continue
            rows.append((size, *counted_boxes(task, objects)))
            report.images.append((image_id, path, objects, image_size(coco.imgs[image_id])))
    return collect(rows)


def _read_pixels(path: str, size: tuple[int, int] | None, max_pixels: int) -> tuple[tuple, str | None, str]:
    """Decode an image file: ((width, height), DULL or None, remark)."""
    image = reading.read_image(path, size, max_pixels)
    least, most = int(image.min()), int(image.max())
    kind, remark = None, ""
    if most < NEARLY or least > 255 - NEARLY:
        with open(path, "rb") as file:
            bits = read_header(file).bits
        kind, remark = DULL, f"its values are {least} to {most} of 255"
        if bits > 8 and most < NEARLY:
            remark += f", with {bits} bits per channel: scale them so that white is {2**bits - 1}"
    return image.shape[1::-1], kind, remark


def _read_header(path: str, size: tuple[int, int] | None, max_pixels: int) -> tuple[tuple, str | None, str]:
    """Read the header of an image file: ((width, height), DEEP or None, remark)."""
    with open(path, "rb") as file:
        shown, bits = reading.header_size(file, size, max_pixels), read_header(file).bits
    return shown, DEEP if bits > 8 else None, f"{bits} bits"


def _kind(error: Exception) -> str:
    """The kind of finding for an image whose reading raised an error."""
    if isinstance(error, FileNotFoundError):
        return MISSING
    return WRONG_SIZE if isinstance(error, reading.WrongSize) else UNREADABLE


def compare_splits(train: SplitReport, val: SplitReport) -> None:
    """Add mismatches with the training split to the validation report: other classes, and images in both."""
    if not train.metainfo or not val.metainfo:
        return
    try:
        check_classes(train.metainfo, val.coco, val.annotation)
    except UserError as error:
        val.refusals.append(str(error))
    trained_on = {os.path.realpath(path) for _, path, *_ in train.images}
    for image_id, path, *_ in val.images:
        if os.path.realpath(path) in trained_on:
            val.add("images are also in the training split: scores will be too high", f"image {image_id} ({path})")


def first_batch(report: SplitReport, config: Config) -> tuple[dict[str, np.ndarray], list[int], Layout]:
    """(batch {column: array} for preview.draw_batch, image ids, layout) of the first images that train.py will draw.

    Raises OSError or ValueError if an image cannot be read.
    """
    layout = sample_layout(config, report.metainfo)
    images = sorted(report.images, key=lambda image: image[0])
    order = epoch_order(len(images), config.seed, 0, config.do_shuffle)
    order = order[: min(config.train_config.batch_size * config.train_config.accumulate_steps, MAX_DRAWN_IMAGES)]
    chosen = [images[index] for index in order]
    loaded: Iterable[tuple] = ((reading.read_image(path, size, config.dataset_config.max_pixels), image_id, objects)
                               for image_id, path, objects, size in chosen)
    columns = task_of(config.net_config).targets.columns(True)
    batch = dict(zip(columns, augmented_batch(loaded, len(chosen), 0, config, layout, True)))
    batch["image"] = np.stack([apply_color(view, color) for view, color in zip(batch["image"], batch["color"])])
    return batch, [image_id for image_id, *_ in chosen], layout
