"""Data sets in COCO format whose files lie elsewhere than where src/data/coco.py looks, as Roboflow and CVAT export them."""
import os

from ...core.console import progress
from ...core.errors import UserError
from ...core.kinds import having, is_int64, is_text, list_of
from ..coco import check_coco, class_list, image_size, load_json
from .common import Labels
from .formats import coco_files, images_of, part_of
from .names import match_names


def read(folder, files):
    """The Labels of a folder with annotation files in COCO format. Their names and folders tell the parts: one that names none is training.

    Category ids stay if all files agree on them, else the classes are counted from 1.
    """
    labels, images = Labels(folder), images_of(files)
    paths = coco_files(folder, files)
    if not paths:
        raise UserError(f"{folder}: no annotation file in COCO format")
    classes, supercategories, listed = [], {}, set()
    for path in paths:
        content = load_json(os.path.join(folder, path))
        labels.notes += [f"{path}: {note}" for note in _merge_equal_names(content)]
        if isinstance(content, dict):
            content.pop("info", None)  # of COCO's own files, whose boxes all count in scores, other files are made
        coco = check_coco(content, os.path.join(folder, path))
        labels.notes += [f"{path}: {note}" for note in coco.notes]
        labels.skipped += [f"{path}: {problem}" for problem in coco.skipped]
        classes += zip(*class_list(coco))
        for category in coco.dataset["categories"]:
            if isinstance(category.get("supercategory"), str):
                supercategories.setdefault(category["supercategory"], set()).add(category["name"])
        found = match_names([info["file_name"] for info in coco.dataset["images"]], images, path)
        listed.update(found)
        _read_images(coco, found, path, part_of(path) or "train", labels)
    labels.note_unused(images, listed)
    labels.categories = _agreed(classes)
    used = {name for part in labels.parts.values() for image in part for name, _ in image.objects}
    for name in list(labels.categories):
        if name not in used and supercategories.get(name, set()) - {name}:
            labels.notes.append(f"class {name} has no boxes, and is the supercategory of others: it is left out")
            del labels.categories[name]
    return labels


def _read_images(coco, found, path, part, labels):
    """Add the images that an annotation file lists, where they are found."""
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    for info, image in progress(list(zip(coco.dataset["images"], found)), "reading labels"):
        if image is None:
            labels.skipped.append(f"image {info['id']} of {path}: {info['file_name'][:200]!r} is not in {labels.folder}")
            continue
        size = labels.size_of(image, image_size(info))
        if size is None:
            continue
        objects = []
        for entry in coco.imgToAnns[info["id"]]:
            where = f"annotation {entry.get('source_id', entry['id'])} of {image}"
            objects.append((where, names[entry["category_id"]], {key: value for key, value in entry.items() if key != "source_id"}))
        labels.add(part, image, size, objects)


def _merge_equal_names(content):
    """Let classes of one name be one class, in an annotation file's content: Roboflow has a first class, without boxes, that may be called
    as a real one. Returns sentences that say so. What is no annotation file stays as it is."""
    categories = content.get("categories") if isinstance(content, dict) else None
    if not list_of(having(id=is_int64, name=is_text))(categories):
        return []
    kept, same = {}, {}
    for entry in categories:
        same[entry["id"]] = kept.setdefault(entry["name"], entry)["id"]
    if len(kept) == len(categories):
        return []
    content["categories"] = list(kept.values())
    for entry in content.get("annotations") if isinstance(content.get("annotations"), list) else []:
        if isinstance(entry, dict) and is_int64(entry.get("category_id")):
            entry["category_id"] = same.get(entry["category_id"], entry["category_id"])
    return [f"{len(categories) - len(kept)} classes have the name of another: they count as one"]


def _agreed(classes):
    """{class name: category id} of all files' [(name, id)]: their ids if no two classes have one id and no class two, else from 1."""
    pairs = dict.fromkeys(classes)
    names, ids = dict.fromkeys(name for name, _ in pairs), {number for _, number in pairs}
    if len(names) == len(ids) == len(pairs):
        return dict(sorted(pairs, key=lambda pair: pair[1]))
    return {name: number for number, name in enumerate(names, 1)}
