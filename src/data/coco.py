"""COCO files: locating, reading and checking them; classes, images and boxes."""
import contextlib
import functools
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pycocotools.coco import COCO

from ..core import errors
from ..core.console import LOG, log_skipped
from ..core.errors import UserError
from ..imaging.headers import IMAGE_ENDINGS
from ..imaging.reading import read_size
from ..model_utils.combinations import settle_task
from ..model_utils.config import Config
from ..tasks import AUTO, TASKS, Task, fitting_task, task_of
from . import coco_entries
from .labels.formats import import_hint
from .labels.names import alike
from .objects import ANY_SIZE

# Some documents give the test set's year as 2017.
VOC_NAMES = {"train": ["pascal_trainval0712.json"], "val": ["pascal_test2007.json", "pascal_test2017.json"], "test": []}
# COCO's lists of test images: test-dev is the subset that its server scores by default.
LISTS = {"train": [], "val": [], "test": ["image_info_test-dev2017.json", "image_info_test2017.json"]}


PARTS = {"train": "training", "val": "validation", "test": "test"}  # {a split's name: the adjective of its images}


@dataclass
class Split:
    """One split of a COCO-format data set: its annotation file ("" if it has none), its image folder, and its name."""

    annotation: str
    image_dir: str
    name: str = "val"


def find_split(data_dir: str, split: str, dataset_config: Any, option: str = "--data_dir",
               task: Task | None = None) -> Split:
    """Locate the "train", "val" or "test" split of the data set in data_dir.

    dataset_config's <split>_annotation and <split>_image_dir (relative to data_dir) take precedence. Otherwise the
    usual places are tried: annotations/ with the tasks' file names (the given task's first), <split>.json, COCO's lists
    of test images, Pascal VOC's names; and <split>2017/, images/<split>/images/, images/<split>/, images/trainval/ or
    images/. Raises UserError that lists the places tried.
    """
    errors.require_dir(data_dir, f"data set folder ({option})")
    annotation = _first_existing(data_dir, getattr(dataset_config, f"{split}_annotation"),
                                 _usual_annotations(split, task), f"dataset_config.{split}_annotation",
                                 optional=split == "test")
    folders = [f"{split}2017", os.path.join("images", split, "images"), os.path.join("images", split),
               os.path.join("images", "trainval"), "images"]
    if split == "test" and not annotation and _is_data_set(data_dir):
        folders = folders[:3]  # images/ has the other splits' images
    image_dir = _first_existing(data_dir, getattr(dataset_config, f"{split}_image_dir"), folders,
                                f"dataset_config.{split}_image_dir")
    return Split(annotation, image_dir, split)


def _usual_annotations(split: str, task: Task | None = None) -> list[str]:
    """The usual places of a split's annotation file in a data set, those of the given task first."""
    tasks = sorted(TASKS.values(), key=lambda other: task is not None and other is not task)
    names = [name.format(split=split) for other in tasks for name in other.annotations]
    return [os.path.join("annotations", name) for name in [*names, *LISTS[split], f"{split}.json", *VOC_NAMES[split]]]


def _is_data_set(data_dir: str) -> bool:
    """Whether a folder has the annotations of some split in a usual place."""
    return any(os.path.exists(os.path.join(data_dir, name)) for split in PARTS for name in _usual_annotations(split))


def _first_existing(data_dir: str, chosen: str, usual: list[str], option: str, optional: bool = False) -> str:
    candidates = [os.path.join(data_dir, name) for name in ([chosen] if chosen else usual)]
    for path in candidates:
        if os.path.exists(path):
            return path
    if optional and not chosen:
        return ""
    remedy = f"correct {option}" if chosen else f"set {option}{'' if _is_data_set(data_dir) else import_hint(data_dir)}"
    raise UserError(f"none of these exists: {', '.join(candidates)}; {remedy}")


def read_coco(path: str, image_dir: str = "", task: Task | None = None) -> COCO:
    """Read and check an annotation file.

    Returns pycocotools' COCO with two more attributes: `notes` lists the repairs, `skipped` the entries that were
    dropped. Annotations are objects (objects.py) of a listed image and category, with iscrowd, area and ids that
    pycocotools can tell apart. An image is dropped if none of its annotations is usable: it is not an image without
    objects. Sizes missing from the file are read from the images in image_dir, if given. COCO's own files keep all
    their boxes, so that scores match pycocotools'. With a Task, annotations also have the fields that it reads.

    Raises UserError unless image ids are integers from 0, class names distinct strings and category ids distinct
    integers: a data set that can be trained on can be scored.
    """
    return check_coco(load_json(path), path, image_dir, task)


def read_for(config: Config, split: Split) -> COCO:
    """read_coco for a configuration's task, which its annotation file decides if net_config.task is auto."""
    content = load_json(split.annotation)
    settle_task(config, fitting_task(content), split.annotation)
    return check_coco(content, split.annotation, split.image_dir, task_of(config.net_config))


def chosen_task(config: Config) -> Task | None:
    """The task of a configuration, None if its data decides."""
    return None if config.net_config.task == AUTO else task_of(config.net_config)


def load_json(path: str) -> Any:
    """Load an annotation file, unchecked. Raises UserError if it is missing or not JSON."""
    errors.require_file(path, "annotation file")
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a COCO annotation file ({type(error).__name__}: {error})") from error


def check_coco(content: Any, path: str, image_dir: str = "", task: Task | None = None) -> COCO:
    """read_coco for the content that load_json returns."""
    notes: list[str] = []
    skipped: list[str] = []
    repairs: Counter = Counter()
    with errors.prefix_errors(path):
        if not isinstance(content, dict):
            raise UserError("not a COCO annotation file (the top level is not a dictionary)")
        images, shared = coco_entries.read_images(coco_entries.dictionaries(content, "images"), notes, skipped, repairs)
        categories = coco_entries.read_categories(coco_entries.dictionaries(content, "categories"), repairs)
        entries = coco_entries.dictionaries(content, "annotations", [])
        category_ids = {entry["id"] for entry in categories}
        size_of = _sizes(images, image_dir)
        if task is not None:
            entries = coco_entries.drop_incomplete(images, entries, task, size_of, skipped)
        annotations = coco_entries.read_annotations(entries, images, shared, category_ids, notes, skipped, repairs)
        if task is not None:
            names = [entry["name"] for entry in categories]
            categories, chosen = task.targets.select(categories, annotations)
            notes += coco_entries.no_classes(names, categories)
            entries = coco_entries.without_background(entries, annotations, chosen)
            metainfo = _metainfo(categories, list(images.values()), task)

            def complete(entry: dict) -> None:
                task.targets.check_annotation(entry, metainfo, images[entry["image_id"]])

            annotations = coco_entries.keep_completed(chosen, complete, skipped)
    info = content["info"] if isinstance(content.get("info"), dict) else {}
    if is_official_coco(info):
        repairs[coco_entries.COUNTED] = coco_entries.count_non_objects(annotations, size_of)
    else:
        annotations = coco_entries.keep_objects(annotations, size_of, skipped, repairs)
    coco_entries.drop_emptied(images, entries, annotations, skipped)
    coco_entries.renumber_ids(annotations, notes)
    coco = COCO()
    coco.dataset = {**content, "info": info, "images": list(images.values()), "annotations": annotations,
                    "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    notes += [f"{count} {message}" for message, count in repairs.items() if count]
    coco.notes, coco.skipped = notes + alike(entry["name"] for entry in categories), skipped
    return coco


def _sizes(images: dict[int, dict], image_dir: str) -> Callable[[int], tuple[float, float]]:
    """A function: image id -> size (width, height), from the image's entry, else its file, else ANY_SIZE."""
    @functools.cache
    def size_of(image_id: int) -> tuple[float, float]:
        info = images[image_id]
        return image_size(info) or (image_dir and read_size(os.path.join(image_dir, info["file_name"]))) or ANY_SIZE

    return size_of


def is_official_coco(info: dict) -> bool:
    """Whether an annotation file's `info` is that of the COCO data set itself."""
    return str(info.get("description", "")).startswith(("COCO 2014", "COCO 2017"))


def log_notes(coco: COCO) -> None:
    """Log the repairs and the skipped entries of an annotation file."""
    for note in coco.notes:
        LOG.warning(note)
    log_skipped(coco.skipped)


def class_list(coco: COCO) -> tuple[list[str], list[int]]:
    """(class names, category ids), both sorted by id; a label is an index into these lists."""
    return _classes(coco.dataset["categories"])


def _classes(categories: list[dict]) -> tuple[list[str], list[int]]:
    categories = sorted(categories, key=lambda category: category["id"])
    return [category["name"] for category in categories], [category["id"] for category in categories]


def metainfo_of(coco: COCO, task: Task) -> dict:
    """The metainfo of a COCO file: classes, category_ids and the task's additions. Raises UserError."""
    return _metainfo(coco.dataset["categories"], coco.dataset.get("images", []), task)


def _metainfo(categories: list[dict], images: list[dict], task: Task) -> dict:
    classes, category_ids = _classes(categories)
    return {"classes": classes, "category_ids": category_ids, **task.targets.read_metainfo(categories, images)}


def named_classes(config: Config) -> list[str]:
    """dataset_config.coco_classes, without the model zoo's first class "background"."""
    names = config.dataset_config.coco_classes
    return names[1:] if names[:1] in (["background"], ["__background__"]) else names


def check_expected(config: Config, classes: list[str], category_ids: list[int], where: str) -> None:
    """Raise UserError, with a line for each, if num_classes, coco_classes or valid_ids differ from the classes of the
    file `where`."""
    count, names, ids = config.dataset_config.num_classes, named_classes(config), config.eval_config.valid_ids
    problems = []
    for name, expected, found in (("dataset_config.num_classes", [count] if count else [], [len(classes)]),
                                  ("dataset_config.coco_classes", names, classes),
                                  ("eval_config.valid_ids", ids, category_ids)):
        if expected and expected != found:
            differing = [f"has {ours!r} where {where} has {theirs!r}"
                         for ours, theirs in zip(expected, found) if ours != theirs]
            differing = differing or [f"has {len(expected)} entries, {where} has {len(found)}"]
            problems.append(f"{name} ({config.origin(name)}) {differing[0]}; correct or omit it: classes and ids come "
                            "from the annotation file")
    if problems:
        raise UserError("\n".join(problems))


def image_list(split: Split, coco: COCO | None) -> list[tuple[int, str]]:
    """The images of a split as [(id, path)]: those in coco, or if that is None the folder's files, numbered from 1."""
    if coco:
        return [(info["id"], os.path.join(split.image_dir, info["file_name"])) for info in coco.dataset["images"]]
    paths = sorted(
        os.path.join(folder, name)
        for folder, _, names in os.walk(split.image_dir) for name in names if name.lower().endswith(IMAGE_ENDINGS)
    )
    return list(enumerate(paths, 1))


def image_size(info: dict) -> tuple[int, int] | None:
    """(width, height) stated in an image's entry, or None."""
    size: tuple[Any, Any] = info.get("width"), info.get("height")
    return size if all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in size) else None


def dataset_name(data_dir: str, coco: COCO) -> str:
    """The data set's name in evaluation: coco2017, or the name of its folder."""
    description = str(coco.dataset["info"].get("description", ""))
    return "coco2017" if description.startswith("COCO 2017") else os.path.basename(os.path.abspath(data_dir))


def check_classes(description: dict, coco: COCO, annotation: str) -> list[int]:
    """The file's category id of each of the model's classes. Raises UserError unless both have the same classes, and
    what the task has besides."""
    classes, ids = description["classes"], {entry["name"]: entry["id"] for entry in coco.dataset["categories"]}
    for name in classes:
        if name not in ids:
            raise UserError(f"{annotation} has no class {name!r}, which the model was trained on; it has {len(ids)} "
                            f"classes: {_some(ids)}")
    for name in ids:
        if name not in classes:
            raise UserError(f"the model was not trained on {name!r} of {annotation}, but on {len(classes)} classes: "
                            f"{_some(classes)}")
    task = task_of(description)
    with errors.prefix_errors(annotation):
        task.targets.check_same(description, metainfo_of(coco, task))
    return [ids[name] for name in classes]


def has_objects(coco: COCO) -> bool:
    """Whether there is an object, other than a crowd, to score detections against."""
    return any(entry["category_id"] in coco.cats and not entry["iscrowd"] for entry in coco.dataset["annotations"])


def check_objects(coco: COCO, annotation: str) -> None:
    """Raise UserError unless there is an object to score detections against: pycocotools would return -1 throughout."""
    if not has_objects(coco):
        raise UserError(f"{annotation} holds no objects (except crowds) to score detections against; to detect without "
                        "scores, run eval.py with --enable_eval false")


def _some(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
