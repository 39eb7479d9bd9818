"""Pascal VOC's XML files, in VOC's layout or, as from labelImg, next to the images.

VOC counts pixels from 1, and a box includes its last pixel: x = xmin - 1, width = xmax - xmin + 1, likewise y, height.
"""
import collections
import contextlib
import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from xml.etree.ElementTree import Element

from ...core import errors
from ...core.console import progress
from ...core.files import read_text
from ..objects import MAX_SIDE, turned_box
from .common import Labels
from .formats import folder_of, image_lists, images_of, name_of, split_of, stem, voc_files
from .names import alike, normalized, plain_name, plain_names, shared

TURNED = "boxes are rotated and are replaced by their upright bounding box"
SWAPPED = "boxes have their corners swapped, which is corrected"

# ---------------------------------------------------------------- one file


class _Builder(ElementTree.TreeBuilder):
    """A builder that refuses document types: only with one can a few bytes expand to gigabytes."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which label files do not need")


def read_xml(path: str) -> Element:
    """The root of a label file. Raises OSError, or ValueError if it is invalid."""
    try:
        return ElementTree.parse(path, ElementTree.XMLParser(target=_Builder())).getroot()
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(str(error)) from error


def stated_size(root: Element) -> tuple[int, int] | None:
    """(width, height) stated in a label file; None if there is none, or 0 as some tools write."""
    try:
        width, height = (int(float(root.findtext(f"size/{side}") or "")) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if min(width, height) > 0 else None


def read_object(entry: Element, first: int, repairs: Counter) -> tuple[str, dict]:
    """(class name, COCO annotation without ids) of an <object> whose box counts pixels from `first`.

    Repairs are counted in `repairs` {message: count}. Raises ValueError for an invalid object.
    """
    rotated = entry.find("robndbox")
    if rotated is not None:  # roLabelImg's: an angle, and a center that counts from 0
        x, y, width, height, angle = _numbers(rotated, ("cx", "cy", "w", "h", "angle"))
        box, angle = [x - width / 2, y - height / 2, width, height], math.degrees(angle)
    else:
        x1, y1, x2, y2 = _numbers(entry.find("bndbox"), ("xmin", "ymin", "xmax", "ymax"))
        if x1 > x2 or y1 > y2:
            x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
            repairs[SWAPPED] += 1
        if not (x1 < x2 and y1 < y2):
            raise ValueError(f"box without area {[x1, y1, x2, y2]}")
        box, angle = [x1 - first, y1 - first, x2 - x1 + 1, y2 - y1 + 1], _rotation(entry)
    if angle % 360:
        box = turned_box(box, angle)
        repairs[TURNED] += 1
    flags = {flag: int((entry.findtext(flag) or "0").strip() in ("1", "true", "True"))
             for flag in ("difficult", "truncated")}
    return (entry.findtext("name") or "").strip(), {
        "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "ignore": flags["difficult"], **flags}


def _numbers(entry: Element | None, names: Iterable[str]) -> list[float]:
    """The finite numbers under these names in an element. Raises ValueError."""
    try:
        if entry is None:
            raise ValueError
        values = [float(entry.findtext(name) or "") for name in names]
    except ValueError:
        raise ValueError("no box of four numbers") from None
    if not all(abs(value) <= MAX_SIDE for value in values):
        raise ValueError(f"box without area {values}")
    return values


def _rotation(entry: Element) -> float:
    """The rotation of a box in degrees, from CVAT's <attributes>; 0 if there is none."""
    for attribute in entry.iterfind("attributes/attribute"):
        if attribute.findtext("name") == "rotation":
            with contextlib.suppress(ValueError):
                angle = float(attribute.findtext("value") or "")
                return angle if math.isfinite(angle) else 0.0
    return 0.0


def read_objects(root: Element, first: int, path: str, labels: Labels,
                 repairs: Counter) -> tuple[list[tuple[str, str, dict]], int]:
    """Read a label file's objects: ([(name in messages, class name, COCO annotation without ids)], invalid objects).

    Invalid objects are counted and added to labels.skipped; path names the file in messages.
    """
    objects, lost = [], 0
    for number, entry in enumerate(root.iter("object"), 1):
        where = f"object {number} of {path}"
        try:
            name, annotation = read_object(entry, first, repairs)
            if not name:
                raise ValueError("it has no class name")
        except ValueError as error:
            labels.skipped.append(f"{where}: {error}")
            lost += 1
        else:
            objects.append((where, name, annotation))
    return objects, lost


def read_list(path: str, known: Collection[str] = ()) -> list[str]:
    """The names in a list of images, without duplicates.

    From a class's list (name and 1, 0 or -1), the names of images that show the class. Only known names may contain a
    space.
    """
    names = []
    for line in filter(None, map(str.strip, read_text(path, "list of images").splitlines())):
        row = line.split()
        if line in known or plain_name(line) in known or len(row) == 1:
            names.append(line)
        elif row[1] != "-1":
            names.append(row[0])
    return list(dict.fromkeys(names))


# ---------------------------------------------------------------- a folder


def read(folder: str, files: list[str], first: int = 1) -> Labels:
    """The Labels of a folder with VOC's XML files, whose boxes count pixels from `first`.

    The lists in ImageSets/Main determine the splits; without them, folder names such as train, valid and test.
    """
    labels = Labels(folder)
    images = [path for path in images_of(files)
              if not any(name.startswith("Segmentation") for name in path.split("/")[:-1])]
    listed: Sequence[tuple[str | None, str]] | None = _listed_files(folder, files, labels)
    if listed is None:
        listed = [(None, path) for path in voc_files(folder, files)]
    used, classes = read_files(labels, listed, images, first)
    if not image_lists(files):
        labels.skipped += [f"image {path}: it has no XML file" for path in images if path not in used]
    labels.categories = {name: number for number, name in enumerate(sorted(classes), 1)}
    labels.notes += alike(labels.categories)
    return labels


def read_files(labels: Labels, listed: Sequence[tuple[str | None, str]], images: list[str],
               first: int) -> tuple[set[str], set[str]]:
    """Add the images of XML files, listed [(split, path in the folder)], to labels.

    A split of None follows from the folder names. The boxes count pixels from `first`. Returns the images that have an
    XML file, and the class names.
    """
    find, outside = _Finder(images), 0
    used: set[str] = set()
    classes: set[str] = set()
    repairs: Counter = Counter()
    for split, path in progress(listed, "reading labels"):
        try:
            root = read_xml(os.path.join(labels.folder, path))
            image = find(path, root.findtext("filename") or "")
        except (ValueError, OSError) as error:
            labels.skipped.append(f"{path}: {errors.reason(error)}")
            used.update(find.of_stem(path))
            continue
        used.add(image)
        size = labels.size_of(image, stated_size(root))
        if size is None:
            continue
        objects, lost = read_objects(root, first, path, labels, repairs)
        outside += sum(min(annotation["bbox"][:2]) < 0 for _, _, annotation in objects)
        classes.update(name for _, name, _ in objects)
        split = split or split_of(folder_of(image)) or split_of(folder_of(path)) or "train"
        labels.add(split, image, size, objects, lost)
    if outside and first:
        labels.notes.append(f"{outside} boxes begin before the first pixel: if these annotations count from 0, set "
                            "--zero_based")
    labels.notes += [f"{count} {message}" for message, count in repairs.items()]
    return used, classes


class _Finder:
    """Finds the image of an XML file: the one of the same name, else the one named in the XML file."""

    def __init__(self, images: Iterable[str]):
        self.by_stem: dict[str, list[str]] = collections.defaultdict(list)
        self.by_name: dict[str, list[str]] = collections.defaultdict(list)
        for path in images:
            self.by_stem[plain_name(stem(path))].append(path)
            self.by_name[plain_name(name_of(path))].append(path)

    def of_stem(self, path: str) -> list[str]:
        """The images with the name of an XML file."""
        return self.by_stem[plain_name(stem(path))]

    def __call__(self, path: str, filename: str) -> str:
        """The image of the XML file at path, which names `filename`. Raises ValueError if missing or ambiguous."""
        named = name_of(normalized(filename.strip()))
        found = self.of_stem(path) or self.by_name[plain_name(named)]
        if not found:
            raise ValueError(f"found neither an image {stem(path)!r} nor the image {filename[:200]!r} that it names")
        folder, most = folder_of(path), max(shared(image, path) for image in found)
        in_voc = "/".join(filter(None, [folder_of(folder), "JPEGImages"]))
        # Criteria to narrow down the candidates, the strongest first.
        for test in (lambda image: shared(image, path) == most, lambda image: name_of(image) == named,
                     lambda image: plain_name(name_of(image)) == plain_name(named),
                     lambda image: stem(image) == stem(path),
                     lambda image: folder_of(image) == folder, lambda image: folder_of(image) == in_voc):
            found = [image for image in found if test(image)] or found
        if len(found) > 1:
            raise ValueError(f"its image is ambiguous: {' or '.join(sorted(found)[:2])}")
        return found[0]


def _listed_files(folder: str, files: list[str], labels: Labels) -> list[tuple[str, str]] | None:
    """[(split, XML file)] from the lists in ImageSets/Main; None if there are no lists."""
    lists: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for path in image_lists(files):
        lists[path[: -len(f"ImageSets/Main/{name_of(path)}")]][stem(path)] = path
    found = []
    for root, named in lists.items():
        begin = f"{root}Annotations/"
        known = {path[len(begin) : -len(".xml")]: path
                 for path in files if path.startswith(begin) and path.lower().endswith(".xml")}
        plain = plain_names(known)
        chosen = _choose_lists(named)
        listed = set()
        for split, path in chosen:
            for name in read_list(os.path.join(folder, path), {*known, *plain}):
                name = name if name in known else plain.get(plain_name(name), name)
                listed.add(name)
                if name in known:
                    found.append((split, known[name]))
                else:
                    labels.skipped.append(f"image {name} of {path}: {begin}{name}.xml is missing")
        labels.skipped += [f"{path}: not in the lists that are read ({', '.join(name for _, name in chosen)})"
                           for name, path in known.items() if name not in listed]
    return found if lists else None


def _choose_lists(named: dict[str, str]) -> list[tuple[str, str]]:
    """Choose among VOC's lists {name: list}: [(split, list)].

    train and val take precedence over trainval; without any of VOC's names, all lists are read except those of classes.
    """
    usual = {"train": named.get("train", named.get("trainval")), "val": named.get("val"), "test": named.get("test")}
    chosen = [(split, path) for split, path in usual.items() if path]
    plain = [name for name in sorted(named) if not re.search("_(train|val|trainval|test)$", name)]
    return chosen or [(split_of(name) or "train", named[name]) for name in plain]
