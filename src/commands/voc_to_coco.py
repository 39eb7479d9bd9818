"""Convert a Pascal VOC folder (Annotations/*.xml, ImageSets/Main/<split>.txt, JPEGImages/) into a COCO-format
annotation file.

VOC pixel coordinates start at 1, and boxes include their last pixel: x = xmin - 1, width = xmax - xmin + 1; y and
height likewise.
"""
import argparse
import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..core import errors
from ..core.backups import MARK, contains_mark, require_ours
from ..core.console import LOG, log_skipped, show
from ..core.errors import UserError
from ..core.files import link_or_copy, write_json
from ..data.labels.common import Labels, deduplicated
from ..data.labels.formats import images_of, name_of, stem
from ..data.labels.voc import read_files, read_list, read_xml
from ..inference.options import OptionParser

VOC_CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
               "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
MAX_OBJECTS = 10_000  # at most: annotation id = image id x MAX_OBJECTS + number in the image
MAX_ID = 2**38  # for images, so that annotation ids stay exact in pycocotools' float64


def main(argv: Sequence[str] | None = None) -> None:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voc_dir", required=True, help="folder with Annotations/, ImageSets/Main/ and JPEGImages/")
    parser.add_argument("--split", required=True,
                        help="list of images, ImageSets/Main/<split>.txt: trainval, test, ...")
    parser.add_argument("--output", required=True, help="annotation file to write (.json)")
    parser.add_argument("--classes",
                        help="ordered class names, separated by commas (default: VOC's 20 classes or, if the "
                             "annotations contain others, all their names, sorted)")
    parser.add_argument("--image_dir",
                        help="also put the images of the list into this folder (as hard links if possible)")
    parser.add_argument("--zero_based", action="store_true", help="pixel coordinates start at 0 instead of 1")
    options = parser.parse_args(argv)

    require_ours(options.output, contains_mark(), option="--output")
    for folder in ("Annotations", "JPEGImages"):
        errors.require_dir(os.path.join(options.voc_dir, folder), f"VOC folder's {folder}")
    image_files = sorted(os.listdir(os.path.join(options.voc_dir, "JPEGImages")))
    images = images_of([f"JPEGImages/{file}" for file in image_files])
    stems = set(map(stem, images))
    names = read_list(os.path.join(options.voc_dir, "ImageSets", "Main", f"{options.split}.txt"), stems)
    ids = image_ids(stems.union(names))
    classes = list(map(str.strip, options.classes.split(","))) if options.classes else find_classes(options.voc_dir)
    labels = Labels(options.voc_dir)
    annotations = [("train", f"Annotations/{name}.xml") for name in names]
    read_files(labels, annotations, images, 0 if options.zero_based else 1)
    dataset = convert(labels, ids, classes)
    for note in labels.notes:
        LOG.warning(note)
    log_skipped(labels.skipped)
    if not dataset["annotations"]:
        what = "object" if dataset["images"] else "image"
        raise UserError(f"{options.voc_dir}: no {what} of {options.split} is usable; "
                        f"{[*labels.skipped, 'the split is empty'][0]}")
    name = f"{os.path.basename(os.path.abspath(options.voc_dir))} {options.split}"
    dataset["info"] = {"written_by": MARK, "description": name, "skipped": labels.skipped}
    if options.image_dir:
        link_images(options.voc_dir, [info["file_name"] for info in dataset["images"]], options.image_dir)
    write_json(options.output, dataset, contains_mark())
    difficult = sum(annotation["difficult"] for annotation in dataset["annotations"])
    show(f"{len(dataset['images'])} images, {len(dataset['annotations'])} objects ({difficult} difficult), "
         f"{len(classes)} classes, {len(labels.skipped)} images or objects skipped: {options.output}")


def image_ids(names: Collection[str]) -> dict[str, int]:
    """Return {name: id}, independent of the split: the digits of the name (2008_000008: 2008000008) if they are unique
    in the folder, else a number from the name's SHA-1. Raises UserError if two names get the same id."""
    digits = {name: re.sub(r"\D", "", name) for name in names}
    if all(value and int(value) < MAX_ID for value in digits.values()):
        ids = {name: int(value) for name, value in digits.items()}
        if len(set(ids.values())) == len(names):
            return ids
    ids = {name: int(hashlib.sha1(name.encode()).hexdigest(), 16) % MAX_ID for name in names}
    if len(set(ids.values())) < len(names):
        raise UserError("two image names give the same id; rename one of them")
    return ids


def find_classes(voc_dir: str) -> list[str]:
    """The class names of a folder: VOC's 20 if it has no others, else all of them, sorted."""
    folder = os.path.join(voc_dir, "Annotations")
    found: set[str] = set()
    for file in sorted(os.listdir(folder)):
        if file.lower().endswith(".xml"):
            try:
                entries = read_xml(os.path.join(folder, file)).iter("object")
                found |= {(entry.findtext("name") or "").strip() for entry in entries}
            except ValueError:
                continue  # reported when it is converted
    found.discard("")
    if not found:
        raise UserError(f"{folder}: the annotations name no classes")
    return list(VOC_CLASSES) if found <= set(VOC_CLASSES) else sorted(found)


def convert(labels: Labels, ids: Mapping[str, int], classes: Iterable[str]) -> dict[str, Any]:
    """Return the COCO dictionary of the images, in the order of their list; notes other classes in labels.skipped."""
    numbers = {name: number for number, name in enumerate(classes, 1)}
    images, annotations = [], []
    for image in deduplicated(labels, labels.parts["train"]).values():
        image_id, (width, height) = ids[stem(image.path)], image.size
        images.append({"id": image_id, "file_name": name_of(image.path), "width": width, "height": height})
        for number, (name, annotation) in enumerate(image.objects, 1):
            if name in numbers:
                number += image_id * MAX_OBJECTS
                annotations.append({"id": number, "image_id": image_id, "category_id": numbers[name], **annotation})
            else:
                labels.skipped.append(f"an object of {image.path}: unknown class {name!r}")
    categories = [{"id": number, "name": name, "supercategory": "none"} for name, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def link_images(voc_dir: str, files: Iterable[str], folder: str) -> None:
    """Put image files of JPEGImages into a folder, as hard links if possible; existing files are kept."""
    os.makedirs(folder, exist_ok=True)
    for file in files:
        source, target = os.path.join(voc_dir, "JPEGImages", file), os.path.join(folder, file)
        if not os.path.lexists(target):
            link_or_copy(source, target)
