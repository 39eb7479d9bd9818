"""COCO files: find, read and check them; classes, images and boxes."""
import contextlib
import functools
import io
import json
import os
from collections import Counter
from dataclasses import dataclass

from pycocotools.coco import COCO

from ..core import errors
from ..core.console import LOG, log_skipped
from ..core.errors import UserError
from ..imaging.headers import IMAGE_ENDINGS
from ..imaging.reading import read_size
from . import coco_entries
from .labels.formats import import_hint
from .labels.names import alike
from .objects import ANY_SIZE

# Some documents spell the test set's year 2017.
VOC_NAMES = {"train": ["pascal_trainval0712.json"], "val": ["pascal_test2007.json", "pascal_test2017.json"], "test": []}
# COCO's lists of test images: test-dev is the part of the test set that its server scores by default.
LISTS = {"train": [], "val": [], "test": ["image_info_test-dev2017.json", "image_info_test2017.json"]}


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
    way = f"correct {option}" if chosen else f"set {option}{import_hint(data_dir)}"
    raise UserError(f"none of these exists: {', '.join(candidates)}; {way}")


def read_coco(path, image_dir="", task=None):
    """Read and check an annotation file; returns pycocotools' COCO, whose `notes` say what was mended, and `skipped` what was left out.

    Image ids are whole numbers from 0, class names different texts, category ids different whole numbers, or it raises UserError: what is
    trained on can be scored. Annotations are objects (objects.py) of an image and a category of the file, with iscrowd, area, and ids
    that pycocotools can tell apart. An image whose annotations are all none is left out with them: it does not show that there is nothing.
    Sizes that the file does not state are those of the image files in image_dir, if it is given.

    COCO's own files keep all their boxes, so that scores are those that pycocotools gives. With a Task annotations have what it reads of
    them, too.
    """
    return check_coco(load_json(path), path, image_dir, task)


def load_json(path):
    """What an annotation file holds, unchecked. Raises UserError if it is missing or no JSON."""
    errors.require_file(path, "annotation file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from error


def check_coco(content, path, image_dir="", task=None):
    """read_coco, of what load_json gives."""
    notes, skipped, mended = [], [], Counter()
    with errors.about(path):
        if not isinstance(content, dict):
            raise UserError("not a COCO annotation file (it holds no dictionary)")
        images, shared = coco_entries.read_images(coco_entries.dictionaries(content, "images"), notes, skipped, mended)
        categories = coco_entries.read_categories(coco_entries.dictionaries(content, "categories"), mended)
        entries = coco_entries.dictionaries(content, "annotations", [])
        category_ids = {entry["id"] for entry in categories}
        annotations = coco_entries.read_annotations(entries, images, shared, category_ids, notes, skipped, mended)
        if task is not None:
            complete = functools.partial(task.targets.check_annotation, metainfo=task.targets.read_metainfo(categories))
            annotations = coco_entries.keep_completed(annotations, complete, skipped)
    info = content["info"] if isinstance(content.get("info"), dict) else {}
    size_of = _sizes(images, image_dir)
    if is_official_coco(info):
        mended[coco_entries.COUNTED] = coco_entries.count_non_objects(annotations, size_of)
    else:
        annotations = coco_entries.keep_objects(annotations, size_of, skipped, mended)
    coco_entries.drop_emptied(images, entries, annotations, skipped)
    coco_entries.renumber_ids(annotations, notes)
    coco = COCO()
    coco.dataset = {**content, "info": info, "images": list(images.values()), "annotations": annotations, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    notes += [f"{number} {sentence}" for sentence, number in mended.items() if number] + alike(entry["name"] for entry in categories)
    coco.notes, coco.skipped = notes, skipped
    return coco


def _sizes(images, image_dir):
    """A function of an image id that gives the image's size (width, height): what its entry states, else its file's, else ANY_SIZE."""
    @functools.cache
    def size_of(image_id):
        info = images[image_id]
        return image_size(info) or (image_dir and read_size(os.path.join(image_dir, info["file_name"]))) or ANY_SIZE

    return size_of


def is_official_coco(info):
    """Whether an annotation file's `info` is that of the COCO data set itself."""
    return str(info.get("description", "")).startswith(("COCO 2014", "COCO 2017"))


def log_notes(coco):
    """Say what was mended and left out in an annotation file."""
    for note in coco.notes:
        LOG.warning(note)
    log_skipped(coco.skipped)


def class_list(coco):
    """(class names, category ids), both in the order of the ids; a label is an index into these lists."""
    categories = sorted(coco.dataset["categories"], key=lambda category: category["id"])
    return [category["name"] for category in categories], [category["id"] for category in categories]


def metainfo_of(coco, task):
    """The metainfo of a Task that a COCO file gives: classes, category_ids, and what the task reads beside them. Raises UserError."""
    classes, category_ids = class_list(coco)
    return {"classes": classes, "category_ids": category_ids, **task.targets.read_metainfo(coco.dataset["categories"])}


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


def check_classes(description, coco, annotation):
    """The annotation's category id of each of the model's classes. Raises UserError unless both name the same classes."""
    ids = {category["name"]: category["id"] for category in coco.dataset["categories"]}
    for name in description["classes"]:
        if name not in ids:
            raise UserError(f"{annotation} has no class {name!r}, which the model was trained on; it has {len(ids)} classes: {_some(ids)}")
    for name in ids:
        if name not in description["classes"]:
            raise UserError(f"the model was not trained on {name!r} of {annotation}; "
                            f"it knows {len(description['classes'])} classes: {_some(description['classes'])}")
    return [ids[name] for name in description["classes"]]


def check_objects(coco, annotation):
    """Raise UserError unless there is an object to score detections against: pycocotools would give -1 for everything."""
    if not any(entry["category_id"] in coco.cats and not entry["iscrowd"] for entry in coco.dataset["annotations"]):
        raise UserError(f"{annotation} holds no objects (but crowds) to score detections against; without scores, eval.py detects with "
                        "--enable_eval false")


def _some(names, limit=8):
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
