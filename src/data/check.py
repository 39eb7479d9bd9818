"""What conversion, training and evaluation will say of a COCO-format data set, before any of them. Needs no MindSpore."""
import contextlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..core import errors
from ..core.console import progress
from ..core.errors import UserError
from ..imaging import reading
from ..imaging.color import apply_color
from ..imaging.headers import read_header
from ..tasks import task_of
from .coco import check_classes, check_expected, check_objects, find_split, image_list, image_size, metainfo_of, read_coco
from .epochs import epoch_order
from .objects import usable_objects, without_objects
from .samples import MAX_DRAWN_IMAGES, augmented_batch, sample_layout
from .summary import Boxes, collect

FIRST = 3  # of what is found, these are named
LEFT_OUT_IMAGES = ("image files are missing", "images have another size than the annotation file says", "images cannot be read",
                    "images have no annotation that can be used, and are left out", "ids stand for several images, which are left out")
NEARLY = 64  # of 255: an image whose values are all below it is nearly black, and one of the opposite nearly white
DULL, DEEP = ("images are nearly black or nearly white; is that what they show?",
              "images have more than 8 bits a channel: whether they use them all is seen without --quick")
BEYOND = "boxes reach beyond their image, and are cut off there"
LEFT_OUT = {  # a part of the sentence about what is left out: what it is
    "box without area": "boxes have no area, and are left out", "outside the": "boxes lie outside their image, and are left out",
    "the same box and class": "boxes are there twice, and count once", "it cannot count as": LEFT_OUT_IMAGES[3],
    "files have this id": LEFT_OUT_IMAGES[4], "": "annotations cannot be used, and are left out",
}
NO_OBJECTS = "images have no objects, and are left out (dataset_config.keep_empty keeps them)"


@dataclass
class Part:
    """What was found in the "train" or the "val" part of a data set.

    refusals: sentences for which conversion or evaluation would refuse all of it; found {what: [sentences]}; images [(id, path, objects,
    stated size)] that can be used; their summary.Boxes.
    """

    name: str
    annotation: str = ""
    coco: object = None
    metainfo: dict = field(default_factory=dict)
    refusals: list = field(default_factory=list)
    found: dict = field(default_factory=dict)
    images: list = field(default_factory=list)
    boxes: Boxes | None = None

    def add(self, what, sentence):
        """Note one thing of a kind."""
        self.found.setdefault(what, []).append(sentence)

    def add_left_out(self, sentence):
        """Note what is left out, by what the sentence says of it."""
        self.add(next(what for words, what in LEFT_OUT.items() if words in sentence), sentence)

    def lines(self):
        """What was found, as lines of text."""
        lines = [f"refused: {sentence}" for sentence in self.refusals]
        for what, sentences in self.found.items():
            lines.append(f"{len(sentences)} {what}:")
            lines += [f"  {sentence}" for sentence in sentences[:FIRST]]
            lines += [f"  and {len(sentences) - FIRST} more"] if len(sentences) > FIRST else []
        return lines

    @property
    def is_sound(self):
        """Whether conversion and evaluation take this part, with all of its images."""
        return not self.refusals and not set(self.found) & set(LEFT_OUT_IMAGES)


def check_part(data_dir, name, config, quick=False):
    """The Part that is found in a data set. With quick, images are read by their headers alone."""
    part, options, task = Part(name), config.dataset_config, task_of(config.net_config)
    try:
        split = find_split(data_dir, name, options)
        part.annotation = split.annotation
        coco = part.coco = read_coco(split.annotation, split.image_dir, task)
        part.metainfo = metainfo_of(coco, task)
        check_expected(config, part.metainfo["classes"], part.metainfo["category_ids"], split.annotation)
        if name == "val":
            check_objects(coco, split.annotation)
    except UserError as error:
        part.refusals.append(str(error))
    if part.coco is None:
        return part
    for note in coco.notes:
        part.add("notes on the annotation file", note)
    for sentence in coco.skipped:
        part.add_left_out(sentence)
    _check_images(part, split, options, task, quick)
    for path, number in Counter(os.path.normpath(path) for _, path, *_ in part.images).items():
        if number > 1:
            part.add("image files are listed under more than one id", f"{path}: {number} times")
    if not part.images:
        part.refusals.append(f"{split.annotation}: no usable image in {split.image_dir} ({len(coco.dataset['images'])} listed)")
    elif name == "train" and not len(part.boxes.labels):
        part.refusals.append(f"{split.annotation}: no object in any of {len(part.images)} usable images")
    return part


def _check_images(part, split, options, task, quick):
    """Read all images of a Part, and their boxes; fills images, boxes and found."""
    coco, rows = part.coco, []
    read_file = _read_header if quick else _read_whole

    def load(item):
        try:
            return read_file(item[1], image_size(coco.imgs[item[0]]), options.max_pixels)
        except (OSError, ValueError) as error:
            return error

    listed = image_list(split, coco)
    with ThreadPoolExecutor(options.num_workers) as pool, contextlib.closing(pool.map(load, listed)) as files:
        for (image_id, path), read in zip(listed, progress(files, f"reading the {part.name} images", len(listed))):
            name, annotations = f"image {image_id} ({path})", coco.imgToAnns[image_id]
            if isinstance(read, Exception):
                part.add(_kind(read), f"{name}: {errors.reason(read)}")
                continue
            size, what, remark = read
            if what:
                part.add(what, f"{name}: {remark}")
            objects, problems = usable_objects(annotations, size, task, part.metainfo)
            boxes = objects["boxes"]
            for sentence in problems:
                part.add_left_out(sentence)
            if annotations and not len(boxes):
                part.add_left_out(f"{name}: {without_objects(len(annotations))}")
                continue
            for box in boxes[((boxes[:, :2] < -1) | (boxes[:, 2:] > np.array(size) + 1)).any(1)]:
                part.add(BEYOND, f"{name} of {size[0]}x{size[1]}: {box.round(1).tolist()}")
            if part.name == "train" and not annotations and not options.keep_empty:
                part.add(NO_OBJECTS, name)
                continue
            rows.append((size, boxes, objects["labels"]))
            part.images.append((image_id, path, objects, image_size(coco.imgs[image_id])))
    part.boxes = collect(rows)


def _read_whole(path, size, max_pixels):
    """((width, height), what there is to say of it, of DULL or None, and how) of a decoded image file."""
    image = reading.read_image(path, size, max_pixels)
    least, most = int(image.min()), int(image.max())
    what, remark = None, ""
    if most < NEARLY or least > 255 - NEARLY:
        with open(path, "rb") as file:
            bits = read_header(file).bits
        what, remark = DULL, f"its values are {least} to {most} of 255"
        remark += f", of {bits} bits a channel: multiply them, so that white is {2**bits - 1}" if bits > 8 and most < NEARLY else ""
    return image.shape[1::-1], what, remark


def _read_header(path, size, max_pixels):
    """The same, of DEEP, from its header alone."""
    with open(path, "rb") as file:
        shown, bits = reading.header_size(file, size, max_pixels), read_header(file).bits
    return shown, DEEP if bits > 8 else None, f"{bits} bits"


def _kind(error):
    """What is wrong with an image that gave an error."""
    missing, resized, unreadable, *_ = LEFT_OUT_IMAGES
    return missing if isinstance(error, FileNotFoundError) else resized if isinstance(error, reading.WrongSize) else unreadable


def compare_parts(train, val):
    """Add to the validation Part what does not go together with the training Part: classes, and images that are in both."""
    if train.coco is None or val.coco is None:
        return
    try:
        check_classes(train.metainfo, val.coco, val.annotation)
    except UserError as error:
        val.refusals.append(str(error))
    trained_on = {os.path.realpath(path) for _, path, *_ in train.images}
    for image_id, path, *_ in val.images:
        if os.path.realpath(path) in trained_on:
            val.add("images are trained on, too: the scores will say too much", f"image {image_id} ({path})")


def first_batch(part, config):
    """(batch {column: array} as preview.draw_batch takes it, image ids, layout) of the first images that train.py will draw.

    Raises OSError or ValueError if an image cannot be read.
    """
    layout = sample_layout(config, part.metainfo)
    images = sorted(part.images, key=lambda image: image[0])
    order = epoch_order(len(images), config.seed, 0, config.do_shuffle)
    order = order[: min(config.train_config.batch_size * config.train_config.accumulate_steps, MAX_DRAWN_IMAGES)]
    chosen = [images[index] for index in order]
    loaded = ((reading.read_image(path, size, config.dataset_config.max_pixels), image_id, objects)
              for image_id, path, objects, size in chosen)
    columns = task_of(config.net_config).targets.columns(True)
    batch = dict(zip(columns, augmented_batch(loaded, len(chosen), 0, config, layout, True)))
    batch["image"] = np.stack([apply_color(view, color) for view, color in zip(batch["image"], batch["color"])])
    return batch, [image_id for image_id, *_ in chosen], layout
