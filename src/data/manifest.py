"""The files beside MindRecord files that say what they hold: JSON, and the sizes of all boxes as NumPy arrays.

The model zoo's MindRecord files have neither: a configuration says what they hold.
"""
import contextlib
import json
import os
import shlex
import shutil
import sqlite3
import zipfile
import zlib

import numpy as np

from ..core import errors
from ..core.errors import UserError
from ..core.files import atomic_write, read_json
from ..core.kinds import dictionary_of, is_int64, is_string, is_text, list_of
from ..core.project import command
from ..model_utils.paths import training_annotation
from ..tasks import Task, task_of
from .coco import check_expected, class_list, find_split, named_classes, read_coco
from .labels.formats import import_hint
from .summary import Boxes

COLUMNS = ["image", "image_id", "boxes", "labels"]  # and the task's
ZOO_COLUMNS = ["image", "img_id", "bboxes", "category_id"]  # the same in the model zoo's files, whose category_id counts from 1
BOXES = ("image_sizes", "counts", "sizes", "labels")  # of summary.Boxes, in the file beside the manifest
HEADER_LIMIT = 2**24  # bytes that MindRecord keeps for its header


def record_schema(task: Task, metainfo: dict) -> dict[str, dict]:
    """The schema of MindRecord files of a Task: {column: type and shape}."""
    return {
        "image": {"type": "bytes"}, "image_id": {"type": "int64"},
        "boxes": {"type": "float32", "shape": [-1, 4]}, "labels": {"type": "int32", "shape": [-1]},
        **{name: {"type": "float32", "shape": [-1, count]} for name, count in task.targets.object_columns(metainfo).items()},
    }


def manifest_path(mindrecord_dir, prefix):
    """The file that is written last, and says what the MindRecord files hold."""
    return os.path.join(mindrecord_dir, f"{prefix}.manifest.json")


def boxes_path(mindrecord_dir, prefix):
    """The file beside MindRecord files that holds the sizes of their images and boxes."""
    return os.path.join(mindrecord_dir, f"{prefix}.boxes.npz")


def write_boxes(path, boxes):
    """Write summary.Boxes, so that no one reads all MindRecord files for them."""
    with atomic_write(path) as partial:
        np.savez_compressed(partial, **{name: getattr(boxes, name) for name in BOXES})


def read_boxes(path, images, num_classes):
    """The summary.Boxes that write_boxes wrote for so many images and classes; None if the file is missing, damaged, or another's."""
    try:
        with np.load(path, allow_pickle=False) as file:
            boxes = Boxes(**{name: file[name] for name in BOXES}, images=images)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    numbers, objects = (boxes.image_sizes, boxes.counts, boxes.sizes, boxes.labels), len(boxes.labels)
    kinds = [(array.dtype.kind, array.shape) for array in numbers]
    if kinds != [("i", (images, 2)), ("i", (images,)), ("f", (objects, 2)), ("i", (objects,))]:
        return None
    fits = (boxes.image_sizes > 0).all() and (boxes.counts >= 0).all() and boxes.counts.sum() == objects
    known = ((boxes.labels >= 0) & (boxes.labels < num_classes)).all()
    return boxes if fits and known and np.isfinite(boxes.sizes).all() else None


def read_manifest(config):
    """The manifest of config's MindRecord files, with their presence and the configuration's classes checked. Raises UserError.

    Of what the model zoo converted, the configuration tells the classes: coco_classes, or train_annotation.
    """
    mindrecord_dir, prefix = config.mindrecord_dir, config.mindrecord_prefix
    errors.require_dir(mindrecord_dir, "MindRecord folder (--mindrecord_dir)")
    path = manifest_path(mindrecord_dir, prefix)
    zoo_files = [] if os.path.isfile(path) else find_zoo_files(mindrecord_dir, prefix)
    if zoo_files:
        manifest = describe_zoo_files(config, zoo_files)
    elif os.path.isfile(path):
        manifest = read_json(path, "a manifest of MindRecord files", {
            "dataset": is_string, "files": list_of(is_text), "classes": list_of(is_text, least=1), "category_ids": list_of(is_int64)})
        check_task(manifest, config, path)
        if not dictionary_of(is_int64)(manifest.get("sizes", {})):
            raise UserError(f"{path}: not a manifest of MindRecord files (its sizes are no whole numbers)")
        check_expected(config, manifest["classes"], manifest["category_ids"], path)
    else:
        raise UserError(f"no finished conversion in {mindrecord_dir}: {os.path.basename(path)} is missing{_conversion_hint(config)}")
    for name in [*manifest["files"], *(f"{file}.db" for file in manifest["files"])]:
        file = errors.require_file(os.path.join(mindrecord_dir, name), "MindRecord file")
        written = manifest.get("sizes", {}).get(name)  # the model zoo's files and those of earlier versions have none
        if written not in (None, os.path.getsize(file)):
            raise damaged(mindrecord_dir, f"{name} has {os.path.getsize(file)} bytes, the conversion wrote {written}")
    return manifest


def check_task(manifest, config, path):
    """Raise UserError unless the MindRecord files with this manifest, at path, were converted for the task that is to be trained."""
    task = task_of(config.net_config)
    with errors.about(path):
        converted = task_of(manifest)
    if converted is not task:
        raise UserError(f"{path}: converted for {converted.name}, and net_config.task is {task.name}; convert the data set with "
                        f"--net_config.task {task.name} into another folder, or train {converted.name}")
    for name, test in task.targets.METAINFO.items():
        if not (name in manifest and test(manifest[name])):
            raise UserError(f"{path}: not a manifest of MindRecord files for {task.name} (its {name} is missing or damaged)")


def _conversion_hint(config):
    """The end of the error that a folder holds no conversion: what converts what is there instead."""
    folder, convert = config.mindrecord_dir, f"{command('src/dataset.py')} --coco_data_dir"
    try:
        find_split(folder, "train", config.dataset_config)
    except UserError:
        hint = import_hint(folder)
        way = f"{convert} DATA --mindrecord_dir MINDRECORD_DIR"
        return f"{hint}, and {way} then converts that" if hint else f"; run {way} first"
    return f"; this is a data set, not yet converted: {convert} {shlex.quote(folder)} --mindrecord_dir MINDRECORD_DIR converts it"


def find_zoo_files(mindrecord_dir, prefix):
    """Names of all files of a folder's conversion with that prefix, missing ones too, if it has the model zoo's columns; else [].

    Raises UserError if the model zoo's files in the folder begin with another prefix.
    """
    found = {}
    for name in sorted(os.listdir(mindrecord_dir)):
        header = _header(os.path.join(mindrecord_dir, name))
        with contextlib.suppress(KeyError, IndexError, TypeError):
            if set(ZOO_COLUMNS) <= set(header["schema"][0]["schema"]):
                files = [os.path.basename(path) for path in header["shard_addresses"]]
                found[os.path.commonprefix(files)] = files
    if found and prefix not in found:
        raise UserError(f"no MindRecord files {prefix}* in {mindrecord_dir}; the model zoo's there begin with {', '.join(found)}: "
                        "set mindrecord_prefix")
    return found.get(prefix, [])


def _header(path):
    """The header of a MindRecord file: its length in 8 bytes, then JSON, one entry of which names every 32 MB of data; else None."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_LIMIT:
            return None
        try:
            return json.loads(file.read(length))
        except (ValueError, RecursionError):
            return None


def describe_zoo_files(config, files):
    """The manifest of the model zoo's files, with what the configuration says of their classes. Raises UserError if it says nothing."""
    annotation, ids = training_annotation(config), config.eval_config.valid_ids
    if annotation:
        classes, category_ids = class_list(read_coco(annotation))
        check_expected(config, classes, category_ids, annotation)
    elif classes := named_classes(config):
        category_ids = ids or list(range(1, len(classes) + 1))
        if len(category_ids) != len(classes):
            raise UserError(f"eval_config.valid_ids has {len(category_ids)} entries, dataset_config.coco_classes {len(classes)}")
        if config.dataset_config.num_classes not in (0, len(classes)):
            raise UserError(f"dataset_config.num_classes is {config.dataset_config.num_classes}, and dataset_config.coco_classes has "
                            f"{len(classes)} classes")
    else:
        raise UserError(f"{config.mindrecord_dir}: MindRecord files of the model zoo, which name no classes; give the configuration that "
                        "they were made with (--config_path), or their annotation file (--dataset_config.train_annotation)")
    name = os.path.basename(os.path.abspath(config.mindrecord_dir))
    return {"dataset": name, "classes": classes, "category_ids": category_ids, "files": files, "columns": ZOO_COLUMNS}


def is_empty(file):
    """Whether a MindRecord file's index, an SQLite file beside it, says that it holds no rows; what is damaged is for MindSpore to tell."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file}.db")) as index:
            return index.execute("SELECT COUNT(*) FROM INDEXES").fetchone()[0] == 0
    except (sqlite3.Error, UnicodeDecodeError):
        return False


def damaged(mindrecord_dir, why):
    """The UserError that MindRecord files are damaged."""
    return UserError(f"{mindrecord_dir}: its MindRecord files are damaged, or do not belong together; convert the data set again, "
                     f"into another folder ({why})")


@contextlib.contextmanager
def writing_records(folder):
    """Turn MindSpore's error of the block, which writes MindRecord files for a folder, into a UserError."""
    try:
        yield
    except RuntimeError as error:
        free = shutil.disk_usage(folder).free / 2**20
        raise UserError(f"the MindRecord files in {folder} could not be written ({cause_of(error)}); its disk had {free:.0f} MB left, and "
                        "nothing of this conversion stays") from error


def cause_of(error):
    """The line of MindSpore's RuntimeError that says what happened."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.startswith("[ERROR]")), lines[0])
