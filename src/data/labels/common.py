"""Labels of any form as one: images, boxes and class names in parts, and the COCO files made of them."""
import collections
import hashlib
import os
from dataclasses import dataclass, field

from ...core import errors
from ...core.errors import UserError
from ...core.tables import some, table
from ...imaging.reading import read_sizes
from ..objects import object_problem, without_objects
from .formats import PARTS, name_of


@dataclass
class LabeledImage:
    """An image: its path in the folder, its size (width, height), its objects [(class name, COCO annotation without ids)]."""

    path: str
    size: tuple
    objects: list


@dataclass
class Labels:
    """What a reader finds in a folder: its images by parts, its classes {name: category id}, sentences about what was decided, and about
    what was left out."""

    folder: str
    parts: dict = field(default_factory=lambda: {part: [] for part in PARTS})
    categories: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    skipped: list = field(default_factory=list)

    def size_of(self, path, stated=None):
        """The size (width, height) of an image that its boxes refer to: what its labels state if the file has that size, turned as EXIF
        says or not; without a statement that of the turned image. None, and a sentence in skipped, if there is none."""
        try:
            sizes = read_sizes(os.path.join(self.folder, path))
        except (OSError, ValueError) as error:
            self.skipped.append(f"image {path}: {errors.reason(error)}")
            return None
        if stated is None or tuple(stated) in sizes:
            return tuple(stated or sizes[0])
        self.skipped.append(f"image {path}: it has {sizes[0][0]}x{sizes[0][1]} pixels, its labels say {stated[0]}x{stated[1]}")
        return None

    def add(self, part, path, size, objects, lost=0):
        """Add an image with objects [(what it is called, class name, COCO annotation without ids)], and `lost` labels that are none.

        What is no object (objects.py) is left out; with the image, if its labels all are none.
        """
        kept, seen = [], {}
        for where, name, annotation in objects:
            if problem := object_problem(where, (name, annotation["iscrowd"]), annotation["bbox"], size, seen):
                self.skipped.append(f"{where}: {problem}")
            else:
                kept.append((name, annotation))
        if kept or not objects and not lost:
            self.parts[part].append(LabeledImage(path, size, kept))
        else:
            self.skipped.append(f"image {path}: {without_objects(len(objects) + lost)}")

    def note_unused(self, images, used):
        """Say which of the folder's images no label file and no part has."""
        left = [path for path in images if path not in used]
        if left:
            self.notes.append(f"{len(left)} images are in no list and no part, and are left out: {', '.join(left[:3])}"
                              f"{', ...' if left[3:] else ''}")


# ---------------------------------------------------------------- parts


def resolve_splits(labels, fraction, seed):
    """Let every image be in one part alone, and every part that is needed have one: without a validation part, a fraction of the training
    images, chosen by the seed. Raises UserError if there are too few images, or no objects in a part that needs them."""
    parts = {part: deduplicated(labels, images) for part, images in labels.parts.items()}
    same = [("val", "train"), ("test", "train"), ("test", "val")]
    for part, other in same:
        if parts[part] and set(parts[part]) == set(parts[other]):
            labels.notes.append(f"{part} names the same images as {other}: there is no part {part}")
            parts[part] = {}
    for part, others in (("test", ("val",)), ("train", ("val", "test"))):
        twice = set(parts[part]).intersection(*[set().union(*(parts[other] for other in others))])
        if twice:
            labels.notes.append(f"{len(twice)} images of {part} are also in {' or '.join(others)}, and stay there alone")
            parts[part] = {key: image for key, image in parts[part].items() if key not in twice}
    if not parts["train"] and any(parts.values()):
        labels.notes.append(f"there are no training images: those of {' and '.join(part for part in PARTS if parts[part])} are divided")
        parts = {"train": {**parts["val"], **parts["test"]}, "val": {}, "test": {}}
    labels.parts = {part: sorted(images.values(), key=lambda image: image.path) for part, images in parts.items()}
    for part in ("train", "val"):
        images = labels.parts[part]
        if (images or part == "train") and not any(image.objects for image in images):
            what = f"none of the {len(images)} usable images for {part} has an object" if images else "no image can be used"
            raise UserError(f"{labels.folder}: {what}{f'; {labels.skipped[0]}' if labels.skipped else ''}")
    if not labels.parts["val"]:
        labels.parts["train"], labels.parts["val"] = divided(labels.parts["train"], fraction, seed, labels.folder)
        labels.notes.append(f"there is no validation part: {len(labels.parts['val'])} of {sum(map(len, labels.parts.values()))} images are "
                            f"split off (--val_fraction {fraction:g} of those for training, --seed {seed})")


def deduplicated(labels, images):
    """{real path: image} of a part; an image that is listed more than once, as by a file for each class, has all of its objects."""
    kept, joined = {}, []
    for image in images:
        first = kept.setdefault(os.path.realpath(os.path.join(labels.folder, image.path)), image)
        if first is image:
            continue
        if first.size != image.size:
            labels.skipped.append(f"image {image.path}: listed a second time, as an image of another size")
            continue
        known = [(name, annotation["bbox"], annotation["iscrowd"]) for name, annotation in first.objects]
        first.objects += [entry for entry in image.objects if (entry[0], entry[1]["bbox"], entry[1]["iscrowd"]) not in known]
        joined.append(image.path)
    if joined:
        labels.notes.append(f"{len(joined)} images are listed more than once, or have several label files: each has all of their objects, "
                            f"the same ones once ({some(joined, 3)})")
    return kept


def divided(images, fraction, seed, folder):
    """(training, validation images), both with objects. An image's path and the seed decide: not the order, and hardly the other images.

    Images with objects and without are divided apart.
    """
    with_objects = [image for image in images if image.objects]
    if len(with_objects) < 2:
        raise UserError(f"{folder}: {len(with_objects)} usable image with objects cannot be divided into a training and a validation part; "
                        "at least two are needed")
    count = min(max(round(fraction * len(with_objects)), 1), len(with_objects) - 1)
    without = [image for image in images if not image.objects]
    chosen = {image.path for part, number in ((with_objects, count), (without, round(fraction * len(without))))
              for image in sorted(part, key=lambda image: hashlib.sha256(os.fsencode(f"{seed}/{image.path}")).digest())[:number]}
    return [image for image in images if image.path not in chosen], [image for image in images if image.path in chosen]


# ---------------------------------------------------------------- COCO files


def file_names(images):
    """The names that the images of a part get, all in one folder: their own, or where several have that the whole path, as train_0.jpg.
    Names that differ in capitals alone count as equal."""
    count = collections.Counter(name_of(image.path).casefold() for image in images)
    names, taken = [], {name for name, number in count.items() if number == 1}
    for image in images:
        name = name_of(image.path)
        if count[name.casefold()] > 1:
            root, ending = os.path.splitext(image.path.replace("/", "_"))
            name, number = root + ending, 0
            while name.casefold() in taken:
                number += 1
                name = f"{root}_{number}{ending}"
            taken.add(name.casefold())
        names.append(name)
    return names


def coco_files(labels):
    """{part: (COCO dictionary, [(path in the folder, file name)])} of the parts that have images; ids count over all parts."""
    categories = [{"id": number, "name": name, "supercategory": "none"} for name, number in labels.categories.items()]
    files, images_before, objects_before = {}, 0, 0
    for part, images in labels.parts.items():
        if not images:
            continue
        names, entries, annotations = file_names(images), [], []
        for number, (image, name) in enumerate(zip(images, names), images_before + 1):
            entries.append({"id": number, "file_name": name, "width": image.size[0], "height": image.size[1], "source": image.path})
            for class_name, annotation in image.objects:
                annotations.append({**annotation, "id": objects_before + len(annotations) + 1, "image_id": number,
                                    "category_id": labels.categories[class_name]})
        images_before, objects_before = images_before + len(images), objects_before + len(annotations)
        info = {"description": f"{os.path.basename(os.path.abspath(labels.folder))} {part}"}
        files[part] = ({"info": info, "images": entries, "annotations": annotations, "categories": categories},
                       [(image.path, name) for image, name in zip(images, names)])
    return files


def summary(labels):
    """A table: images, images without objects, and boxes of every class, by parts."""
    parts = [part for part in PARTS if labels.parts[part]]
    counts = {part: collections.Counter(name for image in labels.parts[part] for name, _ in image.objects) for part in parts}
    rows = [["images", *(len(labels.parts[part]) for part in parts)],
            ["without boxes", *(sum(not image.objects for image in labels.parts[part]) for part in parts)],
            ["boxes", *(counts[part].total() for part in parts)]]
    rows += [[f"  {name}", *(counts[part][name] for part in parts)] for name in labels.categories]
    return table(["", *parts], [[name, *map(str, numbers)] for name, *numbers in rows])
