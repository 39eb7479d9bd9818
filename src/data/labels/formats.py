"""Recognition of label formats, and the files of a folder by kind.

Paths are relative to the folder, with "/". Only files from list_files are ever used: a name in a label file, such as
../../etc/passwd, cannot lead outside the folder.
"""
import collections
import itertools
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...core.project import command
from ...imaging.headers import IMAGE_ENDINGS

SPLITS = ("train", "val", "test")
SPLIT_OF_WORD = {"train": "train", "training": "train", "trainval": "train", "val": "val", "valid": "val",
                 "validation": "val", "test": "test", "testing": "test"}
CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
RECOGNIZED = ("COCO (also exports of Roboflow, CVAT and Label Studio), Pascal VOC with and without ImageSets, labelImg "
              "(XML next to the images), YOLO (data.yaml, txt), DeepLabCut (CollectedData_*.csv), KITTI "
              "(training/image_2, label_2, calib)")
COCO_KINDS = ("instances_", "person_keypoints_")  # COCO's own files of boxes and keypoints
HEAD = 4096  # inspected bytes of a file
SAMPLE = 50  # inspected txt files, and a tenth of the inspected names
GLANCE = 2000  # files per folder, and folders, that import_hint inspects


@dataclass
class Found:
    """A recognized label format: "coco", "voc", "yolo", "deeplabcut" or "kitti", its name, and the evidence for it."""

    form: str
    name: str
    detail: str


# ---------------------------------------------------------------- files


def list_files(folder: str, most: int | None = None) -> list[str]:
    """The files of a folder and its subfolders, sorted, without hidden ones.

    most limits the number of folders and of files per folder. Symbolic links are followed, each folder once.
    """
    waiting, files = collections.deque([""]), []
    seen: set[str] = set()
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


def folder_of(path: str) -> str:
    """The folder of a path, "" at the top."""
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    """The last component of a path."""
    return path.rpartition("/")[2]


def stem(path: str) -> str:
    """The last component of a path, without its extension."""
    return os.path.splitext(name_of(path))[0]


def images_of(files: Iterable[str]) -> list[str]:
    """The files with an image's extension."""
    return [path for path in files if path.lower().endswith(IMAGE_ENDINGS)]


def split_of(path: str) -> str | None:
    """The split that a path names, by its last such word: images/train/a.jpg, test_1.json; None if it names none."""
    for component in reversed(path.lower().split("/")):
        for word in reversed(re.findall("[a-z]+", component)):
            if word in SPLIT_OF_WORD:
                return SPLIT_OF_WORD[word]
    return None


# ---------------------------------------------------------------- formats


def _head(folder: str, path: str, tail: bool = False) -> bytes:
    """The first bytes of a file, with tail also the last; empty if it cannot be read."""
    try:
        with open(os.path.join(folder, path), "rb") as file:
            data = file.read(HEAD)
            if tail and os.fstat(file.fileno()).st_size > HEAD:
                file.seek(-HEAD, os.SEEK_END)
                data += file.read()
            return data
    except OSError:
        return b""


def _is_coco(data: bytes) -> bool:
    """Whether a file's bytes, all or the first and last ones, look like an annotation file in COCO format.

    A complete file needs images or annotations: Label Studio's notes.json, next to YOLO labels, has only categories.
    """
    sections = "images|annotations" if len(data) < HEAD else "images|annotations|categories"
    return re.search(rf'"({sections})"\s*:\s*\['.encode(), data) is not None


def coco_files(folder: str, files: list[str], keypoints: bool = False) -> list[str]:
    """The annotation files of boxes or keypoints in COCO format.

    Of COCO's own files only one kind is used: boxes (instances_*), else keypoints (person_keypoints_*), or with
    `keypoints` the other way round; those of captions and the like are not used next to these.
    """
    found = [path for path in files if path.lower().endswith(".json") and _is_coco(_head(folder, path, tail=True))]
    present = [kind for kind in COCO_KINDS if any(name_of(path).startswith(kind) for path in found)]
    if not present:
        return found
    chosen = present[-1] if keypoints else present[0]
    others = {*COCO_KINDS, "captions_", "panoptic_", "stuff_", "image_info_"} - {chosen}
    return [path for path in found if not name_of(path).startswith(tuple(others))]


def voc_files(folder: str, files: list[str]) -> list[str]:
    """The XML files that annotate an image."""
    return [path for path in files
            if path.lower().endswith(".xml") and re.search(rb"<annotation[\s>]", _head(folder, path))]


def yaml_files(folder: str, files: list[str]) -> list[str]:
    """The YAML files nearest to the top that describe a YOLO data set."""
    key = rb"(?m)^(\xef\xbb\xbf)?['\"]?(names|nc)['\"]?\s*:"
    found = [path for path in files if path.lower().endswith((".yaml", ".yml"))
             and (stem(path) in ("data", "dataset") or re.search(key, _head(folder, path)))]
    depth = min((path.count("/") for path in found), default=0)
    return [path for path in found if path.count("/") == depth]


def deeplabcut_files(folder: str, files: list[str]) -> list[str]:
    """DeepLabCut's CollectedData_*.csv, those of its videos rather than the joined one in training-datasets/."""
    found = [path for path in files if re.fullmatch(r"CollectedData_.*\.csv", name_of(path))
             and re.match(rb"(\xef\xbb\xbf)?scorer,", _head(folder, path))]
    return [path for path in found if "/training-datasets/" not in f"/{path}"] or found


def images_in(folder: str, files: Iterable[str], place: str) -> list[str]:
    """The images of a subfolder, which may be listed by the name of a link to it: list_files lists each folder once."""
    images = images_of(files)
    real = os.path.realpath(os.path.join(folder, place))
    places = {other for other in set(map(folder_of, images)) if os.path.realpath(os.path.join(folder, other)) == real}
    return [path for path in images if folder_of(path) in places]


def kitti_home(folder: str, files: Sequence[str]) -> str | None:
    """The folder nearest to the top that holds image_2 and label_2 of KITTI, such as training; None without one."""
    homes = {folder_of(folder_of(path)) for path in files if f"/{folder_of(path)}".endswith("/label_2")}
    homes = {home for home in homes if images_in(folder, files, os.path.join(home, "image_2"))}
    return min(homes, key=lambda home: (len(home.split("/")) if home else 0, name_of(home) != "training", home),
               default=None)


def _yolo_detail(folder: str, files: list[str]) -> str:
    """The evidence for YOLO labels, "" if there are none."""
    descriptions = yaml_files(folder, files)
    if descriptions:
        return ", ".join(descriptions)
    txt_files = [path for path in files if path.lower().endswith(".txt") and name_of(path) not in CLASS_FILES]
    lines = [first_line(folder, path) for path in txt_files[:: max(1, len(txt_files) // SAMPLE)]]
    if any(map(is_label, lines)):
        return "txt without data.yaml"
    labels = any(folder_of(path).lower().split("/")[-1] == "labels" for path in txt_files)
    return "empty txt in a folder labels" if labels and not any(lines) else ""


def first_line(folder: str, path: str) -> bytes:
    """The first non-empty line of a file, b"" if it has none."""
    return next((line for line in _head(folder, path).split(b"\n") if line.strip()), b"")


def is_label(line: bytes) -> bool:
    """Whether a line is a YOLO label: a class number and at least four numbers."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return False
    return len(values) >= 5 and values[0] >= 0 and values[0].is_integer()


def recognize(folder: str, files: list[str], keypoints: bool = False) -> list[Found]:
    """The label formats of a folder's files; keypoints as in coco_files."""
    found = []
    names = coco_files(folder, files, keypoints)
    if names:
        roboflow = any(name_of(path).endswith("_annotations.coco.json") for path in names)
        cvat = any(name_of(path) in [f"{kind}default.json" for kind in COCO_KINDS] for path in names)
        name = "Roboflow's COCO export" if roboflow else "CVAT's COCO export" if cvat else "COCO labels"
        found.append(Found("coco", name, _first_three(names)))
    names, images = voc_files(folder, files), images_of(files)
    if names:
        stems = {os.path.splitext(path)[0] for path in images}
        if image_lists(files):
            found.append(Found("voc", "Pascal VOC labels", "with ImageSets"))
        elif any(os.path.splitext(path)[0] in stems for path in names):
            found.append(Found("voc", "labelImg's labels", "XML next to the images"))
        else:
            found.append(Found("voc", "Pascal VOC labels", "without ImageSets"))
    detail = _yolo_detail(folder, files)
    if detail and (images or yaml_files(folder, files)):
        found.append(Found("yolo", "YOLO labels", detail))
    names = deeplabcut_files(folder, files)
    if names:
        found.append(Found("deeplabcut", "DeepLabCut's labels", _first_three(names)))
    home = kitti_home(folder, files)
    if home is not None:
        found.append(Found("kitti", "KITTI's labels", os.path.join(home, "label_2")))
    return found


def _first_three(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if names[3:] else "")


def image_lists(files: Iterable[str]) -> list[str]:
    """VOC's lists of images: ImageSets/Main/*.txt."""
    return [path for path in files if f"/{folder_of(path)}".endswith("/ImageSets/Main") and path.endswith(".txt")]


def endings(files: Sequence[str]) -> str:
    """A summary of files by extension: 12 .jpg, 3 .csv."""
    counts = collections.Counter(os.path.splitext(name_of(path))[1].lower() or "without extension" for path in files)
    return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(5)) or "no files"


def import_hint(folder: str) -> str:
    """The end of an error about a folder of labels, "; this looks like YOLO labels: ..." with the command that imports
    them; "" for other folders."""
    try:
        found = recognize(folder, list_files(folder, GLANCE))
    except OSError:
        return ""
    if not found:
        return ""
    folder, names = os.path.normpath(folder), " and ".join(entry.name for entry in found)
    output = f"{os.path.abspath(folder) if os.path.basename(folder) in ('.', '..') else folder}_coco"
    arguments = f"--input {shlex.quote(folder)} --output {shlex.quote(output)}"
    return (f"; this looks like {names}: {command('tools/import_dataset.py')} {arguments} "
            "converts it into a supported data set")
