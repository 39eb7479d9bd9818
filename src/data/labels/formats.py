"""Which form the labels in a folder have, and where its files are.

Paths are relative to the folder, with "/". Files are only ever taken out of the list that list_files makes: a name in a label file, such
as ../../etc/passwd, can lead to nothing outside the folder.
"""
import collections
import itertools
import os
import re
import shlex
from dataclasses import dataclass

from ...core.project import command
from ...imaging.headers import IMAGE_ENDINGS

PARTS = ("train", "val", "test")
PART_OF_WORD = {"train": "train", "training": "train", "trainval": "train", "val": "val", "valid": "val", "validation": "val",
                "test": "test", "testing": "test"}
CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
RECOGNIZED = ("COCO (also Roboflow's and CVAT's exports), Pascal VOC with and without ImageSets, labelImg (XML beside the images), YOLO "
              "(data.yaml, txt)")
HEAD = 4096  # bytes of a file that are looked at
SAMPLE = 50  # txt files that are looked at, and ten times as many names
GLANCE = 2000  # files of a folder, and folders, that import_hint looks at


@dataclass
class Found:
    """A form of labels: "coco", "voc" or "yolo", what it is called, and what it was recognized by."""

    form: str
    name: str
    detail: str


# ---------------------------------------------------------------- files


def list_files(folder, most=None):
    """The files of a folder and its subfolders, sorted; with most no more than so many of a folder, and of so many folders.

    Hidden ones are left out. Symbolic links are followed, each folder once.
    """
    waiting, seen, files = collections.deque([""]), set(), []
    while waiting and (most is None or len(seen) < most):
        relative = waiting.popleft()
        real = os.path.realpath(os.path.join(folder, relative))
        if real in seen:
            continue
        seen.add(real)
        with os.scandir(os.path.join(folder, relative)) as entries:
            for entry in itertools.islice(entries, most):
                path = f"{relative}/{entry.name}" if relative else entry.name
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if os.path.isdir(entry.path):
                    waiting.append(path)
                elif os.path.isfile(entry.path):
                    files.append(path)
    return sorted(files)


def folder_of(path):
    """The folder of a path, "" for the top one."""
    return path.rpartition("/")[0]


def name_of(path):
    """The last part of a path."""
    return path.rpartition("/")[2]


def stem(path):
    """The last part of a path, without its ending."""
    return os.path.splitext(name_of(path))[0]


def images_of(files):
    """Those files that have an image's ending."""
    return [path for path in files if path.lower().endswith(IMAGE_ENDINGS)]


def part_of(path):
    """The part of the data set that a path names in its last word that does so: images/train/a.jpg, test_1.json; else None."""
    for component in reversed(path.lower().split("/")):
        for word in reversed(re.findall("[a-z]+", component)):
            if word in PART_OF_WORD:
                return PART_OF_WORD[word]
    return None


# ---------------------------------------------------------------- forms


def _head(folder, path, tail=False):
    """The first bytes of a file, with tail also the last; none of one that cannot be read."""
    try:
        with open(os.path.join(folder, path), "rb") as file:
            data = file.read(HEAD)
            if tail and os.fstat(file.fileno()).st_size > HEAD:
                file.seek(-HEAD, os.SEEK_END)
                data += file.read()
            return data
    except OSError:
        return b""


def _is_coco(data):
    """Whether a file's bytes, all or its first and last ones, are those of an annotation file in COCO format.

    A whole file without images and annotations is none, such as Label Studio's notes.json beside its YOLO labels, which has categories.
    """
    sections = "images|annotations" if len(data) < HEAD else "images|annotations|categories"
    return re.search(rf'"({sections})"\s*:\s*\['.encode(), data) is not None


def coco_files(folder, files):
    """The annotation files of boxes in COCO format; of COCO's own those of key points, captions and the like are none."""
    found = [path for path in files if path.lower().endswith(".json") and _is_coco(_head(folder, path, tail=True))]
    boxes = [path for path in found if name_of(path).startswith("instances_")]
    others = ("captions_", "person_keypoints_", "panoptic_", "stuff_", "image_info_")
    return [path for path in found if not (boxes and name_of(path).startswith(others))]


def voc_files(folder, files):
    """The XML files that annotate an image."""
    return [path for path in files if path.lower().endswith(".xml") and re.search(rb"<annotation[\s>]", _head(folder, path))]


def yaml_files(folder, files):
    """The YAML files nearest to the top that describe a YOLO data set."""
    found = [path for path in files if path.lower().endswith((".yaml", ".yml"))
             and (stem(path) in ("data", "dataset") or re.search(rb"(?m)^(\xef\xbb\xbf)?['\"]?(names|nc)['\"]?\s*:", _head(folder, path)))]
    depth = min((path.count("/") for path in found), default=0)
    return [path for path in found if path.count("/") == depth]


def _yolo_detail(folder, files):
    """What YOLO labels are recognized by, "" if there are none."""
    descriptions = yaml_files(folder, files)
    if descriptions:
        return ", ".join(descriptions)
    texts = [path for path in files if path.lower().endswith(".txt") and name_of(path) not in CLASS_FILES]
    lines = [first_line(folder, path) for path in texts[:: max(1, len(texts) // SAMPLE)]]
    if any(map(is_label, lines)):
        return "txt without data.yaml"
    labels = any(folder_of(path).lower().split("/")[-1] == "labels" for path in texts)
    return "empty txt in a folder labels" if labels and not any(lines) else ""


def first_line(folder, path):
    """The first line of a file that is not empty, in bytes; b"" without one."""
    return next((line for line in _head(folder, path).split(b"\n") if line.strip()), b"")


def is_label(line):
    """Whether a line of bytes is a class number and at least four numbers, as YOLO has it."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return False
    return len(values) >= 5 and values[0] >= 0 and values[0].is_integer()


def recognize(folder, files):
    """The forms of labels that the files of a folder have: a list of Found."""
    found = []
    names = coco_files(folder, files)
    if names:
        roboflow = any(name_of(path).endswith("_annotations.coco.json") for path in names)
        cvat = any(name_of(path) == "instances_default.json" for path in names)
        name = "Roboflow's COCO export" if roboflow else "CVAT's COCO export" if cvat else "COCO labels"
        found.append(Found("coco", name, ", ".join(names[:3]) + (", ..." if names[3:] else "")))
    names, images = voc_files(folder, files), images_of(files)
    if names:
        beside = {os.path.splitext(path)[0] for path in images}
        if image_lists(files):
            found.append(Found("voc", "Pascal VOC labels", "with ImageSets"))
        elif any(os.path.splitext(path)[0] in beside for path in names):
            found.append(Found("voc", "labelImg's labels", "XML beside the images"))
        else:
            found.append(Found("voc", "Pascal VOC labels", "without ImageSets"))
    detail = _yolo_detail(folder, files)
    if detail and (images or yaml_files(folder, files)):
        found.append(Found("yolo", "YOLO labels", detail))
    return found


def image_lists(files):
    """VOC's lists of images: ImageSets/Main/*.txt."""
    return [path for path in files if f"/{path}".rpartition("/")[0].endswith("/ImageSets/Main") and path.endswith(".txt")]


def endings(files):
    """What is in a folder, in words: 12 .jpg, 3 .csv."""
    counts = collections.Counter(os.path.splitext(name_of(path))[1].lower() or "without ending" for path in files)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5)) or "no files"


def import_hint(folder):
    """The end of an error about a folder, "; this looks like YOLO labels: ..." with the command that reads them; "" for other folders."""
    try:
        found = recognize(folder, list_files(folder, GLANCE))
    except OSError:
        return ""
    if not found:
        return ""
    folder, names = os.path.normpath(folder), " and ".join(entry.name for entry in found)
    output = f"{os.path.abspath(folder) if os.path.basename(folder) in ('.', '..') else folder}_coco"
    words = f"--input {shlex.quote(folder)} --output {shlex.quote(output)}"
    return (f"; this looks like {names}: {command('tools/import_dataset.py')} {words} "
            "makes a data set of it that can be read here")
