"""Pascal VOC's XML files, as VOC lays them out and as labelImg does, beside the images.

VOC counts pixels from 1, and a box's last pixel belongs to it: x = xmin - 1, width = xmax - xmin + 1, likewise y and height.
"""
import collections
import math
import os
import re
import xml.etree.ElementTree as ElementTree

from src import errors
from src.label_formats import folder_of, image_lists, images_of, name_of, normalized, part_of, shared, stem, voc_files
from src.labels import Labels
from src.utils import progress, read_text

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
    """(width, height) that a label file states. Raises ValueError if it states none."""
    try:
        return tuple(int(float(root.findtext(f"size/{side}"))) for side in ("width", "height"))
    except (TypeError, ValueError, OverflowError):
        raise ValueError("it states no size of the image") from None


def read_object(entry, first):
    """(class name, COCO annotation without ids) of an <object>, whose box counts pixels from `first`. Raises ValueError that says why it is
    none."""
    try:
        x1, y1, x2, y2 = (float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except (TypeError, ValueError):
        raise ValueError("no box of four numbers") from None
    if not (x1 < x2 and y1 < y2 and math.isfinite(x2 - x1 + y2 - y1)):
        raise ValueError(f"box without area {[x1, y1, x2, y2]}")
    width, height = x2 - x1 + 1, y2 - y1 + 1
    flags = {flag: int((entry.findtext(flag) or "0").strip() in ("1", "true", "True")) for flag in ("difficult", "truncated")}
    return (entry.findtext("name") or "").strip(), {
        "bbox": [x1 - first, y1 - first, width, height], "area": width * height, "iscrowd": 0, "ignore": flags["difficult"], **flags}


def read_objects(root, first, what, refuse, skipped):
    """[(number from 1, class name, COCO annotation without ids)] of the objects in a label file that can be used.

    `what` names the file in the sentences for skipped about the others; refuse(class name) says why a class cannot be used, "" if it can.
    """
    objects = []
    for number, entry in enumerate(root.iter("object"), 1):
        try:
            name, annotation = read_object(entry, first)
            if problem := refuse(name):
                raise ValueError(problem)
        except ValueError as error:
            skipped.append(f"object {number} of {what}: {error}")
        else:
            objects.append((number, name, annotation))
    return objects


def read_list(path, known=()):
    """The names in a list of images; of a class's list (name and 1, 0 or -1) those that show it. A name may have a space if it is known."""
    names = []
    for line in filter(None, map(str.strip, read_text(path, "list of images").splitlines())):
        row = line.split()
        if line in known or len(row) == 1:
            names.append(line)
        elif row[1] != "-1":
            names.append(row[0])
    return names


# ---------------------------------------------------------------- a folder


def read(folder, files, first=1):
    """The Labels of a folder with VOC's XML files, whose boxes count pixels from `first`.

    The lists in ImageSets/Main tell the parts; without them, folders that are called train, valid, test or the like.
    """
    labels, begin_before, classes = Labels(folder), 0, set()
    images = images_of(files)
    parts = _listed_parts(folder, files, labels)
    if parts is None:
        parts = [(None, path) for path in voc_files(folder, files)]
    find = _Finder(images)
    used = set()
    for part, path in progress(parts, "reading labels"):
        try:
            root = read_xml(os.path.join(folder, path))
            image = find(path, root.findtext("filename") or "")
        except (ValueError, OSError) as error:
            labels.skipped.append(f"{path}: {errors.reason(error)}")
            used.update(find.by_stem[stem(path)])
            continue
        used.add(image)
        size = labels.size_of(image, _believable(root))
        if size is None:
            continue
        objects = read_objects(root, first, path, lambda name: "" if name else "it names no class", labels.skipped)
        begin_before += sum(min(annotation["bbox"][:2]) < 0 for _, _, annotation in objects)
        classes.update(name for _, name, _ in objects)
        objects = [(f"object {number} of {path}", name, annotation) for number, name, annotation in objects]
        labels.add(part or part_of(folder_of(image)) or part_of(folder_of(path)) or "train", image, size, objects)
    if not image_lists(files):
        labels.skipped += [f"image {path}: it has no XML file" for path in images if path not in used]
    if begin_before and first:
        labels.notes.append(f"{begin_before} boxes begin before the first pixel: if these annotations count from 0, give --zero_based")
    labels.categories = {name: number for number, name in enumerate(sorted(classes), 1)}
    return labels


def _believable(root):
    """The size that a label file states, None if that is none: some tools write 0."""
    try:
        size = stated_size(root)
    except ValueError:
        return None
    return size if min(size) > 0 else None


class _Finder:
    """Finds the image of an XML file: the one of the same name; if there is none, the one that the XML file names."""

    def __init__(self, images):
        self.by_stem, self.by_name = collections.defaultdict(list), collections.defaultdict(list)
        for path in images:
            self.by_stem[stem(path)].append(path)
            self.by_name[name_of(path)].append(path)

    def __call__(self, path, filename):
        """The image of the XML file at path, which names `filename`. Raises ValueError if there is none, or no telling which."""
        named = name_of(normalized(filename.strip()))
        found = self.by_stem[stem(path)] or self.by_name[named]
        if not found:
            raise ValueError(f"neither an image {stem(path)!r} nor the image {filename[:200]!r} that it names is there")
        best = max(shared(image, path) for image in found)
        nearest = sorted((image for image in found if shared(image, path) == best), key=lambda image: (name_of(image) != named, image))
        folders = {folder_of(image) for image in nearest}
        if len(folders) > 1 and folder_of(path) not in folders:
            raise ValueError(f"its image can be {' or '.join(nearest[:2])}")
        return next((image for image in nearest if folder_of(image) == folder_of(path)), nearest[0])


def _listed_parts(folder, files, labels):
    """[(part, XML file)] as the lists in ImageSets/Main say; None if there are none."""
    lists = collections.defaultdict(dict)
    for path in image_lists(files):
        lists[path[: -len(f"ImageSets/Main/{name_of(path)}")]][stem(path)] = path
    found = []
    for root, named in lists.items():
        begin = f"{root}Annotations/"
        known = {path[len(begin) : -len(".xml")]: path for path in files if path.startswith(begin) and path.lower().endswith(".xml")}
        chosen = _choose_lists(named)
        listed = set()
        for part, path in chosen:
            for name in read_list(os.path.join(folder, path), known):
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
