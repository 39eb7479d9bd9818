"""KITTI's labels of objects: training/ with image_2, label_2 and calib, and mostly lists of images in ImageSets.

A line of label_2/000000.txt is an object: type, truncated, occluded, alpha, a box x1 y1 x2 y2 in pixels, height, width
and length, location x y z, rotation_y, in results also a score; for units see boxes_3d.py. The row P2 of
calib/000000.txt is the projection matrix of the camera of image_2.
"""
import collections
import os
from collections.abc import Collection, Iterable, Mapping

from ...core import errors
from ...core.console import progress
from ...core.errors import UserError
from ...core.tables import abbreviate
from ...imaging.camera import read_calib
from ...tasks.ddd.categories import KITTI
from ..objects import MAX_SIDE
from .boxes_3d import check_box
from .common import Labels
from .formats import folder_of, images_in, images_of, kitti_home, name_of, stem
from .names import alike
from .yolo import read_lines

LISTS = ("train.txt", "val.txt", "trainval.txt")


def read(folder: str, files: list[str], task: str = "auto", chosen: str | None = None) -> Labels:
    """The Labels of a folder with KITTI's labels; for the task "detection" without calibrations.

    The lists train and val of an ImageSets folder, the `chosen` one of several, name the splits; without lists all
    images are for training. The images of testing/, which have no labels, are the test split. Raises UserError if the
    labels, the calibrations or the chosen lists are missing.
    """
    labels, home = Labels(folder), kitti_home(folder, files)
    if home is None:
        raise UserError(f"{folder}: no folder with image_2 and label_2 of KITTI")
    if not _has_calib(folder, home, task):
        raise UserError(f"{folder}: {os.path.join(home, 'calib')}, the calibrations of KITTI's images, is missing; add "
                        "it, or import boxes alone with --task detection")
    found = images_in(folder, files, os.path.join(home, "image_2"))
    images = {stem(path): path for path in sorted(found, key=lambda path: path.lower().endswith(".png"))}
    listed = _listed_images(labels, images, _chosen_lists(folder, files, chosen))
    types = _read_images(labels, listed, home, task)
    tests = _test_images(labels, files, home, task)
    _read_images(labels, [("test", path) for path in tests], _testing(home), task)
    labels.note_unused(images_of(files), [path for _, path in listed] + tests)
    labels.skipped += [f"{path}: no image of this name" for path in files
                       if folder_of(path) == os.path.join(home, "label_2") and stem(path) not in images]
    others = sorted(types.difference(KITTI))
    if others:
        labels.notes.append(f"types that KITTI does not have are further classes: {abbreviate(others)}")
    labels.categories = {name: number for number, name in enumerate((*KITTI, *others), 1)}
    labels.notes += alike(labels.categories)
    return labels


def parse_line(line: str) -> tuple[str, dict]:
    """Parse a line of a label file: (type, COCO annotation without ids). Raises UserError for an invalid label."""
    kind, *words = line.split()
    if len(words) not in (14, 15):
        raise UserError(f"{len(words) + 1} columns; expected 15, or 16 with a score")
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise UserError("not all values after the type are numbers") from None
    wrong = next((word for word, value in zip(words, values) if not abs(value) <= MAX_SIDE), None)
    if wrong is not None:
        raise UserError(f"value {wrong[:50]}; expected a number up to {MAX_SIDE:g}")
    truncated, occluded, alpha, x1, y1, x2, y2 = values[:7]
    if not occluded.is_integer():
        raise UserError(f"occluded {occluded:g}; expected an integer")
    annotation = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0, "dim": values[7:10],
                  "location": values[10:13], "depth": values[12], "alpha": alpha, "rotation_y": values[13],
                  "truncated": truncated, "occluded": int(occluded)}
    check_box(annotation, kind)
    return kind, annotation


def _read_images(labels: Labels, listed: Collection[tuple[str, str]], home: str, task: str) -> set[str]:
    """Add the images [(split, path)] whose calibrations, and labels unless the split is test, are in the folder home;
    returns their types."""
    types: set[str] = set()
    for split, image in progress(listed, "reading labels"):
        path = os.path.join(home, "label_2", f"{stem(image)}.txt")
        calib = os.path.join(labels.folder, home, "calib", f"{stem(image)}.txt")
        try:
            facts = {} if task == "detection" else {"calib": read_calib(calib).tolist()}
            lines = [] if split == "test" else read_lines(labels.folder, path, "labels")
        except (UserError, OSError) as error:
            labels.skipped.append(f"image {image}: {errors.reason(error)}")
            continue
        size = labels.size_of(image)
        if size is None:
            continue
        objects, lost = [], 0
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            try:
                objects += [(where, *parse_line(line))] if line else []
            except UserError as error:
                labels.skipped.append(f"{where}: {error}")
                lost += 1
        types.update(kind for _, kind, _ in objects)
        labels.add(split, image, size, objects, lost, facts)
    return types


# ---------------------------------------------------------------- splits


def _has_calib(folder: str, home: str, task: str) -> bool:
    """Whether a folder has the calibrations that the task needs."""
    return task == "detection" or os.path.isdir(os.path.join(folder, home, "calib"))


def _testing(home: str) -> str:
    """The folder testing next to the folder training, or in another one that holds image_2."""
    return os.path.join(folder_of(home) if name_of(home) == "training" else home, "testing")


def _test_images(labels: Labels, files: list[str], home: str, task: str) -> list[str]:
    """The images of testing/, none if the calibrations are missing that the task needs; adds a note."""
    place = _testing(home)
    images = images_in(labels.folder, files, os.path.join(place, "image_2"))
    usable = _has_calib(labels.folder, place, task)
    if images:
        labels.notes.append(f"test: {len(images)} images of {place}, which has no labels to score against" if usable
                            else f"{place} is not imported: it has no folder calib")
    return images if usable else []


def _chosen_lists(folder: str, files: Iterable[str], chosen: str | None) -> dict[str, str]:
    """{"train", "val" or "trainval": list} of the only or the chosen ImageSets folder; {} if there are no lists.

    ImageSets_3dop and ImageSets/3dop are called 3dop. Raises UserError if the choice is missing or unknown.
    """
    lists: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for path in files:
        place = folder_of(path)
        if name_of(path) in LISTS and any(name.startswith("ImageSets") for name in place.split("/")):
            lists[place][stem(path)] = path
    names = {place: name_of(place).removeprefix("ImageSets_") for place in lists}
    if chosen is None and len(lists) < 2:
        return next(iter(lists.values()), {})
    if not lists:
        raise UserError(f"{folder}: no ImageSets folder with {' or '.join(LISTS)}; leave --kitti_split out")
    found = [place for place in lists if chosen in (place, name_of(place), names[place])]
    if len(found) != 1:
        unique = [names[place] if [*names.values()].count(names[place]) == 1 else place for place in lists]
        problem = "several lists of images" if chosen is None else f"no lists, or several, called {chosen}"
        raise UserError(f"{folder}: {problem}; choose with --kitti_split {' or '.join(unique)}")
    return lists[found[0]]


def _listed_images(labels: Labels, images: Mapping[str, str], lists: Mapping[str, str]) -> list[tuple[str, str]]:
    """[(split, image)] of the images {name: path}; names in the lists that have no image are added to skipped."""
    if not lists:
        return [("train", path) for path in images.values()]
    listed = []
    for split, path in (("train", lists.get("train") or lists.get("trainval")), ("val", lists.get("val"))):
        names = list(dict.fromkeys(filter(None, read_lines(labels.folder, path, "a list of images")))) if path else []
        known = [images[name] for name in names if name in images]
        labels.skipped += [f"image {name[:200]} of {path}: no image of this name" for name in names
                           if name not in images]
        labels.notes += [f"{split}: {len(known)} images of {path}"] if path else []
        listed += [(split, image) for image in known]
    return listed
