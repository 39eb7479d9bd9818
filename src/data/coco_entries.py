"""The entries of a COCO file: checked, mended where there is one meaning, left out where there is none.

What was mended is counted in a Counter {sentence: number}, what was left out named in a list of sentences.
"""
import os
import re
from collections import Counter, defaultdict

from ..core.errors import UserError
from ..core.kinds import is_int64, is_number, is_text
from ..core.tables import some
from .objects import annotation_name, annotation_problem, is_box, turned_box, without_objects

MAX_ID = 2**63 - 1  # MindRecord's integers
MAX_EXACT = 2**53  # pycocotools keeps annotation ids as float64
NUMBER = r"\s*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?\s*"
AS_TEXT = "entries have numbers that are written as texts, which are read as numbers"
NOT_COMPLETE = "annotations lack iscrowd or area, which are taken as 0 and width x height"
LARGE_AREA = "areas are not above 0, or larger than their box, and are taken as width x height"
TURNED = "boxes are turned (attributes.rotation): the upright box around each counts"
COUNTED = ("boxes of COCO's own file that training leaves out (without area, outside of the image, or the same twice) count in the scores, "
           "as they do in pycocotools")


def short(value):
    """A value in a sentence."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dictionaries(content, section, default=None):
    """A section of an annotation file, a list of dictionaries, copied. Raises UserError if it is something else."""
    entries = content.get(section, default)
    if not isinstance(entries, list):
        raise UserError(f"not a COCO annotation file (it has no list {section!r})")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise UserError(f"{section}, entry {number}: {short(entry)} is no dictionary")
    return [dict(entry) for entry in entries]


def _number(value):
    """A number that may be written as a text; what is neither as it is."""
    if not isinstance(value, str) or len(value) > 50 or not re.fullmatch(NUMBER, value):
        return value
    return int(value) if re.fullmatch(r"\s*[-+]?[0-9]+\s*", value) else float(value)


def _read_numbers(entry, names, mended):
    """Make numbers of the texts that an entry has for these names, alone or in a list; counts the entry if there are any."""
    found = False
    for name in names:
        value = entry.get(name)
        if isinstance(value, str) or isinstance(value, list) and any(isinstance(part, str) for part in value):
            numbers = [_number(part) for part in value] if isinstance(value, list) else _number(value)
            found |= numbers != value
            entry[name] = numbers
    mended[AS_TEXT] += found


def _whole(value, least, what):
    """value as an int of 64 bits, at least `least`. Raises UserError that calls it `what`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_ID:
        raise UserError(f"{what} is {short(value)}; expected a whole number from {least} to {MAX_ID}")
    return value


def read_images(entries, notes, skipped, mended):
    """({id: entry} of the images, ids that stand for several files) of a file's image entries.

    An image that is listed twice counts once, by its last entry, as in pycocotools. Where several files have one id, nobody can tell whose
    its boxes are: all are left out. Raises UserError for an id or a name that is none.
    """
    images, repeated, files = {}, [], defaultdict(dict)
    for number, entry in enumerate(entries, 1):
        _read_numbers(entry, ("id",), mended)
        entry["id"] = _whole(entry.get("id"), 0, f"the id of image entry {number}")
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"] or "\0" in entry["file_name"]:
            raise UserError(f"image {entry['id']}: its file_name is {short(entry.get('file_name'))}; expected a file's name")
        repeated += [entry["id"]] if entry["id"] in images else []
        images[entry["id"]] = entry
        files[entry["id"]][os.path.normpath(entry["file_name"])] = True
    shared = {image_id for image_id, names in files.items() if len(names) > 1}
    for image_id in shared:
        skipped.append(f"image {image_id}: {len(files[image_id])} files have this id ({some(files[image_id], 3)}), and their boxes cannot "
                       "be told apart: all are left out")
        del images[image_id]
    repeated = [image_id for image_id in repeated if image_id not in shared]
    if repeated:
        notes.append(f"{len(repeated)} images are listed more than once; each counts once (id {some(repeated, 3)})")
    return images, shared


def read_categories(entries, mended):
    """The category entries with checked ids and names. Raises UserError."""
    if not entries:
        raise UserError("it names no categories")
    seen = {"id": set(), "name": set()}
    for number, entry in enumerate(entries, 1):
        _read_numbers(entry, ("id",), mended)
        entry["id"] = _whole(entry.get("id"), -MAX_ID, f"the id of category {number}")
        if not is_text(entry.get("name")):
            raise UserError(f"the name of category {entry['id']} is {short(entry.get('name'))}; expected a text")
        for name, values in seen.items():
            if entry[name] in values:
                raise UserError(f"two categories have the {name} {entry[name]!r}; give each class one entry of its own")
            values.add(entry[name])
    return entries


def read_annotation(entry, images, shared, category_ids, mended):
    """Complete an annotation entry in place. Raises UserError that says why it is no box of a known image and category."""
    _read_numbers(entry, ("image_id", "category_id", "bbox", "iscrowd", "area"), mended)
    entry["image_id"] = _whole(entry.get("image_id"), 0, "image_id")
    entry["category_id"] = _whole(entry.get("category_id"), -MAX_ID, "category_id")
    if entry["image_id"] in shared:
        raise UserError("several files have this image id")
    if entry["image_id"] not in images:
        raise UserError("the file lists no such image")
    if entry["category_id"] not in category_ids:
        raise UserError(f"unknown category id {entry['category_id']}")
    if not is_box(entry.get("bbox")):
        raise UserError(f"{short(entry.get('bbox'))} is no box of four numbers")
    complete = entry.get("iscrowd") in (0, 1) and is_number(entry.get("area"))
    entry["iscrowd"] = int(entry["iscrowd"]) if entry.get("iscrowd") in (0, 1) else 0
    attributes = entry.get("attributes")
    angle = _number(attributes.get("rotation")) if isinstance(attributes, dict) else None
    if is_number(angle) and angle % 360 and not entry.get("segmentation"):
        entry["bbox"] = turned_box(entry["bbox"], angle)
        entry["attributes"] = {name: value for name, value in attributes.items() if name != "rotation"}  # it is turned once
        mended[TURNED] += 1
    if not is_number(entry.get("area")):
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    mended[NOT_COMPLETE] += not complete


def join_files(images, annotations, notes):
    """Let an image file that has several ids, each with other boxes, have one: the first, with all boxes. Where all have the same boxes, as
    in a set that repeats images on purpose, they stay."""
    ids_of_file, boxes = defaultdict(list), defaultdict(set)
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
        notes.append(f"{len(joined)} image files have several ids, each with other boxes: all boxes go to the first id ({some(joined, 3)})")


def read_annotations(entries, images, shared, category_ids, notes, skipped, mended):
    """The annotation entries that are boxes of a known image and category, complete, each of one file's image id."""
    boxes = []
    for entry in entries:
        image_id = entry.get("image_id")
        try:
            read_annotation(entry, images, shared, category_ids, mended)
        except UserError as error:
            skipped.append(f"annotation {short(entry.get('id'))} of image {short(image_id)}: {error}")
        else:
            boxes.append(entry)
    join_files(images, boxes, notes)
    return boxes


def keep_completed(annotations, complete, skipped):
    """Those annotations that complete(annotation), which completes what a task reads of one in place, does not refuse by a UserError."""
    kept = []
    for entry in annotations:
        try:
            complete(entry)
        except UserError as error:
            skipped.append(f"{annotation_name(entry)}: {error}")
        else:
            kept.append(entry)
    return kept


def keep_objects(annotations, size_of, skipped, mended):
    """Those annotations that are objects (objects.py), by the sizes (width, height) that size_of(image id) gives."""
    kept, seen = [], defaultdict(dict)
    for entry in annotations:
        if problem := annotation_problem(entry, size_of(entry["image_id"]), seen[entry["image_id"]]):
            skipped.append(f"{annotation_name(entry)}: {problem}")
            continue
        width, height = entry["bbox"][2:]
        if not 0 < entry["area"] <= (width + 1) * (height + 1):  # some count the pixels of both borders
            entry["area"] = width * height
            mended[LARGE_AREA] += 1
        kept.append(entry)
    return kept


def count_non_objects(annotations, size_of):
    """How many annotations are no objects."""
    seen = defaultdict(dict)
    return sum(annotation_problem(entry, size_of(entry["image_id"]), seen[entry["image_id"]]) != "" for entry in annotations)


def drop_emptied(images, entries, annotations, skipped):
    """Leave out the images that have annotation entries, and none among the annotations that are kept."""
    annotated = Counter(entry["image_id"] for entry in entries if is_int64(entry.get("image_id")))
    known = {entry["image_id"] for entry in annotations}
    for image_id in [image_id for image_id in images if annotated[image_id] and image_id not in known]:
        skipped.append(f"image {image_id} ({images[image_id]['file_name']}): {without_objects(annotated[image_id])}")
        del images[image_id]


def renumber_ids(annotations, notes):
    """Give annotations ids that pycocotools can tell apart, from each other and from no match, 0; source_id then is the file's."""
    unclear = _unclear([entry.get("id") for entry in annotations])
    if unclear:
        notes.append(f"{len(unclear)} annotation ids are 0, equal, missing or no whole numbers ({some(map(short, unclear), 3)}), which "
                     "COCO's scoring would mistake: all are counted anew")
        for number, entry in enumerate(annotations, 1):
            entry["id"], entry["source_id"] = number, entry.get("id")


def _unclear(ids):
    """The annotation ids that pycocotools does not tell apart from each other or from no match, 0."""
    seen, unclear = set(), []
    for value in ids:
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_EXACT
        if not whole or value in seen:
            unclear.append(value)
        else:
            seen.add(value)
    return unclear
