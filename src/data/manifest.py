"""The files that describe MindRecord files: a JSON manifest, and the sizes of all boxes as NumPy arrays.

The model zoo's MindRecord files have neither: the configuration describes them.
"""
import contextlib
import json
import os
import shlex
import shutil
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..core import errors
from ..core.errors import UserError
from ..core.files import atomic_write, read_json
from ..core.kinds import dictionary_of, is_int64, is_string, is_text, list_of
from ..core.project import command
from ..model_utils.combinations import settle_task
from ..model_utils.config import Config
from ..model_utils.paths import training_annotation
from ..model_utils.settings import DEFAULTS
from ..tasks import Task, check_metainfo, task_of
from .coco import check_expected, chosen_task, class_list, find_split, named_classes, read_coco
from .labels.formats import import_hint
from .summary import Boxes

COLUMNS = ["image", "image_id", "boxes", "labels"]  # and the task's
ZOO_COLUMNS = ["image", "img_id", "bboxes", "category_id"]  # in the model zoo's files, whose category_id counts from 1
BOXES = ("image_sizes", "counts", "sizes", "labels")  # fields of summary.Boxes in the file next to the manifest
HEADER_LIMIT = 2**24  # bytes that MindRecord reserves for its header


def record_schema(task: Task, metainfo: dict) -> dict[str, dict]:
    """The schema of MindRecord files of a Task: {column: type and shape}."""
    return {
        "image": {"type": "bytes"}, "image_id": {"type": "int64"},
        "boxes": {"type": "float32", "shape": [-1, 4]}, "labels": {"type": "int32", "shape": [-1]},
        **{name: {"type": "float32", "shape": [-1, count]}
           for name, count in task.targets.object_columns(metainfo).items()},
    }


def manifest_path(mindrecord_dir: str, prefix: str) -> str:
    """The path of the manifest, which is written last."""
    return os.path.join(mindrecord_dir, f"{prefix}.manifest.json")


def boxes_path(mindrecord_dir: str, prefix: str) -> str:
    """The path of the file with the sizes of all images and boxes."""
    return os.path.join(mindrecord_dir, f"{prefix}.boxes.npz")


def write_boxes(path: str, boxes: Boxes) -> None:
    """Write summary.Boxes, which saves reading all MindRecord files for them."""
    with atomic_write(path) as partial:
        np.savez_compressed(partial, **{name: getattr(boxes, name) for name in BOXES})


def new_records(data_dir: str) -> str:
    """A folder for the MindRecord files of a data set, to propose: mindrecord, or if it exists one with the data set's
    name."""
    name = os.path.basename(os.path.abspath(data_dir))
    return f"mindrecord_{name}" if os.path.exists("mindrecord") else "mindrecord"


def read_boxes(path: str, images: int, num_classes: int) -> Boxes | None:
    """Read write_boxes' file; None if it is missing, damaged, or does not match the number of images and classes."""
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


def read_manifest(config: Config, problems: errors.Problems | None = None) -> dict:
    """Read the manifest of config's MindRecord files; checks that they are complete and the classes match.

    The classes of the model zoo's files come from the configuration: coco_classes or train_annotation. Raises
    UserError; problems, if given, takes a mismatch of the classes instead.
    """
    mindrecord_dir, prefix = config.mindrecord_dir, config.mindrecord_prefix
    errors.require_dir(mindrecord_dir, "MindRecord folder (--mindrecord_dir)")
    path = manifest_path(mindrecord_dir, prefix)
    zoo_files = [] if os.path.isfile(path) else find_zoo_files(mindrecord_dir, prefix)
    if zoo_files:
        manifest = describe_zoo_files(config, zoo_files)
        check_task(manifest, config, mindrecord_dir)
    elif os.path.isfile(path):
        manifest = read_json(path, "a manifest of MindRecord files", {
            "dataset": is_string, "files": list_of(is_text), "classes": list_of(is_text, least=1),
            "category_ids": list_of(is_int64)})
        check_task(manifest, config, path)
        manifest = task_of(manifest).targets.configured(manifest, config)
        if not dictionary_of(is_int64)(manifest.get("sizes", {})):
            raise UserError(f"{path}: not a manifest of MindRecord files (its sizes are not integers)")
        with problems or contextlib.nullcontext():
            check_expected(config, manifest["classes"], manifest["category_ids"], path)
    else:
        raise UserError(f"no finished conversion in {mindrecord_dir}: {os.path.basename(path)} is missing"
                        f"{_conversion_hint(config)}")
    for name in [*manifest["files"], *(f"{file}.db" for file in manifest["files"])]:
        file = errors.require_file(os.path.join(mindrecord_dir, name), "MindRecord file")
        written = manifest.get("sizes", {}).get(name)  # absent for the model zoo's files and earlier versions
        if written not in (None, os.path.getsize(file)):
            raise damaged(mindrecord_dir, f"{name} has {os.path.getsize(file)} bytes, the conversion wrote {written}")
    return manifest


def check_task(manifest: dict, config: Config, path: str) -> None:
    """Raise UserError unless the MindRecord files of this manifest, at path, were converted for config's task."""
    with errors.prefix_errors(path):
        converted = task_of(manifest)
    settle_task(config, converted, path)
    task = task_of(config.net_config)
    if converted is not task:
        raise UserError(f"{path}: converted for {converted.name}, but net_config.task is {task.name}; convert the data "
                        f"set with --net_config.task {task.name} into another folder, or train {converted.name}")
    with errors.prefix_errors(path):
        check_metainfo(manifest)


def _conversion_hint(config: Config) -> str:
    """The end of the error that a folder holds no conversion: the command that converts its content."""
    folder, convert = config.mindrecord_dir, f"{command('src/dataset.py')} --coco_data_dir"
    ending = os.path.basename(manifest_path("", ""))
    others = [name.removesuffix(ending) for name in sorted(os.listdir(folder)) if name.endswith(ending)]
    if others:
        return f"; it has {' and '.join(others)}: choose with --mindrecord_prefix"
    prefix = config.mindrecord_prefix
    changed = config.origin("mindrecord_prefix") != DEFAULTS
    target = "MINDRECORD_DIR" + (f" --mindrecord_prefix {prefix}" if changed else "")
    try:
        find_split(folder, "train", config.dataset_config, task=chosen_task(config))
    except UserError:
        hint = import_hint(folder)
        generic = f"{convert} DATA --mindrecord_dir {target}"
        return f"{hint}; then convert that with {generic}" if hint else f"; run {generic} first"
    return (f"; this is an unconverted data set: convert it with {convert} {shlex.quote(folder)} "
            f"--mindrecord_dir {target}")


def find_zoo_files(mindrecord_dir: str, prefix: str) -> list[str]:
    """The file names of the model zoo's conversion with that prefix, including missing files; [] if there is none.

    Files are the model zoo's if they have its columns. Raises UserError if those in the folder have another prefix.
    """
    found: dict[str, list[str]] = {}
    for name in sorted(os.listdir(mindrecord_dir)):
        header = _header(os.path.join(mindrecord_dir, name))
        with contextlib.suppress(KeyError, IndexError, TypeError):
            if set(ZOO_COLUMNS) <= set(header["schema"][0]["schema"]):
                files = [os.path.basename(path) for path in header["shard_addresses"]]
                found[os.path.commonprefix(files)] = files
    if found and prefix not in found:
        raise UserError(f"no MindRecord files {prefix}* in {mindrecord_dir}; the model zoo's files in it begin with "
                        f"{', '.join(found)}: set mindrecord_prefix")
    return found.get(prefix, [])


def _header(path: str) -> Any:
    """The JSON header of a MindRecord file, whose length is in the first 8 bytes; None for other files."""
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


def describe_zoo_files(config: Config, files: list[str]) -> dict:
    """A manifest of the model zoo's files with the classes of the configuration. Raises UserError if it names none."""
    annotation, ids = training_annotation(config), config.eval_config.valid_ids
    if annotation:
        classes, category_ids = class_list(read_coco(annotation))
        check_expected(config, classes, category_ids, annotation)
    elif classes := named_classes(config):
        category_ids = ids or list(range(1, len(classes) + 1))
        if len(category_ids) != len(classes):
            raise UserError(f"eval_config.valid_ids has {len(category_ids)} entries, dataset_config.coco_classes has "
                            f"{len(classes)}")
        if config.dataset_config.num_classes not in (0, len(classes)):
            raise UserError(f"dataset_config.num_classes is {config.dataset_config.num_classes}, and "
                            f"dataset_config.coco_classes has {len(classes)} classes")
    else:
        raise UserError(f"{config.mindrecord_dir}: the model zoo's MindRecord files do not name their classes; give "
                        "the configuration they were made with (--config_path) or their annotation file "
                        "(--dataset_config.train_annotation)")
    name = os.path.basename(os.path.abspath(config.mindrecord_dir))
    return {"dataset": name, "classes": classes, "category_ids": category_ids, "files": files, "columns": ZOO_COLUMNS}


def is_empty(file: str) -> bool:
    """Whether a MindRecord file has no rows, by its SQLite index; a damaged index is left to MindSpore to report."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file}.db")) as index:
            return index.execute("SELECT COUNT(*) FROM INDEXES").fetchone()[0] == 0
    except (sqlite3.Error, UnicodeDecodeError):
        return False


def damaged(mindrecord_dir: str, cause: object) -> UserError:
    """The UserError for damaged MindRecord files."""
    return UserError(f"{mindrecord_dir}: its MindRecord files are damaged or do not belong together; convert the data "
                     f"set again, into another folder ({cause})")


@contextlib.contextmanager
def writing_records(folder: str) -> Iterator[None]:
    """Turn MindSpore's error in a block that writes MindRecord files for a folder into a UserError."""
    try:
        yield
    except RuntimeError as error:
        free = shutil.disk_usage(folder).free / 2**20
        raise UserError(f"the MindRecord files in {folder} could not be written ({cause_of(error)}); its disk had "
                        f"{free:.0f} MB left; this conversion was discarded") from error


def cause_of(error: RuntimeError) -> str:
    """The line of MindSpore's RuntimeError that states the cause."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line.startswith("[ERROR]")), lines[0])
