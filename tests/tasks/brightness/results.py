"""Rows with light [channels] after box, score and label."""
import numpy as np

from src.tasks import rows as row
from src.tasks.detection import results
from src.tasks.detection.results import (
    RECORD,
    attributes,
    camera_note,
    camera_of,
    category_fields,
    computed,
    draw,
    label_values,
    lines,
    merge,
    placed,
    scaled,
    to_image,
    write_files,
)

__all__ = ["RECORD", "attributes", "camera_note", "camera_of", "category_fields", "computed", "draw", "label_values",
           "lines", "merge", "placed", "scaled", "to_image", "write_files"]


def columns(metainfo):
    return {**row.COLUMNS, "light": len(metainfo["channels"])}


output_columns = columns


def coco_records(image_id, rows, category_ids, round_scores=False):
    records = results.coco_records(image_id, rows[:, :6], category_ids, round_scores)
    return [{**record, "light": list(map(float, light))} for record, light in zip(records, rows[:, 6:])]


def rows_from_records(records, image, category_ids):
    light = [record["light"] for record in records if record["image_id"] == image["id"]]
    rows = results.rows_from_records(records, image, category_ids)
    return np.hstack([rows, np.array(light, np.float32).reshape(len(rows), -1)])


def rows_from_objects(objects):
    return np.hstack([results.rows_from_objects(objects), objects["light"]])


def table_columns(metainfo):
    return [*results.table_columns(metainfo), *metainfo["channels"]]


def table_cells(rows):
    return [[*cells, *(f"{value:.3f}" for value in light)]
            for cells, light in zip(results.table_cells(rows[:, :6]), rows[:, 6:])]
