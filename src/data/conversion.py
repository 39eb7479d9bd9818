"""Conversion of a COCO split to MindRecord files."""
import functools
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..core import errors
from ..core.console import LOG, log_skipped, progress
from ..core.errors import UserError
from ..core.files import move_into_place, write_json
from ..imaging import reading
from ..model_utils.config import Config
from ..tasks import Task, task_of
from .coco import Split, check_expected, dataset_name, image_size, metainfo_of, read_for
from .manifest import boxes_path, manifest_path, record_schema, write_boxes, writing_records
from .objects import counted_boxes, usable_objects, without_objects
from .summary import collect


def convert(split: Split, config: Config) -> dict:
    """Write the images and boxes of a COCO split to MindRecord files; returns the manifest.

    Images are stored as the bytes on disk, without the EXIF orientation if the annotation file states the unrotated
    size. Images without annotations (unless dataset_config.keep_empty), unreadable images, images with more than
    max_pixels pixels and annotations that are not objects (objects.py) are skipped, counted and logged.
    The files appear in mindrecord_dir once all are complete, the manifest last. Raises UserError if the configuration
    names other classes, or if no image or no object remains.
    """
    from mindspore.mindrecord import FileWriter

    mindrecord_dir, prefix, options = config.mindrecord_dir, config.mindrecord_prefix, config.dataset_config
    coco, metainfo = _read(split, config)
    task = task_of(config.net_config)
    os.makedirs(mindrecord_dir, exist_ok=True)
    listed = coco.dataset["images"]
    infos = listed if options.keep_empty else [info for info in listed if coco.imgToAnns[info["id"]]]
    if empty := len(listed) - len(infos):
        LOG.info(f"{empty} of {len(listed)} images without objects skipped (dataset_config.keep_empty keeps them)")
    num_shards = max(1, min(options.num_shards, len(infos)))
    skipped = list(coco.skipped)
    rows: list[tuple] = []
    objects: list[dict] = []
    load = functools.partial(_load_record, coco=coco, image_dir=split.image_dir, task=task, metainfo=metainfo,
                             max_pixels=options.max_pixels)
    with (tempfile.TemporaryDirectory(".partial", f".{prefix}.", mindrecord_dir) as partial,
          ThreadPoolExecutor(options.num_workers) as pool):
        with writing_records(mindrecord_dir):
            writer = FileWriter(os.path.join(partial, prefix), num_shards)
            writer.add_schema(record_schema(task, metainfo), "CenterNet training set")
        for chunk in progress(_chunks(infos, 64), "converting, 64 images a step"):
            records = []
            for record, size, problems in pool.map(load, chunk):
                skipped += problems
                if record is not None:
                    records.append(record)
                    rows.append((size, *counted_boxes(task, record)))
                    objects.append({name: record[name] for name in ("labels", *task.targets.object_columns(metainfo))})
            if records:
                with writing_records(mindrecord_dir):
                    writer.write_raw_data(records)  # in one call: single writes fill the files unevenly
        log_skipped(skipped)
        _require_objects(rows, split, len(listed), len(skipped))
        metainfo = observed(task, metainfo, objects)
        log_task_notes(task, metainfo)
        with writing_records(mindrecord_dir):
            writer.commit()
        files, boxes = sorted(os.listdir(partial)), collect(rows)
        manifest = {
            "dataset": dataset_name(config.coco_data_dir, coco), "task": task.name, **metainfo, "images": boxes.images,
            "objects": len(boxes.labels), "images_without_objects": int((boxes.counts == 0).sum()),
            "images_left_out": len(listed) - len(infos),
            "files": [file for file in files if not file.endswith(".db")], "skipped": skipped,
            "sizes": {file: os.path.getsize(os.path.join(partial, file)) for file in files},
        }
        write_boxes(boxes_path(partial, prefix), boxes)
        write_json(manifest_path(partial, prefix), manifest)
        for name in [*files, *map(os.path.basename, (boxes_path(partial, prefix), manifest_path(partial, prefix)))]:
            move_into_place(os.path.join(partial, name), os.path.join(mindrecord_dir, name))
    return manifest


def _read(split: Split, config: Config) -> tuple[COCO, dict]:
    """(coco, metainfo) of a split, with the repairs of its annotation file logged. Raises UserError."""
    coco = read_for(config, split)
    task = task_of(config.net_config)
    metainfo = task.targets.configured(metainfo_of(coco, task), config)
    check_expected(config, metainfo["classes"], metainfo["category_ids"], split.annotation)
    for note in coco.notes:
        LOG.warning(note)
    return coco, metainfo


def observed(task: Task, metainfo: dict, objects: list[dict]) -> dict:
    """A task's metainfo without what no object of a data set has; objects, the labels and object_columns of each image.

    Raises UserError.
    """
    names = ("labels", *task.targets.object_columns(metainfo))
    return task.targets.observed(metainfo, **{name: np.concatenate([one[name] for one in objects]) for name in names})


def log_task_notes(task: Task, metainfo: dict) -> None:
    """Log a task's remarks about a data set's metainfo."""
    remarks, warnings = task.targets.notes(metainfo)
    for remark in remarks:
        LOG.info(remark)
    for warning in warnings:
        LOG.warning(f"warning: {warning}")


def _require_objects(rows: list[tuple], split: Split, listed: int, skipped: int) -> None:
    """Raise UserError unless there is an object in the rows (size, boxes, labels)."""
    if not any(len(labels) for _, _, labels in rows):
        what = "no usable image" if not rows else f"no object in any of {len(rows)} usable images"
        raise UserError(f"{split.annotation}: {what} in {split.image_dir} ({listed} listed; "
                        f"{skipped} entries skipped, as named above)")


def _chunks(items: list, size: int) -> list[list]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _load_record(info: dict, coco: COCO, image_dir: str, task: Task, metainfo: dict,
                 max_pixels: int) -> tuple[dict | None, Any, list[str]]:
    """(record or None, the image's size (width, height), messages about skipped entries) of one image."""
    path = os.path.join(image_dir, info["file_name"])
    try:
        with open(path, "rb") as file:
            data = file.read()
        height, width = reading.decode_whole_image(data, image_size(info), max_pixels).shape[:2]
        if reading.header_size(data) != (width, height):
            data = reading.without_orientation(data)
    except (OSError, ValueError) as error:
        return None, None, [f"image {info['id']} ({path}): {errors.reason(error)}"]
    annotations = coco.imgToAnns[info["id"]]
    objects, problems = usable_objects(annotations, (width, height), task, metainfo)
    if annotations and not len(objects["labels"]):
        return None, None, [*problems, f"image {info['id']} ({path}): {without_objects(len(annotations))}"]
    return {"image": data, "image_id": int(info["id"]), **objects}, (width, height), problems
