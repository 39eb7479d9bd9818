"""Labels of any format in one form: images, boxes and class names by split, and the COCO files made from them."""
import collections
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...core import errors
from ...core.errors import UserError
from ...core.tables import abbreviate, table
from ...imaging.reading import read_sizes
from ..objects import object_problem, without_objects
from .formats import SPLITS, name_of
from .keypoints import BOXED, FIELDS, OUTSIDE, bounding_box, place_keypoints


@dataclass
class LabeledImage:
    """An image: its path in the folder, size (width, height), objects [(class name, COCO annotation without ids)], and
    facts, the further fields of its COCO entry."""

    path: str
    size: tuple[int, int]
    objects: list[tuple[str, dict]]
    facts: dict = field(default_factory=dict)


@dataclass
class Labels:
    """The labels of a folder: parts {split: images}, categories {class name: category id}, keypoints {class name: the
    fields of its category (keypoints.py)}, notes on decisions, messages about skipped entries, and repairs {message:
    count}."""

    folder: str
    parts: dict[str, list[LabeledImage]] = field(default_factory=lambda: {split: [] for split in SPLITS})
    categories: dict[str, int] = field(default_factory=dict)
    keypoints: dict[str, dict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    repairs: collections.Counter = field(default_factory=collections.Counter)

    def name_keypoints(self, name: str, fields: dict) -> None:
        """Set the fields of a class's keypoints. Raises UserError if another file gives it different ones."""
        known = self.keypoints.setdefault(name, fields)
        for key in FIELDS:
            if known.get(key) != fields.get(key):
                ours, others = (abbreviate(given.get(key, [])) or "none" for given in (fields, known))
                raise UserError(f"the {key} of class {name} differ from another file's ({ours}; {others}); make them "
                                "equal")

    def size_of(self, path: str, stated: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """The size (width, height) of an image to which its boxes refer.

        This is the stated size if the file has it, with or without its EXIF rotation; if no size is stated, the size
        after rotation. If there is none, returns None and adds a message to skipped.
        """
        try:
            sizes = read_sizes(os.path.join(self.folder, path))
        except (OSError, ValueError) as error:
            self.skipped.append(f"image {path}: {errors.reason(error)}")
            return None
        if stated is None or stated in sizes:
            return stated or sizes[0]
        self.skipped.append(f"image {path}: it has {sizes[0][0]}x{sizes[0][1]} pixels, its labels state "
                            f"{stated[0]}x{stated[1]}")
        return None

    def add(self, split: str, path: str, size: tuple[int, int], objects: Sequence[tuple[str, str, dict]],
            lost: int = 0, facts: dict | None = None) -> None:
        """Add an image with objects [(name in messages, class name, COCO annotation without ids)] and facts.

        `lost` is its number of unreadable labels. Labels that are not objects (objects.py) are skipped, and so is the
        image if no label of it remains. An object whose bbox is [] gets one around its keypoints.
        """
        kept: list[tuple[str, dict]] = []
        seen: dict = {}
        for where, name, annotation in objects:
            problem = self._complete(annotation, size)
            problem = problem or object_problem(where, _key(name, annotation), annotation["bbox"], size, seen)
            if problem:
                self.skipped.append(f"{where}: {problem}")
            else:
                kept.append((name, annotation))
        if kept or not objects and not lost:
            self.parts[split].append(LabeledImage(path, size, kept, facts or {}))
        else:
            self.skipped.append(f"image {path}: {without_objects(len(objects) + lost)}")

    def _complete(self, annotation: dict, size: tuple[int, int]) -> str:
        """Move keypoints into the image, count them, and add a missing box, in place. Returns the problem, or ""."""
        if "keypoints" not in annotation:
            return ""
        keypoints, outside = place_keypoints(annotation["keypoints"], size)
        annotation["keypoints"], annotation["num_keypoints"] = keypoints, sum(seen > 0 for seen in keypoints[2::3])
        self.repairs[OUTSIDE] += outside
        if not annotation["bbox"]:
            annotation["bbox"] = box = bounding_box(keypoints, size)
            if not box:
                return "neither a box nor a keypoint inside the image"
            annotation["area"] = box[2] * box[3]
            self.repairs[BOXED] += 1
        return ""

    def note_unused(self, images: list[str], used: Iterable[str | None]) -> None:
        """Add a note on the folder's images that are not in `used`, those of all label files and splits."""
        used = set(used)
        unused = [path for path in images if path not in used]
        if unused:
            self.notes.append(f"{len(unused)} images are in no list and no split, and are skipped: "
                              f"{', '.join(unused[:3])}{', ...' if unused[3:] else ''}")


def count_labeled(labels: Labels, split: str) -> int:
    """The number of a split's objects with a labeled keypoint that their class names."""
    return sum(name in labels.keypoints and annotation["num_keypoints"] > 0
               for image in labels.parts[split] for name, annotation in image.objects)


# ---------------------------------------------------------------- splits


def resolve_splits(labels: Labels, fraction: float, seed: int) -> None:
    """Assign every image to exactly one split, and make sure that there are training and validation images.

    If the validation split is missing, it is a fraction of the training images, chosen by the seed. Raises UserError if
    there are too few images, or a split that needs objects has none.
    """
    splits = {split: deduplicated(labels, images) for split, images in labels.parts.items()}
    for split, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if splits[split] and set(splits[split]) == set(splits[other]):
            labels.notes.append(f"{split} names the same images as {other}: it is dropped")
            splits[split] = {}
    for split, others in (("test", ("val",)), ("train", ("val", "test"))):
        twice = set(splits[split]).intersection(*[set().union(*(splits[other] for other in others))])
        if twice:
            labels.notes.append(f"{len(twice)} images of {split} are also in {' or '.join(others)}: they remain only "
                                "there")
            splits[split] = {key: image for key, image in splits[split].items() if key not in twice}
    if not splits["train"] and any(splits.values()):
        labels.notes.append("there are no training images: those of "
                            f"{' and '.join(split for split in SPLITS if splits[split])} are divided")
        splits = {"train": {**splits["val"], **splits["test"]}, "val": {}, "test": {}}
    labels.parts = {split: sorted(images.values(), key=lambda image: image.path) for split, images in splits.items()}
    for split in ("train", "val"):
        images = labels.parts[split]
        if (images or split == "train") and not any(image.objects for image in images):
            problem = f"none of the {len(images)} usable images for {split} has an object"
            raise UserError(f"{labels.folder}: {problem if images else 'no usable image'}"
                            f"{f'; {labels.skipped[0]}' if labels.skipped else ''}")
    if not labels.parts["val"]:
        labels.parts["train"], labels.parts["val"] = _divide(labels.parts["train"], fraction, seed, labels.folder)
        labels.notes.append(f"there is no validation split: {len(labels.parts['val'])} of "
                            f"{sum(map(len, labels.parts.values()))} images are split off (--val_fraction "
                            f"{fraction:g} of the training images, --seed {seed})")


def _key(name: str, annotation: dict) -> tuple:
    """What tells an object from others of its image."""
    return name, annotation["iscrowd"], repr(annotation["bbox"]), repr(annotation.get("keypoints") or "")


def deduplicated(labels: Labels, images: Iterable[LabeledImage]) -> dict[str, LabeledImage]:
    """{real path: image} of a split; an image listed repeatedly, as by one file per class, gets all of its objects."""
    kept: dict[str, LabeledImage] = {}
    joined = []
    for image in images:
        first = kept.setdefault(os.path.realpath(os.path.join(labels.folder, image.path)), image)
        if first is image:
            continue
        if first.size != image.size:
            labels.skipped.append(f"image {image.path}: listed a second time with another size")
            continue
        known = [_key(name, annotation) for name, annotation in first.objects]
        first.objects += [(name, annotation) for name, annotation in image.objects
                          if _key(name, annotation) not in known]
        joined.append(image.path)
    if joined:
        labels.notes.append(f"{len(joined)} images are listed more than once, or have several label files: each gets "
                            f"all of their objects, without duplicates ({abbreviate(joined, 3)})")
    return kept


def _divide(images: list[LabeledImage], fraction: float, seed: int,
            folder: str) -> tuple[list[LabeledImage], list[LabeledImage]]:
    """Divide images into (training, validation), both with objects.

    An image's path and the seed decide, not the order and hardly the other images. Images with and without objects are
    divided separately.
    """
    with_objects = [image for image in images if image.objects]
    if len(with_objects) < 2:
        raise UserError(f"{folder}: {len(with_objects)} usable image with objects cannot be divided into a training "
                        "and a validation split; at least two are needed")
    count = min(max(round(fraction * len(with_objects)), 1), len(with_objects) - 1)
    without = [image for image in images if not image.objects]
    chosen = {image.path for group, size in ((with_objects, count), (without, round(fraction * len(without))))
              for image in sorted(group, key=lambda image: _digest(f"{seed}/{image.path}"))[:size]}
    return [image for image in images if image.path not in chosen], [image for image in images if image.path in chosen]


def _digest(text: str) -> bytes:
    return hashlib.sha256(os.fsencode(text)).digest()


# ---------------------------------------------------------------- COCO files


def file_names(images: list[LabeledImage]) -> list[str]:
    """Unique names for a split's images in one folder: the file's name, or if several share it, the path: train_0.jpg.

    Names that differ only in case count as equal.
    """
    count = collections.Counter(name_of(image.path).casefold() for image in images)
    names, used = [], {name for name, number in count.items() if number == 1}
    for image in images:
        name = name_of(image.path)
        if count[name.casefold()] > 1:
            root, ending = os.path.splitext(image.path.replace("/", "_"))
            name, number = root + ending, 0
            while name.casefold() in used:
                number += 1
                name = f"{root}_{number}{ending}"
            used.add(name.casefold())
        names.append(name)
    return names


def coco_files(labels: Labels) -> dict[str, tuple[dict, list[tuple[str, str]]]]:
    """{split: (COCO dictionary, [(path in the folder, file name)])} of the splits that have images.

    Image and annotation ids are unique across splits.
    """
    categories = [{"id": number, "name": name, "supercategory": "none", **labels.keypoints.get(name, {})}
                  for name, number in labels.categories.items()]
    files, images_before, objects_before = {}, 0, 0
    for split, images in labels.parts.items():
        if not images:
            continue
        names = file_names(images)
        entries: list[dict] = []
        annotations: list[dict] = []
        for number, (image, name) in enumerate(zip(images, names), images_before + 1):
            entries.append({"id": number, "file_name": name, "width": image.size[0], "height": image.size[1],
                            "source": image.path, **image.facts})
            for class_name, annotation in image.objects:
                annotations.append({**annotation, "id": objects_before + len(annotations) + 1, "image_id": number,
                                    "category_id": labels.categories[class_name]})
        images_before, objects_before = images_before + len(images), objects_before + len(annotations)
        info = {"description": f"{os.path.basename(os.path.abspath(labels.folder))} {split}"}
        files[split] = ({"info": info, "images": entries, "annotations": annotations, "categories": categories},
                        [(image.path, name) for image, name in zip(images, names)])
    return files


def summary(labels: Labels) -> str:
    """A table of images, images without boxes, boxes of every class, and boxes with keypoints, by split."""
    splits = [split for split in SPLITS if labels.parts[split]]
    counts = {split: collections.Counter(name for image in labels.parts[split] for name, _ in image.objects)
              for split in splits}
    empty = [sum(not image.objects for image in labels.parts[split]) for split in splits]
    rows: list[list] = [["images", *(len(labels.parts[split]) for split in splits)], ["without boxes", *empty],
                        ["boxes", *(counts[split].total() for split in splits)]]
    rows += [[f"  {name}", *(counts[split][name] for split in splits)] for name in labels.categories]
    if labels.keypoints:
        rows.append(["with keypoints", *(count_labeled(labels, split) for split in splits)])
    return table(["", *splits], [[name, *map(str, numbers)] for name, *numbers in rows])
