"""Pascal VOC's XML files, as VOC lays them out and as labelImg does, beside the images.

VOC counts pixels from 1, and a box's last pixel belongs to it: x = xmin - 1, width = xmax - xmin + 1, likewise y and height.
"""
import collections
import contextlib
import math
import os
import re
import xml.etree.ElementTree as ElementTree

from ...core import errors
from ...core.console import progress
from ...core.files import read_text
from ..objects import MAX_SIDE, turned_box
from .common import Labels
from .formats import folder_of, image_lists, images_of, name_of, part_of, stem, voc_files
from .names import alike, normalized, plain_name, plain_names, shared

TURNED = "boxes are turned: the upright box around each counts"
SWAPPED = "boxes have their corners swapped, and count as if they had not"

# ---------------------------------------------------------------- one file


class _Builder(ElementTree.TreeBuilder):
    """Builds a tree of a file without a document type: only there can a few bytes stand for gigabytes."""

    def doctype(self, name, pubid, system):
        raise ValueError("it declares a document type, which no label file needs")


def read_xml(path):
    """The root of a label file. Raises OSError, or ValueError that says why it is none."""
    try:
        return ElementTree.parse(path, ElementTree.XMLParser(target=_Builder())).getroot()
    except (ElementTree.ParseError, LookupError) as error:
        raise ValueError(str(error)) from error


def stated_size(root):
    """(width, height) that a label file states, None if it states none: some tools write 0."""
    try:
        size = tuple(int(float(root.findtext(f"size/{side}"))) for side in ("width", "height"))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def read_object(entry, first, mended):
    """(class name, COCO annotation without ids) of an <object>, whose box counts pixels from `first`. Raises ValueError that says why it is
    none. What is mended is counted in the Counter `mended` {sentence: number}."""
    turned = entry.find("robndbox")
    if turned is not None:  # roLabelImg's: a center, which counts from 0, and an angle
        x, y, width, height, angle = _numbers(turned, ("cx", "cy", "w", "h", "angle"))
        box, angle = [x - width / 2, y - height / 2, width, height], math.degrees(angle)
    else:
        x1, y1, x2, y2 = _numbers(entry.find("bndbox"), ("xmin", "ymin", "xmax", "ymax"))
        if x1 > x2 or y1 > y2:
            x1, x2, y1, y2 = min(x1, x2), max(x1, x2), min(y1, y2), max(y1, y2)
            mended[SWAPPED] += 1
        if not (x1 < x2 and y1 < y2):
            raise ValueError(f"box without area {[x1, y1, x2, y2]}")
        box, angle = [x1 - first, y1 - first, x2 - x1 + 1, y2 - y1 + 1], _rotation(entry)
    if angle % 360:
        box = turned_box(box, angle)
        mended[TURNED] += 1
    flags = {flag: int((entry.findtext(flag) or "0").strip() in ("1", "true", "True")) for flag in ("difficult", "truncated")}
    return (entry.findtext("name") or "").strip(), {
        "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "ignore": flags["difficult"], **flags}


def _numbers(entry, names):
    """The finite numbers of these names in an element. Raises ValueError."""
    try:
        values = [float(entry.findtext(name)) for name in names]
    except (AttributeError, TypeError, ValueError):
        raise ValueError("no box of four numbers") from None
    if not all(abs(value) <= MAX_SIDE for value in values):
        raise ValueError(f"box without area {values}")
    return values


def _rotation(entry):
    """The degrees by which CVAT's <attributes> say that a box is turned, 0 without."""
    for attribute in entry.iterfind("attributes/attribute"):
        if attribute.findtext("name") == "rotation":
            with contextlib.suppress(TypeError, ValueError):
                angle = float(attribute.findtext("value"))
                return angle if math.isfinite(angle) else 0.0
    return 0.0


def read_objects(root, first, what, labels, mended):
    """[(what it is called, class name, COCO annotation without ids)] of the objects in a label file that can be read, and how many cannot;
    `what` names the file in the sentences that labels.skipped gets about these."""
    objects, lost = [], 0
    for number, entry in enumerate(root.iter("object"), 1):
        where = f"object {number} of {what}"
        try:
            name, annotation = read_object(entry, first, mended)
            if not name:
                raise ValueError("it names no class")
        except ValueError as error:
            labels.skipped.append(f"{where}: {error}")
            lost += 1
        else:
            objects.append((where, name, annotation))
    return objects, lost


def read_list(path, known=()):
    """The names in a list of images, each once; of a class's list (name and 1, 0 or -1) those that show it. A name may have a space if it
    is known."""
    names = []
    for line in filter(None, map(str.strip, read_text(path, "list of images").splitlines())):
        row = line.split()
        if line in known or plain_name(line) in known or len(row) == 1:
            names.append(line)
        elif row[1] != "-1":
            names.append(row[0])
    return list(dict.fromkeys(names))


# ---------------------------------------------------------------- a folder


def read(folder, files, first=1):
    """The Labels of a folder with VOC's XML files, whose boxes count pixels from `first`.

    The lists in ImageSets/Main tell the parts; without them, folders that are called train, valid, test or the like.
    """
    labels = Labels(folder)
    images = [path for path in images_of(files) if not any(name.startswith("Segmentation") for name in path.split("/")[:-1])]
    parts = _listed_parts(folder, files, labels)
    if parts is None:
        parts = [(None, path) for path in voc_files(folder, files)]
    used, classes = read_files(labels, parts, images, first)
    if not image_lists(files):
        labels.skipped += [f"image {path}: it has no XML file" for path in images if path not in used]
    labels.categories = {name: number for number, name in enumerate(sorted(classes), 1)}
    labels.notes += alike(labels.categories)
    return labels


def read_files(labels, parts, images, first):
    """Add the images of XML files, parts [(part, path in the folder)], to labels; returns the images that belong to one, and the class
    names. A part that is None is what the folders are called. The boxes count pixels from `first`."""
    find, used, classes, begin_before, mended = _Finder(images), set(), set(), 0, collections.Counter()
    for part, path in progress(parts, "reading labels"):
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
        objects, lost = read_objects(root, first, path, labels, mended)
        begin_before += sum(min(annotation["bbox"][:2]) < 0 for _, _, annotation in objects)
        classes.update(name for _, name, _ in objects)
        labels.add(part or part_of(folder_of(image)) or part_of(folder_of(path)) or "train", image, size, objects, lost)
    if begin_before and first:
        labels.notes.append(f"{begin_before} boxes begin before the first pixel: if these annotations count from 0, give --zero_based")
    labels.notes += [f"{number} {sentence}" for sentence, number in mended.items()]
    return used, classes


class _Finder:
    """Finds the image of an XML file: the one of the same name; if there is none, the one that the XML file names."""

    def __init__(self, images):
        self.by_stem, self.by_name = collections.defaultdict(list), collections.defaultdict(list)
        for path in images:
            self.by_stem[plain_name(stem(path))].append(path)
            self.by_name[plain_name(name_of(path))].append(path)

    def of_stem(self, path):
        """The images of an XML file's name."""
        return self.by_stem[plain_name(stem(path))]

    def __call__(self, path, filename):
        """The image of the XML file at path, which names `filename`. Raises ValueError if there is none, or no telling which."""
        named = name_of(normalized(filename.strip()))
        found = self.of_stem(path) or self.by_name[plain_name(named)]
        if not found:
            raise ValueError(f"neither an image {stem(path)!r} nor the image {filename[:200]!r} that it names is there")
        beside, most = folder_of(path), max(shared(image, path) for image in found)
        in_voc = "/".join(filter(None, [folder_of(beside), "JPEGImages"]))
        # What sets one apart from the others, the strongest first.
        for test in (lambda image: shared(image, path) == most, lambda image: name_of(image) == named,
                     lambda image: plain_name(name_of(image)) == plain_name(named), lambda image: stem(image) == stem(path),
                     lambda image: folder_of(image) == beside, lambda image: folder_of(image) == in_voc):
            found = [image for image in found if test(image)] or found
        if len(found) > 1:
            raise ValueError(f"its image can be {' or '.join(sorted(found)[:2])}")
        return found[0]


def _listed_parts(folder, files, labels):
    """[(part, XML file)] as the lists in ImageSets/Main say; None if there are none."""
    lists = collections.defaultdict(dict)
    for path in image_lists(files):
        lists[path[: -len(f"ImageSets/Main/{name_of(path)}")]][stem(path)] = path
    found = []
    for root, named in lists.items():
        begin = f"{root}Annotations/"
        known = {path[len(begin) : -len(".xml")]: path for path in files if path.startswith(begin) and path.lower().endswith(".xml")}
        plain = plain_names(known)
        chosen = _choose_lists(named)
        listed = set()
        for part, path in chosen:
            for name in read_list(os.path.join(folder, path), {*known, *plain}):
                name = name if name in known else plain.get(plain_name(name), name)
                listed.add(name)
                if name in known:
                    found.append((part, known[name]))
                else:
                    labels.skipped.append(f"image {name} of {path}: {begin}{name}.xml is not there")
        labels.skipped += [f"{path}: in no list that is read ({', '.join(name for _, name in chosen)})"
                           for name, path in known.items() if name not in listed]
    return found if lists else None


def _choose_lists(named):
    """[(part, list)] of VOC's lists {name: list} that are read: train and val before trainval, no class's; of others all."""
    chosen = [("train", named.get("train", named.get("trainval"))), ("val", named.get("val")), ("test", named.get("test"))]
    chosen = [(part, path) for part, path in chosen if path]
    plain = [name for name in sorted(named) if not re.search("_(train|val|trainval|test)$", name)]
    return chosen or [(part_of(name) or "train", named[name]) for name in plain]
