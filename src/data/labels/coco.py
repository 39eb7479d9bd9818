"""Data sets in COCO format with other layouts than those of src/data/coco.py, such as Roboflow's and CVAT's exports."""
import os
from typing import Any

from pycocotools.coco import COCO

from ...core import errors
from ...core.console import progress
from ...core.errors import UserError
from ...core.kinds import dict_with, is_int64, is_text, list_of
from ...core.tables import abbreviate
from ...tasks.ddd import DDD
from ...tasks.ddd.targets import has_box
from ...tasks.pose import POSE
from ..coco import check_coco, class_list, image_size, load_json
from ..coco_entries import RENUMBERED
from .boxes_3d import check_box
from .common import Labels
from .formats import coco_files, images_of, split_of
from .keypoints import FIELDS, NO_BOX, add_boxes, category_fields
from .names import match_names


def read(folder: str, files: list[str], task: str = "auto") -> Labels:
    """The Labels of a folder with annotation files in COCO format, with keypoints and 3D boxes if the task needs them.

    Their names and folders determine the splits; the default is training. Category ids are kept if all files agree on
    them; otherwise the classes are numbered from 1.
    """
    labels, images = Labels(folder), images_of(files)
    paths = coco_files(folder, files, task == "pose")
    if not paths:
        raise UserError(f"{folder}: no annotation file in COCO format")
    unused = [path for path in coco_files(folder, files, True) if path not in paths]
    if unused and task == "auto":
        labels.notes.append(f"boxes are imported, not the keypoints of {abbreviate(unused, 3)}; to import these, add "
                            "--task pose")
    classes: list[tuple[str, int]] = []
    supercategories: dict[str, set[str]] = {}
    listed: set[str | None] = set()
    loaded: dict[str, COCO] = {}
    notes: dict[str, list[str]] = {}  # {note: the files that it is about}
    for path in paths:
        content = load_json(os.path.join(folder, path))
        found_notes = _merge_equal_names(content)
        if isinstance(content, dict):
            content.pop("info", None)  # or COCO's own files would keep their invalid boxes
        add_boxes(content)
        loaded[path] = coco = check_coco(content, os.path.join(folder, path))
        found_notes += [note for note in coco.notes if RENUMBERED not in note]  # as all are, in files that are written
        for note in found_notes:
            notes.setdefault(note, []).append(path)
        labels.skipped += [f"{path}: {problem}" for problem in coco.skipped]
        classes += zip(*class_list(coco))
        for category in coco.dataset["categories"]:
            if isinstance(category.get("supercategory"), str):
                supercategories.setdefault(category["supercategory"], set()).add(category["name"])
    labels.notes += [f"{abbreviate(files_of, 3)}: {note}" for note, files_of in notes.items()]
    solid = task in ("auto", "ddd") and any(DDD.targets.fits(coco.dataset) for coco in loaded.values())
    for path, coco in loaded.items():
        found = match_names([info["file_name"] for info in coco.dataset["images"]], images, path)
        listed.update(found)
        metainfo = _read_keypoints(coco, path, labels) if task in ("auto", "pose") else {}
        _read_images(coco, found, path, split_of(path) or "train", labels, metainfo, solid)
    labels.note_unused(images, listed)
    labels.categories = _agreed(classes)
    used = {name for split in labels.parts.values() for image in split for name, _ in image.objects}
    for name in list(labels.categories):
        if name not in used and supercategories.get(name, set()) - {name}:
            labels.notes.append(f"class {name} only groups the others, as their supercategory: it is dropped")
            del labels.categories[name]
    return labels


def _read_keypoints(coco: COCO, path: str, labels: Labels) -> dict[int, dict]:
    """Read the keypoints of an annotation file's categories: {category id: metainfo of the class alone}."""
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    with errors.prefix_errors(os.path.join(labels.folder, path)):
        found = category_fields(coco.dataset["categories"])
        for category_id, (fields, _) in found.items():
            labels.name_keypoints(names[category_id], fields)
    unnamed = sum(bool(entry.get("keypoints")) and entry["category_id"] not in found
                  for entry in coco.dataset["annotations"])
    if unnamed:
        labels.notes.append(f"{path}: {unnamed} annotations have keypoints that their category does not name (in its "
                            "field keypoints): only their boxes are imported")
    return {category_id: metainfo for category_id, (_, metainfo) in found.items()}


def _read_images(coco: COCO, found: list[str | None], path: str, split: str, labels: Labels,
                 metainfo: dict[int, dict], solid: bool) -> None:
    """Add an annotation file's images to a split.

    found are the images' files, metainfo is that of _read_keypoints, and solid whether 3D boxes are imported, for which
    every image needs a calibration.
    """
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    for info, image in progress(list(zip(coco.dataset["images"], found)), "reading labels"):
        if image is None:
            name = info["file_name"][:200]
            labels.skipped.append(f"image {info['id']} of {path}: {name!r} is not in {labels.folder}")
            continue
        size = labels.size_of(image, image_size(info))
        if size is None:
            continue
        try:
            facts = _read_facts(info, size) if solid else {}
        except UserError as error:
            labels.skipped.append(f"image {image}: {error}")
            continue
        objects, lost = [], 0
        for entry in coco.imgToAnns[info["id"]]:
            where = f"annotation {entry.get('source_id', entry['id'])} of {image}"
            try:
                annotation = _read_annotation(entry, metainfo.get(entry["category_id"]), info)
                if solid and has_box(annotation):
                    check_box(annotation, names[entry["category_id"]])
            except UserError as error:
                labels.skipped.append(f"{where}: {error}")
                lost += 1
            else:
                objects.append((where, names[entry["category_id"]], annotation))
        labels.add(split, image, size, objects, lost, facts)


def _read_facts(info: dict, size: tuple[int, int]) -> dict:
    """The calibration of an image's entry, as a dictionary. Raises UserError if it has none."""
    DDD.targets.check_image(info, lambda _: size)
    return {"calib": info["calib"]}


def _read_annotation(entry: dict, metainfo: dict | None, info: dict) -> dict:
    """An entry of check_coco as an annotation of the image `info`, with keypoints if its class has some, and for
    Labels.add to box if it has no box. Raises UserError for invalid keypoints."""
    annotation = {key: value for key, value in entry.items() if key not in ("source_id", NO_BOX)}
    if entry.get(NO_BOX):
        annotation["bbox"] = []
    elif metainfo is None:
        annotation.pop("keypoints", None)
        annotation.pop("num_keypoints", None)
    if metainfo is not None:
        POSE.targets.check_annotation(annotation, metainfo, info)
    return annotation


def _merge_equal_names(content: Any) -> list[str]:
    """Merge classes of the same name in an annotation file's content; returns messages about it.

    Roboflow's first class has no boxes, and may have the name of a real one. Invalid content is left unchanged.
    """
    categories: Any = content.get("categories") if isinstance(content, dict) else None
    if not list_of(dict_with(id=is_int64, name=is_text))(categories):
        return []
    kept: dict[str, dict] = {}
    same: dict[int, int] = {}
    for entry in categories:
        first = kept.setdefault(entry["name"], entry)
        same[entry["id"]] = first["id"]
        if not first.get("keypoints"):
            first.update((field, entry[field]) for field in FIELDS if field in entry)
    if len(kept) == len(categories):
        return []
    content["categories"] = list(kept.values())
    annotations = content.get("annotations")
    for entry in annotations if isinstance(annotations, list) else []:
        if isinstance(entry, dict) and is_int64(entry.get("category_id")):
            entry["category_id"] = same.get(entry["category_id"], entry["category_id"])
    names = abbreviate(dict.fromkeys(entry["name"] for entry in categories if same[entry["id"]] != entry["id"]))
    return [f"{len(categories) - len(kept)} classes share their name with another and are merged: {names}"]


def _agreed(classes: list[tuple[str, int]]) -> dict[str, int]:
    """{class name: category id} of all files' [(name, id)]: the files' ids if they are consistent, else from 1."""
    pairs = dict.fromkeys(classes)
    names, ids = dict.fromkeys(name for name, _ in pairs), {category_id for _, category_id in pairs}
    if len(names) == len(ids) == len(pairs):
        return dict(sorted(pairs, key=lambda pair: pair[1]))
    return {name: number for number, name in enumerate(names, 1)}
