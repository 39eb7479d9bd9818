"""YOLO's labels: a txt file for each image with a line "class x y width height" for each object, in fractions of the image.

data.yaml names classes and parts. The fractions are of the image turned as EXIF says, as YOLO's own loaders and most tools show it.
"""
import os

import yaml

from ...core import errors
from ...core.console import progress
from ...core.errors import UserError
from ...core.files import read_text
from .common import Labels
from .formats import CLASS_FILES, folder_of, images_of, name_of, part_of, yaml_files
from .names import alike, match_names, normalized
from .yolo_files import match_labels

MAX_CLASS = 2**31 - 1
TOLERANCE = 0.01  # of the image, by which a coordinate may lie outside
PART_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
LISTS = [f"{name}.txt" for names in PART_NAMES.values() for name in names]


# ---------------------------------------------------------------- one file


def parse_line(line, keypoints=False):
    """(class id, [x, y, width, height] of the box in fractions of the image, from its upper left corner) of a line.

    A line of more than five numbers is a polygon, whose box is taken, or with keypoints a box and points. Coordinates may be outside of 0
    to 1 by TOLERANCE, as in YOLO's own loader; the box is cut to the image. Raises ValueError that says why it is no label.
    """
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        raise ValueError("not only numbers") from None
    if len(values) < 5 or (len(values) > 5 and len(values) % 2 == 0 and not keypoints):
        raise ValueError(f"{len(values)} numbers; expected a class and a box of 4, or a polygon of at least 3 points")
    label = values[0]
    if not 0 <= label <= MAX_CLASS or not label.is_integer():
        raise ValueError(f"class {line.split()[0][:50]}; expected a whole number from 0")
    values = values[1:5] if keypoints else values[1:]
    outside = next((value for value in values if not -TOLERANCE <= value <= 1 + TOLERANCE), None)
    if outside is not None:
        raise ValueError(f"coordinates outside of 0 to 1 ({outside:g})")
    if len(values) == 4:
        x, y, width, height = values
        return int(label), _inside(x - width / 2, y - height / 2, width, height)
    left, top = min(values[::2]), min(values[1::2])
    return int(label), _inside(left, top, max(values[::2]) - left, max(values[1::2]) - top)


def _inside(x, y, width, height):
    """The part of a box, in fractions, that lies in the image; a box that does stays as it is to the last digit."""
    if x < 0:
        x, width = 0.0, width + x
    if y < 0:
        y, height = 0.0, height + y
    return [x, y, min(width, 1 - x) if x + width > 1 else width, min(height, 1 - y) if y + height > 1 else height]


def read_lines(folder, path, what):
    """The lines of a text file, stripped. Raises UserError that says what it should have been, or OSError."""
    return [line.strip() for line in read_text(os.path.join(folder, path), what).split("\n")]


def read_description(folder, path):
    """What data.yaml says: a dictionary whose values are texts, lists and dictionaries. Raises UserError if it is none."""
    text = read_text(os.path.join(folder, path), "a description of YOLO labels")
    try:
        # All values stay texts: classes that are called no or 1 are not to become False and a number. Tags make no objects.
        content = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{os.path.join(folder, path)}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{os.path.join(folder, path)}: not a description of YOLO labels (it holds no names and values)")
    return content


def class_names(description):
    """{class id: name} of what data.yaml says: names as a list, or a dictionary by ids. Raises UserError for anything else."""
    names = description.get("names") or []
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not all(isinstance(name, str) and _is_class(number) for number, name in names.items()):
        raise UserError("names cannot be read; expected a list of class names, or a dictionary {0: name, 1: name}")
    return {int(number): name.strip() or f"class_{number}" for number, name in names.items()}


def _is_class(text):
    """Whether a text is a class id."""
    return str(text).isdecimal() and len(str(text)) < 10


def class_count(description):
    """nc of data.yaml, 0 without it. Raises UserError for what is no number."""
    count = description.get("nc") or "0"
    if not _is_class(count):
        raise UserError("nc cannot be read; expected a number of classes")
    return int(count)


# ---------------------------------------------------------------- a folder


def read(folder, files):
    """The Labels of a folder with YOLO's labels.

    data.yaml names the parts; without it, lists train.txt, val.txt, test.txt, or folders that are called train, valid, test or the like.
    An image without a label file has no objects; one whose label file lies elsewhere, or may be another's, is left out.
    """
    labels, images = Labels(folder), images_of(files)
    path = _description_path(folder, files)
    description = read_description(folder, path) if path else {}
    parts = _described_parts(folder, files, path, description, labels) if path else None
    if parts is None:
        parts = _listed_parts(folder, files, labels) or [(part_of(folder_of(image)) or "train", image) for image in images]
    with errors.about(os.path.join(folder, path or "")):
        names = class_names(description)
        count = class_count(description)
    names = names or _names_beside(folder, files, labels)
    owned, unclear, stray = match_labels(folder, parts, files)
    used = set()
    for part, image in progress(parts, "reading labels"):
        if image in unclear:
            labels.skipped.append(f"image {image}: {unclear[image]}")
            continue
        objects, lost = _read_labels(folder, image, owned.get(image), labels, bool(description.get("kpt_shape")))
        size = labels.size_of(image) if objects is not None else None
        if size is None:
            continue
        kept = []
        for where, label, box in objects:
            if names and label not in names and label >= count:
                labels.skipped.append(f"{where}: class {label}, and there are {max(len(names), count)} classes")
                lost += 1
                continue
            used.add(label)
            box = [value * side for value, side in zip(box, size * 2)]
            kept.append((where, names.get(label) or f"class_{label}", {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}))
        labels.add(part, image, size, kept, lost)
    labels.note_unused(images, {image for _, image in parts})
    labels.skipped += [f"{path}: no image of this name" for path in stray if name_of(path) not in (*CLASS_FILES, *LISTS)]
    labels.categories = _categories(names, used, labels)
    labels.notes += alike(labels.categories)
    return labels


def _read_labels(folder, image, path, labels, keypoints):
    """([(what it is called, class id, box in fractions)], how many lines are none) of an image's label file, None and 0 if it cannot be
    read."""
    objects, lost = [], 0
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
            objects.append((where, *parse_line(line, keypoints)))
        except ValueError as error:
            labels.skipped.append(f"{where}: {error}")
            lost += 1
    return objects, lost


# ---------------------------------------------------------------- classes


def _categories(names, used, labels):
    """{class name: category id}, in the order of the class ids, of the named classes and the used ones."""
    categories = {}
    for label in sorted({*names, *used}):
        name = names.get(label) or f"class_{label}"
        if name in categories:
            labels.notes.append(f"class {label} has the name of another, {name}: both count as one")
        categories.setdefault(name, label + 1)
    unnamed = sorted(used - set(names))
    if unnamed:
        shown = ", ".join(map(str, unnamed[:10])) + (", ..." if unnamed[10:] else "")
        labels.notes.append(f"nothing names the classes {shown}: they are called class_ and their number")
    return categories


def _names_beside(folder, files, labels):
    """{class id: name} of classes.txt, obj.names or the like, a name a line; {} without one. Raises UserError if two differ."""
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


# ---------------------------------------------------------------- parts


def _description_path(folder, files):
    """data.yaml, under whatever name. Raises UserError if there are several to choose from."""
    paths = yaml_files(folder, files)
    best = [path for path in paths if name_of(path) == "data.yaml"] or paths
    if len(best) > 1:
        raise UserError(f"{folder}: {', '.join(best)} describe YOLO labels; leave one of them, or call it data.yaml")
    return best[0] if best else None


def _described_parts(folder, files, path, description, labels):
    """[(part, image)] that data.yaml names; None if it names no part. Raises UserError if its training images are not in the folder."""
    base = f"{folder_of(path)}/{description['path'] if isinstance(description.get('path'), str) else ''}"
    found, named = [], False
    for part, keys in PART_NAMES.items():
        values = next((description[key] for key in keys if description.get(key)), [])
        values = values if isinstance(values, list) else [values]
        for value in filter(None, values):
            named = True
            name, images = _images_named(folder, files, path, base, value, labels) if isinstance(value, str) else (None, [])
            if name is None:
                shown = value[:200] if isinstance(value, str) else "something else"
                problem = f"{path} names {shown!r} for {part}, which is no folder and no list of images in {folder}"
                if part == "train":
                    raise UserError(f"{problem}; only what is in that folder is read: give the folder that holds the images, too")
                labels.notes.append(problem)
                continue
            labels.notes.append(f"{part}: {len(images)} images of {name or '.'} ({value[:200]} in {path})")
            found += [(part, image) for image in images]
    return found if named else None


def _images_named(folder, files, path, base, value, labels):
    """(folder or list, its images) that data.yaml at path means with a value; (None, []) if neither is in the folder.

    A path is taken from what `path` says and from data.yaml's folder. As it may be another machine's, or lead out of the folder as
    Roboflow's ../train/images do, its first folders are left out until it fits.
    """
    home = folder_of(path)
    names = [normalized(f"{base}/{value}"), normalized(f"{home}/{normalized(value)}"), normalized(value)]
    components = normalized(value).split("/")[-16:]
    names += ["/".join([*filter(None, [home]), *components[index:]]) for index in range(1, len(components))]
    there = images_of(files)
    for name in names:
        if name in files and name.lower().endswith(".txt"):
            return name, _images_listed(folder, files, name, labels)
        begin = f"{name}/" if name else ""
        images = [image for image in there if image.startswith(begin)]
        if images:
            return name, images
    return None, []


def _listed_parts(folder, files, labels):
    """[(part, image)] that train.txt, val.txt (valid.txt) and test.txt list, as darknet and CVAT have them; [] without a train.txt."""
    lists = [(part, path) for part, names in PART_NAMES.items() for path in files if name_of(path) in [f"{name}.txt" for name in names]]
    depth = min((path.count("/") for _, path in lists), default=0)
    found = {}
    for part, path in lists:
        if path.count("/") == depth and part not in found:
            images = _images_listed(folder, files, path, labels, quiet=True)
            if images:
                labels.notes.append(f"{part}: {len(images)} images of {path}")
                found[part] = images
    return [(part, image) for part, images in found.items() for image in images] if "train" in found else []


def _images_listed(folder, files, path, labels, quiet=False):
    """The images that a text file lists, a line each; those that are not there are named, unless with quiet none is there: the file then
    is something else."""
    lines = list(filter(None, read_lines(folder, path, "a list of images")))
    images = match_names(lines, images_of(files), path)
    if any(images) or not quiet:
        labels.skipped += [f"image {line[:200]} of {path}: not in {folder}" for line, image in zip(lines, images) if image is None]
    return [image for image in images if image]
