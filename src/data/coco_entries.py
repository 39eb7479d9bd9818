"""The entries of a COCO file: checked, repaired where the meaning is unambiguous, skipped where it is not.

Repairs are counted in a Counter {message: count}; skipped entries are named in a list of messages.
"""
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from ..core.errors import UserError
from ..core.kinds import is_int64, is_number, is_text
from ..core.tables import abbreviate
from ..tasks import Task
from .objects import annotation_name, annotation_problem, is_box, turned_box, without_objects

MAX_ID = 2**63 - 1  # MindRecord's integers
MAX_EXACT = 2**53  # pycocotools keeps annotation ids as float64
NUMBER = r"\s*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*"
AS_TEXT = "entries have numbers written as strings, which are read as numbers"
NOT_COMPLETE = "annotations lack iscrowd or area; the defaults are 0 and width x height"
LARGE_AREA = "areas are not positive, or larger than their box, and are replaced by width x height"
TURNED = "boxes are rotated (attributes.rotation) and are replaced by their upright bounding box"
COUNTED = ("boxes of COCO's own file that training skips (without area, outside the image, or duplicates) count in the "
           "scores, as they do in pycocotools")


def short(value: object) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dictionaries(content: dict, section: str, default: list | None = None) -> list[dict]:
    """A copy of a section of an annotation file. Raises UserError if it is not a list of dictionaries."""
    entries = content.get(section, default)
    if not isinstance(entries, list):
        raise UserError(f"not a COCO annotation file (it has no list {section!r})")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise UserError(f"{section}, entry {number}: {short(entry)} is not a dictionary")
    return [dict(entry) for entry in entries]


def _number(value: Any) -> Any:
    """Convert a number that may be written as a string; other values are returned unchanged."""
    if not isinstance(value, str) or len(value) > 50 or not re.fullmatch(NUMBER, value):
        return value
    return int(value) if re.fullmatch(r"\s*[-+]?[0-9]+\s*", value) else float(value)


def _read_numbers(entry: dict, names: Iterable[str], repairs: Counter) -> None:
    """Convert an entry's strings under these names, single or in lists, to numbers; counts an entry that has some."""
    found = False
    for name in names:
        value = entry.get(name)
        if isinstance(value, str) or isinstance(value, list) and any(isinstance(item, str) for item in value):
            numbers = [_number(item) for item in value] if isinstance(value, list) else _number(value)
            found |= numbers != value
            entry[name] = numbers
    repairs[AS_TEXT] += found


def _integer(value: Any, least: int, what: str) -> int:
    """value as a 64-bit int, at least `least`. Raises UserError that calls it `what`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_ID:
        raise UserError(f"{what} is {short(value)}; expected an integer from {least} to {MAX_ID}")
    return value


def read_images(entries: list[dict], notes: list[str], skipped: list[str],
                repairs: Counter) -> tuple[dict[int, dict], set[int]]:
    """({id: entry} of the images, ids shared by several files) of a file's image entries.

    An image listed twice counts once, by its last entry, as in pycocotools. If several files share an id, their boxes
    cannot be told apart: all are skipped. Raises UserError for an invalid id or file name.
    """
    images: dict[int, dict] = {}
    repeated: list[int] = []
    files: dict[int, dict[str, bool]] = defaultdict(dict)
    for number, entry in enumerate(entries, 1):
        _read_numbers(entry, ("id",), repairs)
        entry["id"] = _integer(entry.get("id"), 0, f"the id of image entry {number}")
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"] or "\0" in entry["file_name"]:
            raise UserError(f"image {entry['id']}: file_name is {short(entry.get('file_name'))}; expected a file name")
        repeated += [entry["id"]] if entry["id"] in images else []
        images[entry["id"]] = entry
        files[entry["id"]][os.path.normpath(entry["file_name"])] = True
    shared = {image_id for image_id, names in files.items() if len(names) > 1}
    for image_id in shared:
        skipped.append(f"image {image_id}: {len(files[image_id])} files have this id "
                       f"({abbreviate(files[image_id], 3)}), and "
                       "their boxes cannot be told apart")
        del images[image_id]
    repeated = [image_id for image_id in repeated if image_id not in shared]
    if repeated:
        notes.append(f"{len(repeated)} images are listed more than once; each counts once "
                     f"(id {abbreviate(repeated, 3)})")
    return images, shared


def read_categories(entries: list[dict], repairs: Counter) -> list[dict]:
    """The category entries with checked ids and names. Raises UserError."""
    if not entries:
        raise UserError("the file lists no categories")
    seen: dict[str, set] = {"id": set(), "name": set()}
    for number, entry in enumerate(entries, 1):
        _read_numbers(entry, ("id",), repairs)
        entry["id"] = _integer(entry.get("id"), -MAX_ID, f"the id of category {number}")
        if not is_text(entry.get("name")):
            raise UserError(f"the name of category {entry['id']} is {short(entry.get('name'))}; expected a string")
        for name, values in seen.items():
            if entry[name] in values:
                raise UserError(f"two categories have the {name} {entry[name]!r}; each class needs a unique one")
            values.add(entry[name])
    return entries


def read_annotation(entry: dict, images: dict[int, dict], shared: set[int], category_ids: set[int],
                    repairs: Counter) -> None:
    """Complete an annotation entry in place. Raises UserError unless it is a box of a known image and category."""
    _read_numbers(entry, ("image_id", "category_id", "bbox", "iscrowd", "area"), repairs)
    entry["image_id"] = _integer(entry.get("image_id"), 0, "image_id")
    entry["category_id"] = _integer(entry.get("category_id"), -MAX_ID, "category_id")
    if entry["image_id"] in shared:
        raise UserError("several files have this image id")
    if entry["image_id"] not in images:
        raise UserError("the file does not list this image")
    if entry["category_id"] not in category_ids:
        raise UserError(f"unknown category id {entry['category_id']}")
    if not is_box(entry.get("bbox")):
        raise UserError(f"{short(entry.get('bbox'))} is not a box of four numbers")
    complete = entry.get("iscrowd") in (0, 1) and is_number(entry.get("area"))
    entry["iscrowd"] = int(entry["iscrowd"]) if entry.get("iscrowd") in (0, 1) else 0
    attributes: Any = entry.get("attributes")
    angle: Any = _number(attributes.get("rotation")) if isinstance(attributes, dict) else None
    if is_number(angle) and angle % 360 and not entry.get("segmentation"):
        entry["bbox"] = turned_box(entry["bbox"], angle)
        # Without the attribute the box is not rotated again when the entry is written and read back.
        entry["attributes"] = {name: value for name, value in attributes.items() if name != "rotation"}
        repairs[TURNED] += 1
    if not is_number(entry.get("area")):
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    repairs[NOT_COMPLETE] += not complete


def join_files(images: dict[int, dict], annotations: list[dict], notes: list[str]) -> None:
    """Merge the ids of an image file listed under several ids with different boxes: the first id gets all boxes.

    Ids with the same boxes are kept, as in a data set that repeats images on purpose.
    """
    ids_of_file: dict[str, list[int]] = defaultdict(list)
    boxes: dict[int, set[tuple]] = defaultdict(set)
    for image_id, entry in images.items():
        ids_of_file[os.path.normpath(entry["file_name"])].append(image_id)
    several = {name: ids for name, ids in ids_of_file.items() if len(ids) > 1}
    if not several:
        return
    for entry in annotations:
        boxes[entry["image_id"]].add((entry["category_id"], entry["iscrowd"], *entry["bbox"]))
    joined = {name: ids for name, ids in several.items() if any(boxes[other] != boxes[ids[0]] for other in ids[1:])}
    first = {image_id: ids[0] for ids in joined.values() for image_id in ids}
    for entry in annotations:
        entry["image_id"] = first.get(entry["image_id"], entry["image_id"])
    for ids in joined.values():
        for image_id in ids[1:]:
            del images[image_id]
    if joined:
        notes.append(f"{len(joined)} image files have several ids with different boxes: the first id gets all boxes "
                     f"({abbreviate(joined, 3)})")


def read_annotations(entries: list[dict], images: dict[int, dict], shared: set[int], category_ids: set[int],
                     notes: list[str], skipped: list[str], repairs: Counter) -> list[dict]:
    """The annotation entries that are boxes of a known image and category, completed, with merged image ids."""
    boxes = []
    for entry in entries:
        image_id = entry.get("image_id")
        try:
            read_annotation(entry, images, shared, category_ids, repairs)
        except UserError as error:
            skipped.append(f"annotation {short(entry.get('id'))} of image {short(image_id)}: {error}")
        else:
            boxes.append(entry)
    join_files(images, boxes, notes)
    return boxes


def drop_incomplete(images: dict[int, dict], entries: list[dict], task: Task,
                    size_of: Callable[[int], tuple[float, float]], skipped: list[str]) -> list[dict]:
    """Drop the images that a Task cannot use, in place; returns the annotation entries of the others."""
    dropped: set = set()
    for image_id, info in images.items():
        try:
            task.targets.check_image(info, size_of)
        except UserError as error:
            dropped.add(image_id)
            skipped.append(f"image {image_id} ({info['file_name']}): {error}")
    for image_id in dropped:
        del images[image_id]
    return [entry for entry in entries
            if not (is_int64(entry.get("image_id")) and entry["image_id"] in dropped)] if dropped else entries


def without_background(entries: list[dict], annotations: list[dict], chosen: list[dict]) -> list[dict]:
    """The annotation entries without the annotations of images that have none that a task has chosen: these are images
    without objects."""
    images = {entry["image_id"] for entry in chosen}
    background = {id(entry) for entry in annotations if entry["image_id"] not in images}
    return [entry for entry in entries if id(entry) not in background] if background else entries


def no_classes(names: list[str], categories: list[dict]) -> list[str]:
    """A note on those of a file's category names that are not among the categories that a task chose, in a list."""
    left = {entry["name"] for entry in categories}
    gone = [name for name in names if name not in left]
    return [f"{', '.join(gone)}: no classes of this task, as in the paper's code; their objects are ignored, or "
            "background"] if gone else []


def keep_completed(annotations: list[dict], complete: Callable[[dict], None], skipped: list[str]) -> list[dict]:
    """Complete annotations in place with a task's complete(annotation); drop those for which it raises UserError."""
    kept = []
    for entry in annotations:
        try:
            complete(entry)
        except UserError as error:
            skipped.append(f"{annotation_name(entry)}: {error}")
        else:
            kept.append(entry)
    return kept


def keep_objects(annotations: list[dict], size_of: Callable[[int], tuple[float, float]], skipped: list[str],
                 repairs: Counter) -> list[dict]:
    """The annotations that are objects (objects.py); size_of(image id) is an image's size (width, height)."""
    kept = []
    seen: dict[int, dict] = defaultdict(dict)
    for entry in annotations:
        if problem := annotation_problem(entry, size_of(entry["image_id"]), seen[entry["image_id"]]):
            skipped.append(f"{annotation_name(entry)}: {problem}")
            continue
        width, height = entry["bbox"][2:]
        if not 0 < entry["area"] <= (width + 1) * (height + 1):  # some tools count the pixels of both borders
            entry["area"] = width * height
            repairs[LARGE_AREA] += 1
        kept.append(entry)
    return kept


def count_non_objects(annotations: list[dict], size_of: Callable[[int], tuple[float, float]]) -> int:
    """The number of annotations that are not objects."""
    seen: dict[int, dict] = defaultdict(dict)
    return sum(annotation_problem(entry, size_of(entry["image_id"]), seen[entry["image_id"]]) != ""
               for entry in annotations)


def drop_emptied(images: dict[int, dict], entries: list[dict], annotations: list[dict], skipped: list[str]) -> None:
    """Drop the images that have annotation entries but none among the annotations kept."""
    annotated = Counter(entry["image_id"] for entry in entries if is_int64(entry.get("image_id")))
    known = {entry["image_id"] for entry in annotations}
    for image_id in [image_id for image_id in images if annotated[image_id] and image_id not in known]:
        skipped.append(f"image {image_id} ({images[image_id]['file_name']}): {without_objects(annotated[image_id])}")
        del images[image_id]


RENUMBERED = "all are renumbered"  # in the notes of renumber_ids


def renumber_ids(annotations: list[dict], notes: list[str]) -> None:
    """Renumber annotations if pycocotools would confuse their ids with each other or with 0, its "no match".

    source_id then keeps the file's id.
    """
    unclear = _unclear([entry.get("id") for entry in annotations])
    if unclear:
        notes.append(f"annotation ids start at 0: {RENUMBERED} from 1" if unclear == [0] else
                     f"{len(unclear)} annotation ids are 0, duplicated, missing or not integers "
                     f"({abbreviate(map(short, unclear), 3)}), which COCO's scoring cannot handle: {RENUMBERED}")
        for number, entry in enumerate(annotations, 1):
            entry["id"], entry["source_id"] = number, entry.get("id")


def _unclear(ids: list) -> list:
    """The annotation ids that pycocotools confuses with each other or with 0, its "no match"."""
    seen: set[int] = set()
    unclear = []
    for value in ids:
        valid = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_EXACT
        if not valid or value in seen:
            unclear.append(value)
        else:
            seen.add(value)
    return unclear
