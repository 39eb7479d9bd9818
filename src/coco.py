"""COCO files: find, read and check them; classes, images and boxes."""
import contextlib
import io
import json
import os
from dataclasses import dataclass

from pycocotools.coco import COCO

from src import errors
from src.errors import UserError
from src.image_headers import IMAGE_ENDINGS
from src.kinds import is_number, is_text
from src.label_formats import import_hint
from src.text_table import some
from src.utils import log, log_skipped

# Some documents spell the test set's year 2017.
VOC_NAMES = {"train": ["pascal_trainval0712.json"], "val": ["pascal_test2007.json", "pascal_test2017.json"], "test": []}
# COCO's lists of test images: test-dev is the part of the test set that its server scores by default.
LISTS = {"train": [], "val": [], "test": ["image_info_test-dev2017.json", "image_info_test2017.json"]}
LARGEST_ID = 2**63 - 1  # MindRecord's integers
LARGEST_EXACT = 2**53  # pycocotools keeps annotation ids as float64
LARGEST_SIDE = 1e9  # pixels; float32 holds whole boxes up to there


@dataclass
class Split:
    """One part of a COCO-format data set: its annotation file ("" if it has none) and the folder of its images."""

    annotation: str
    image_dir: str


def find_split(data_dir, part, dataset_config, option="--data_dir"):
    """Locate the "train", "val" or "test" part of the data set in data_dir.

    dataset_config's <part>_annotation and <part>_image_dir (relative to data_dir) win; else the usual places are tried:
    annotations/instances_<part>2017.json (also instance_..., <part>.json, COCO's lists of test images, Pascal VOC's names),
    and <part>2017/, images/<part>/images/, images/<part>/ or images/. Raises UserError that lists the places tried.
    """
    errors.require_dir(data_dir, f"data set folder ({option})")
    names = [f"instances_{part}2017.json", f"instance_{part}2017.json", *LISTS[part], f"{part}.json", *VOC_NAMES[part]]
    annotation = _first_existing(
        data_dir, getattr(dataset_config, f"{part}_annotation"), [os.path.join("annotations", name) for name in names],
        f"dataset_config.{part}_annotation", optional=part == "test",
    )
    folders = [f"{part}2017", os.path.join("images", part, "images"), os.path.join("images", part), "images"]
    image_dir = _first_existing(data_dir, getattr(dataset_config, f"{part}_image_dir"), folders, f"dataset_config.{part}_image_dir")
    return Split(annotation, image_dir)


def _first_existing(data_dir, chosen, usual, option, optional=False):
    candidates = [os.path.join(data_dir, name) for name in ([chosen] if chosen else usual)]
    for path in candidates:
        if os.path.exists(path):
            return path
    if optional and not chosen:
        return ""
    raise UserError(f"none of these exists: {', '.join(candidates)}; set {option}{'' if chosen else import_hint(data_dir)}")


def read_coco(path):
    """Read and check an annotation file; returns pycocotools' COCO, whose `notes` say what was mended, and `skipped` what was left out.

    Image ids are whole numbers from 0, class names different texts, category ids different whole numbers, or it raises UserError: what is
    trained on can be scored. An image that is listed twice counts once. Annotations that no one can use (no box of four numbers, no
    known image or category) are left out, missing iscrowd and area filled in (0, width x height), and annotation ids that pycocotools
    would mistake (0, equal or missing ones) are counted anew; `source_id` then is the file's.
    """
    return check_coco(load_json(path), path)


def load_json(path):
    """What an annotation file holds, unchecked. Raises UserError if it is missing or no JSON."""
    errors.require_file(path, "annotation file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from error


def check_coco(content, path):
    """read_coco, of what load_json gives."""
    notes, skipped = [], []
    with errors.about(path):
        if not isinstance(content, dict):
            raise UserError("not a COCO annotation file (it holds no dictionary)")
        images = _images(_dictionaries(content, "images"), notes)
        categories = _categories(_dictionaries(content, "categories"))
        ids = [{entry["id"] for entry in part} for part in (images, categories)]
        annotations = _annotations(_dictionaries(content, "annotations", []), *ids, notes, skipped)
    info = content.get("info")
    coco = COCO()
    coco.dataset = {**content, "info": info if isinstance(info, dict) else {}, "images": images, "annotations": annotations,
                    "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    coco.notes, coco.skipped = notes, skipped
    return coco


def log_notes(coco):
    """Say what was mended and left out in an annotation file."""
    for note in coco.notes:
        log(note)
    log_skipped(coco.skipped)


def _dictionaries(content, section, default=None):
    """A section of an annotation file, a list of dictionaries, copied. Raises UserError if it is something else."""
    entries = content.get(section, default)
    if not isinstance(entries, list):
        raise UserError(f"not a COCO annotation file (it has no list {section!r})")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise UserError(f"{section}, entry {number}: {_short(entry)} is no dictionary")
    return [dict(entry) for entry in entries]


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _whole(value, least, what):
    """value as an int of 64 bits, at least `least`. Raises UserError that calls it `what`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST_ID:
        raise UserError(f"{what} is {_short(value)}; expected a whole number from {least} to {LARGEST_ID}")
    return value


def _images(entries, notes):
    """The image entries with checked ids and names, each id once; the last of several counts, as in pycocotools."""
    images, repeated = {}, []
    for number, entry in enumerate(entries, 1):
        entry["id"] = _whole(entry.get("id"), 0, f"the id of image entry {number}")
        if not isinstance(entry.get("file_name"), str) or not entry["file_name"] or "\0" in entry["file_name"]:
            raise UserError(f"image {entry['id']}: its file_name is {_short(entry.get('file_name'))}; expected a file's name")
        repeated += [entry["id"]] if entry["id"] in images else []
        images[entry["id"]] = entry
    if repeated:
        notes.append(f"{len(repeated)} images are listed more than once; each counts once (id {some(repeated, 3)})")
    return list(images.values())


def _categories(entries):
    """The category entries with checked ids and names."""
    if not entries:
        raise UserError("it names no categories")
    seen = {"id": set(), "name": set()}
    for number, entry in enumerate(entries, 1):
        entry["id"] = _whole(entry.get("id"), -LARGEST_ID, f"the id of category {number}")
        if not is_text(entry.get("name")):
            raise UserError(f"the name of category {entry['id']} is {_short(entry.get('name'))}; expected a text")
        for name, values in seen.items():
            if entry[name] in values:
                raise UserError(f"two categories have the {name} {entry[name]!r}; give each class one entry of its own")
            values.add(entry[name])
    return entries


def _annotations(entries, image_ids, category_ids, notes, skipped):
    """The usable annotation entries, complete, with ids that pycocotools can tell apart."""
    kept, filled = [], 0
    for entry in entries:
        name = f"annotation {_short(entry.get('id'))} of image {_short(entry.get('image_id'))}"
        try:
            entry["image_id"] = _whole(entry.get("image_id"), 0, "image_id")
            entry["category_id"] = _whole(entry.get("category_id"), -LARGEST_ID, "category_id")
        except UserError as error:
            skipped.append(f"{name}: {error}")
            continue
        box = entry.get("bbox")
        if entry["image_id"] not in image_ids:
            skipped.append(f"{name}: the file lists no such image")
        elif entry["category_id"] not in category_ids:
            skipped.append(f"{name}: unknown category id {entry['category_id']}")
        elif not (isinstance(box, list) and len(box) == 4 and all(is_number(value) and abs(value) <= LARGEST_SIDE for value in box)):
            skipped.append(f"{name}: {_short(box)} is no box of four numbers")
        else:
            filled += _complete(entry)
            kept.append(entry)
    if filled:
        notes.append(f"{filled} annotations lack iscrowd or area, which are taken as 0 and width x height")
    if unclear := _unclear([entry.get("id") for entry in kept]):
        notes.append(f"{len(unclear)} annotation ids are 0, equal, missing or no whole numbers ({some(map(_short, unclear), 3)}), which "
                     "COCO's scoring would mistake: all are counted anew")
        for number, entry in enumerate(kept, 1):
            entry["id"], entry["source_id"] = number, entry.get("id")
    return kept


def _unclear(ids):
    """The annotation ids that pycocotools does not tell apart from each other or from no match, 0."""
    seen, unclear = set(), []
    for value in ids:
        whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_EXACT
        if not whole or value in seen:
            unclear.append(value)
        else:
            seen.add(value)
    return unclear


def _complete(entry):
    """Fill in an annotation's iscrowd and area; returns whether one was missing."""
    known = entry.get("iscrowd") in (0, 1) and is_number(entry.get("area"))
    entry["iscrowd"] = int(entry["iscrowd"]) if entry.get("iscrowd") in (0, 1) else 0
    if not is_number(entry.get("area")):
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    return not known


def class_list(coco):
    """(class names, category ids), both in the order of the ids; a label is an index into these lists."""
    categories = sorted(coco.dataset["categories"], key=lambda category: category["id"])
    return [category["name"] for category in categories], [category["id"] for category in categories]


def named_classes(config):
    """dataset_config.coco_classes, without the model zoo's first class "background"."""
    names = config.dataset_config.coco_classes
    return names[1:] if names[:1] in (["background"], ["__background__"]) else names


def check_expected(config, classes, category_ids, where):
    """Raise UserError if a configuration names other classes than those of the file `where`: num_classes, coco_classes, valid_ids."""
    number, names, ids = config.dataset_config.num_classes, named_classes(config), config.eval_config.valid_ids
    for name, wanted, found in (("dataset_config.num_classes", [number] if number else [], [len(classes)]),
                                ("dataset_config.coco_classes", names, classes), ("eval_config.valid_ids", ids, category_ids)):
        if wanted and wanted != found:
            differing = [f"has {here!r} where {where} has {there!r}" for here, there in zip(wanted, found) if here != there]
            differing = differing or [f"has {len(wanted)} entries, and {where} {len(found)}"]
            raise UserError(f"{name} ({config.origin(name)}) {differing[0]}; correct it, or leave it out: classes and ids come from the "
                            "annotation file")


def image_list(split, coco):
    """The images of a part as [(id, path)]: those of its annotations, or if coco is None the folder's files, numbered from 1."""
    if coco:
        return [(info["id"], os.path.join(split.image_dir, info["file_name"])) for info in coco.dataset["images"]]
    paths = sorted(
        os.path.join(folder, name)
        for folder, _, names in os.walk(split.image_dir) for name in names if name.lower().endswith(IMAGE_ENDINGS)
    )
    return list(enumerate(paths, 1))


def image_size(info):
    """(width, height) that an image's entry states, None if it states none."""
    size = info.get("width"), info.get("height")
    return size if all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size) else None


def dataset_name(data_dir, coco):
    """What the evaluation calls the data set: coco2017, or the name of its folder."""
    description = str(coco.dataset["info"].get("description", ""))
    return "coco2017" if description.startswith("COCO 2017") else os.path.basename(os.path.abspath(data_dir))
