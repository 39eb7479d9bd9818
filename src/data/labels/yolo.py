"""YOLO's labels: a txt file per image with a line "class x y width height" per object, in fractions of the image.

In YOLO's pose labels, x, y and mostly the visibility of each keypoint follow. data.yaml names classes and splits. The
fractions refer to the image after EXIF rotation, as YOLO's own loaders and most tools show it.
"""
import os
from typing import Any

from ...core import errors
from ...core.console import progress
from ...core.errors import UserError
from ...core.files import read_text
from .common import Labels
from .formats import CLASS_FILES, folder_of, images_of, name_of, split_of, yaml_files
from .names import alike, match_names, normalized
from .yolo_description import Keypoints, class_count, class_names, read_keypoints, read_yaml
from .yolo_files import match_labels, parse_line

SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
LISTS = [f"{name}.txt" for names in SPLIT_NAMES.values() for name in names]

# ---------------------------------------------------------------- reading files


def read_lines(folder: str, path: str, what: str) -> list[str]:
    """The stripped lines of a text file. Raises OSError, or UserError that calls the file `what`."""
    return [line.strip() for line in read_text(os.path.join(folder, path), what).split("\n")]


# ---------------------------------------------------------------- a folder


def read(folder: str, files: list[str], task: str = "auto") -> Labels:
    """The Labels of a folder with YOLO's labels; for the task "detection" without keypoints.

    data.yaml names the splits; without it, lists train.txt, val.txt, test.txt do, or folder names such as train, valid
    and test. An image without a label file has no objects; an image whose label file is elsewhere or ambiguous is
    skipped.
    """
    labels, images = Labels(folder), images_of(files)
    path = _description_path(folder, files)
    description = read_yaml(folder, path) if path else {}
    listed = _described_images(folder, files, path, description, labels) if path else None
    if listed is None:
        listed = (_listed_images(folder, files, labels)
                  or [(split_of(folder_of(image)) or "train", image) for image in images])
    with errors.prefix_errors(os.path.join(folder, path or "")):
        names = class_names(description)
        count = class_count(description)
        described = read_keypoints(description)
    keypoints = described if task != "detection" else None
    values_of_box = 5 if described and not keypoints else None
    names = names or _listed_names(folder, files, labels)
    owned, unclear, stray = match_labels(folder, listed, files)
    used: set[int] = set()
    for split, image in progress(listed, "reading labels"):
        if image in unclear:
            labels.skipped.append(f"image {image}: {unclear[image]}")
            continue
        objects, lost = _read_labels(folder, image, owned.get(image), labels, keypoints, values_of_box)
        size = labels.size_of(image) if objects is not None else None
        if objects is None or size is None:
            continue
        kept = []
        for where, label, box, points in objects:
            if names and label not in names and label >= count:
                labels.skipped.append(f"{where}: class {label}, but there are {max(len(names), count)} classes")
                lost += 1
                continue
            used.add(label)
            box = [value * side for value, side in zip(box, size * 2)]
            annotation = {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            if keypoints:
                annotation["keypoints"] = [value * side for point in points for value, side in zip(point, (*size, 1))]
            kept.append((where, names.get(label) or f"class_{label}", annotation))
        labels.add(split, image, size, kept, lost)
    labels.note_unused(images, {image for _, image in listed})
    labels.skipped += [f"{path}: no image of this name"
                       for path in stray if name_of(path) not in (*CLASS_FILES, *LISTS)]
    labels.categories = _categories(names, used, labels)
    labels.notes += alike(labels.categories)
    if keypoints:
        labels.keypoints = {name: keypoints.fields(number - 1) for name, number in labels.categories.items()}
        labels.notes += _keypoint_notes(path, description)
    return labels


def _keypoint_notes(path: str | None, description: dict[str, Any]) -> list[str]:
    """Notes on the names and the mirror pairs of keypoints, if data.yaml lacks them."""
    if description.get("kpt_names"):
        return []
    pairs = "" if description.get("flip_idx") else (", and without flip_idx, none is the mirror image of another "
                                                    "(dataset_config.flip_idx sets such pairs)")
    return [f"{path} has no kpt_names: keypoints are named keypoint_1, keypoint_2, ...{pairs}"]


def _read_labels(folder: str, image: str, path: str | None, labels: Labels, keypoints: Keypoints | None,
                 most: int | None) -> tuple[list[tuple[str, int, list, list]] | None, int]:
    """Read an image's label file: ([(name in messages, class id, box, keypoints)], number of invalid lines).

    Box and keypoints as from parse_line; only the first `most` values of a line count. None and 0 if the file cannot be
    read.
    """
    objects: list[tuple[str, int, list, list]] = []
    lost = 0
    if path is None:
        return objects, lost
    try:
        lines = read_lines(folder, path, "labels")
    except (UserError, OSError) as error:
        labels.skipped.append(f"image {image}: {errors.reason(error)}")
        return None, 0
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        where = f"{path}, line {number}"
        try:
            objects.append((where, *parse_line(" ".join(line.split()[:most]), keypoints)))
        except ValueError as error:
            labels.skipped.append(f"{where}: {error}")
            lost += 1
    return objects, lost


# ---------------------------------------------------------------- classes


def _categories(names: dict[int, str], used: set[int], labels: Labels) -> dict[str, int]:
    """{class name: category id} of the named and the used classes, in the order of the class ids."""
    categories: dict[str, int] = {}
    for label in sorted({*names, *used}):
        name = names.get(label) or f"class_{label}"
        if name in categories:
            labels.notes.append(f"class {label} has the same name as another, {name}: they are merged")
        categories.setdefault(name, label + 1)
    unnamed = sorted(used - set(names))
    if unnamed:
        shown = ", ".join(map(str, unnamed[:10])) + (", ..." if unnamed[10:] else "")
        labels.notes.append(f"no names found for classes {shown}: they are named class_ and their number")
    return categories


def _listed_names(folder: str, files: list[str], labels: Labels) -> dict[int, str]:
    """{class id: name} from classes.txt, obj.names or the like, one name per line; {} if there is no such file.

    Raises UserError if there are several that differ.
    """
    found = {}
    for path in files:
        if name_of(path) in CLASS_FILES or path.endswith(".names"):
            lines = read_lines(folder, path, "a list of classes")
            while lines and not lines[-1]:
                lines.pop()
            found[path] = {number: name or f"class_{number}" for number, name in enumerate(lines)}
    if len({tuple(names.values()) for names in found.values()}) > 1:
        raise UserError(f"{folder}: {' and '.join(found)} name different classes; write a data.yaml with names: [...]")
    if found:
        labels.notes.append(f"class names: {next(iter(found))}")
    return next(iter(found.values()), {})


# ---------------------------------------------------------------- splits


def _description_path(folder: str, files: list[str]) -> str | None:
    """The path of data.yaml, under any name, or None. Raises UserError if there are several candidates."""
    paths = yaml_files(folder, files)
    best = [path for path in paths if name_of(path) == "data.yaml"] or paths
    if len(best) > 1:
        raise UserError(f"{folder}: {', '.join(best)} describe YOLO labels; keep one of them, or name it data.yaml")
    return best[0] if best else None


def _described_images(folder: str, files: list[str], path: str, description: dict[str, Any],
                      labels: Labels) -> list[tuple[str, str]] | None:
    """[(split, image)] from data.yaml; None if it names no split. Raises UserError if training images are missing."""
    base = f"{folder_of(path)}/{description['path'] if isinstance(description.get('path'), str) else ''}"
    found: list[tuple[str, str]] = []
    places: list[str] = []
    named = False
    for split, keys in SPLIT_NAMES.items():
        values: Any = next((description[key] for key in keys if description.get(key)), [])
        values = values if isinstance(values, list) else [values]
        for value in filter(None, values):
            named = True
            name, images = _images_named(folder, files, path, base, value, labels)
            if name is None:
                shown = value[:200] if isinstance(value, str) else "something else"
                problem = (f"{path} names {shown!r} for {split}, which is neither a folder nor a list of images in "
                           f"{folder}")
                if split == "train":
                    raise UserError(f"{problem}; only files in that folder are read: choose one that also holds the "
                                    "images")
                if split == "test" and isinstance(value, str):  # Roboflow's data.yaml names it without such images
                    places.append(f"test is missing ({shown})")
                else:
                    labels.notes.append(problem)
                continue
            places.append(f"{split} is {name or '.'} ({len(images)} images)")
            found += [(split, image) for image in images]
    labels.notes += [f"{path}: {', '.join(places)}"] if places else []
    return found if named else None


def _images_named(folder: str, files: list[str], path: str, base: str, value: object,
                  labels: Labels) -> tuple[str | None, list[str]]:
    """(folder or list, its images) for a value in the data.yaml at path; (None, []) if it is not in the folder.

    The value is resolved relative to `base`, which includes data.yaml's `path`, and to data.yaml's folder. It may be
    from another machine, or lead out of the folder as Roboflow's ../train/images does: leading folders are stripped
    until it matches.
    """
    if not isinstance(value, str):
        return None, []
    home = folder_of(path)
    names = [normalized(f"{base}/{value}"), normalized(f"{home}/{normalized(value)}"), normalized(value)]
    components = normalized(value).split("/")[-16:]
    names += ["/".join([*filter(None, [home]), *components[index:]]) for index in range(1, len(components))]
    present = images_of(files)
    for name in names:
        if name in files and name.lower().endswith(".txt"):
            return name, _images_in_list(folder, files, name, labels)
        begin = f"{name}/" if name else ""
        images = [image for image in present if image.startswith(begin)]
        if images:
            return name, images
    return None, []


def _listed_images(folder: str, files: list[str], labels: Labels) -> list[tuple[str, str]]:
    """[(split, image)] from train.txt, val.txt (valid.txt), test.txt, as in darknet, CVAT; [] without a train.txt."""
    lists = [(split, path) for split, names in SPLIT_NAMES.items() for path in files
             if name_of(path) in [f"{name}.txt" for name in names]]
    depth = min((path.count("/") for _, path in lists), default=0)
    found: dict[str, list[str]] = {}
    for split, path in lists:
        if path.count("/") == depth and split not in found:
            images = _images_in_list(folder, files, path, labels, quiet=True)
            if images:
                labels.notes.append(f"{split}: {len(images)} images of {path}")
                found[split] = images
    return [(split, image) for split, images in found.items() for image in images] if "train" in found else []


def _images_in_list(folder: str, files: list[str], path: str, labels: Labels, quiet: bool = False) -> list[str]:
    """The images in a text file with one path per line.

    Missing ones are added to labels.skipped; not so with quiet if all are missing, as the file is then no list.
    """
    lines = list(filter(None, read_lines(folder, path, "a list of images")))
    images = match_names(lines, images_of(files), path)
    if any(images) or not quiet:
        labels.skipped += [f"image {line[:200]} of {path}: not in {folder}"
                           for line, image in zip(lines, images) if image is None]
    return [image for image in images if image]
