"""A page to look through a data set: all images with their boxes, and what its check found in each. Does not need
MindSpore, nor a server."""
import contextlib
import json
import os
import re
import urllib.parse
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from ..core.backups import has_companion
from ..core.console import progress
from ..core.files import atomic_folder
from ..core.version import version
from ..imaging import reading
from ..imaging.drawing import class_color, css_color, fit, with_mark
from ..model_utils.config import Config
from ..tasks import Task, rows, task_of
from .check import SplitReport
from .coco import Split, image_list, image_size, load_json
from .objects import ANY_SIZE, usable_objects
from .summary import SMALL, long_sides

PAGES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pages")
PAGE, THUMBNAILS = "index.html", "thumbnails"
IS_OURS = has_companion(lambda folder: os.path.join(folder, PAGE))  # a test for atomic_folder
SIDE = 400  # pixels of a thumbnail's longer side, at most
OF_IMAGE = re.compile(r"(?:annotation .*? of )?image (\d+)\b")  # begins a finding about an image


@dataclass
class Shown:
    """An image on the page: its split's name, id, path and stated size (or None), and the objects in it."""

    split: str
    image_id: int
    path: str
    size: tuple[int, int] | None
    objects: dict[str, list]


def write_browser(folder: str, title: str, splits: Sequence[SplitReport], config: Config) -> int:
    """Write the page of checked splits into a folder: PAGE, and the folder THUMBNAILS. Returns the number of images.

    An earlier page's folder is backed up. The page refers to the data set's images by paths relative to the folder.
    """
    classes = list(dict.fromkeys(name for split in splits for name in split.metainfo.get("classes", [])))
    images = [image for split in splits for image in images_of(split, task_of(config.net_config), classes)]
    findings = {(split.name, *key): found for split in splits
                for key, found in by_image(split, config.dataset_config.input_res_train).items()}
    with atomic_folder(folder, IS_OURS) as partial:
        os.mkdir(os.path.join(partial, THUMBNAILS))

        def draw(item: tuple[int, Shown]) -> tuple[str | None, tuple[int, int]]:
            return write_thumbnail(partial, *item, config.dataset_config.max_pixels)

        with (ThreadPoolExecutor(config.dataset_config.num_workers) as pool,
              contextlib.closing(cast(Generator, pool.map(draw, enumerate(images)))) as drawn):
            entries = [
                {"split": image.split, "id": image.image_id, "name": os.path.basename(image.path), "thumbnail": name,
                 "file": urllib.parse.quote(os.path.relpath(image.path, folder), errors="surrogateescape"),
                 "width": size[0], "height": size[1], **image.objects,
                 "findings": findings.pop((image.split, image.image_id), [])}
                for image, (name, size) in zip(images, progress(drawn, "drawing thumbnails", len(images)))]
        others = [f"{split}: {message} ({kind})" for (split, *_), found in findings.items() for kind, message in found]
        others += [f"{split.name}: refused: {message}" for split in splits for message in split.refusals]
        content = {"classes": [{"name": name, "color": css_color(class_color(label))}
                               for label, name in enumerate(classes)], "images": entries, "others": others}
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGES), autoescape=True)
        # In a script element, only < could end the data.
        data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        page = environment.get_template("browse.html").render(title=title, version=version(), data=Markup(data))
        with open(os.path.join(partial, PAGE), "w", encoding="utf-8", errors="replace") as file:
            file.write(page)
    return len(images)


def images_of(report: SplitReport, task: Task, classes: Sequence[str]) -> list[Shown]:
    """The images of a split's annotation file, also those that the check drops; classes of the page."""
    if not report.metainfo:
        return []
    known = {image[0]: image[2] for image in report.images}
    shown = []
    for image_id, path in image_list(Split(report.annotation, report.image_dir), report.coco):
        objects = known.get(image_id)
        if objects is None:  # left out by the check
            objects, _ = usable_objects(report.coco.imgToAnns[image_id], ANY_SIZE, task, report.metainfo)
        shown.append(Shown(report.name, image_id, path, image_size(report.coco.imgs[image_id]),
                           drawn_objects(task, objects, report.metainfo, classes)))
    listed = {image.image_id for image in shown}
    for entry in load_json(report.annotation)["images"]:  # unchecked: those dropped on reading
        number, name = entry.get("id"), entry.get("file_name")
        if isinstance(number, int) and number not in listed:
            path = os.path.join(report.image_dir, name)
            shown.append(Shown(report.name, number, path, None, {"boxes": [], "lines": []}))
    return shown


def drawn_objects(task: Task, objects: dict[str, np.ndarray], metainfo: dict,
                  classes: Sequence[str]) -> dict[str, list]:
    """{"boxes": [[index in classes, x1, y1, x2, y2]], "lines": those of the task's results.lines}, to tenths of a
    pixel."""
    found = task.results.rows_from_objects(objects)
    labels = [classes.index(metainfo["classes"][int(label)]) for label in rows.labels(found)]
    return {"boxes": [[label, *_tenths(box)] for label, box in zip(labels, rows.boxes(found).tolist())],
            "lines": [[_tenths(line) for line in own] for own in task.results.lines(found, metainfo)]}


def _tenths(values: Sequence[float]) -> list[float]:
    return [round(value, 1) for value in values]


def by_image(report: SplitReport, input_size: Sequence[int]) -> dict[tuple, list[tuple[str, str]]]:
    """{(image id,): [(kind, message)]} of the findings of a check, and of boxes that are small at the input_size
    (width, height); findings about no single image have the key ()."""
    findings: dict[tuple, list[tuple[str, str]]] = {}
    for kind, messages in report.found.items():
        for message in messages:
            match = OF_IMAGE.match(message)
            findings.setdefault((int(match[1]),) if match else (), []).append((kind, message))
    width, height = input_size
    if report.boxes is not None and len(report.boxes.counts):
        sides = np.split(long_sides(report.boxes, (width, height)), np.cumsum(report.boxes.counts)[:-1])
        for (image_id, *_), own in zip(report.images, sides):
            if small := own[own < SMALL[0]].round(1).tolist():
                kind = f"boxes are shorter than {SMALL[0]} pixels at the input of {width}x{height}"
                findings.setdefault((image_id,), []).append((kind, f"longer sides: {', '.join(map(str, small))}"))
    return findings


def write_thumbnail(folder: str, number: int, image: Shown,
                    max_pixels: int) -> tuple[str | None, tuple[int, int]]:
    """Write an image's thumbnail; returns (its path relative to the folder, (width, height) of the image), or None and
    the stated size if the image cannot be read."""
    try:
        try:
            pixels = reading.read_image(image.path, image.size, max_pixels)
        except reading.WrongSize:
            pixels = reading.read_image(image.path, None, max_pixels)
    except (OSError, ValueError):
        return None, image.size or (4, 3)
    small = fit(pixels, SIDE, SIDE) if max(pixels.shape[:2]) > SIDE else pixels
    name = f"{THUMBNAILS}/{number:06d}.jpg"
    with open(os.path.join(folder, name), "wb") as file:
        file.write(with_mark(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()))
    return name, (pixels.shape[1], pixels.shape[0])
