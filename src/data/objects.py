"""The definition of an object, shared by conversion, training, evaluation, checks and imports; objects as arrays.

An object is a box of four finite numbers and a known class, with a positive area inside its image. A second box with
the same class, numbers and keypoints, if any, in one image is a duplicate. Crowds are separate: they are trained on, as
in the paper's code, and in scoring they are regions where detections count as neither right nor wrong.
"""
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tasks import Task

if TYPE_CHECKING:
    from pycocotools.coco import COCO

MAX_SIDE = 1e9  # pixels; float32 can represent boxes up to this size
ANY_SIZE = (math.inf, math.inf)  # of an image of unknown size


def is_box(value: object) -> bool:
    """Whether a value is a list of four numbers in the range of a box."""
    return isinstance(value, list) and len(value) == 4 and all(
        type(number) in (int, float) and -MAX_SIDE <= number <= MAX_SIDE for number in value)


def object_problem(item: object, kind: tuple, box: Sequence[float], size: tuple[float, float], seen: dict,
                   name: Callable[[Any], str] = str) -> str:
    """The reason why an annotation is not an object of an image of that size (width, height), "" if it is one.

    Args: item, any handle of the annotation; kind (class, is crowd); box x, y, w, h; seen {(kind, *box): item} of the
    image's objects so far, to which this one is added; name(item), its name in messages.
    """
    x, y, w, h = box
    if not (math.isfinite(x + y + w + h) and w > 0 and h > 0):
        return f"box without area {list(box)}"
    width, height = size
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return f"box {list(box)} outside the {width}x{height} image"
    key = (kind, x, y, w, h)
    if key in seen:
        return f"the same box and class as {name(seen[key])}"
    seen[key] = item
    return ""


def annotation_name(annotation: dict) -> str:
    """The name of a COCO annotation in messages, with its id in the file."""
    return f"annotation {annotation.get('source_id', annotation.get('id'))} of image {annotation.get('image_id')}"


def annotation_problem(annotation: dict, size: tuple[float, float], seen: dict) -> str:
    """object_problem for a COCO annotation."""
    kind = (annotation["category_id"], bool(annotation.get("iscrowd")), repr(annotation.get("keypoints") or ""))
    return object_problem(annotation, kind, annotation["bbox"], size, seen, annotation_name)


def usable_objects(annotations: Iterable[dict], size: tuple[float, float], task: Task, metainfo: dict,
                   category_ids: Sequence[int] | None = None) -> tuple[dict[str, np.ndarray], list[str]]:
    """The objects of one image as arrays.

    Args: annotations of the image, from read_coco; the image's size (width, height) in pixels; a Task and the data
    set's metainfo; category_ids in label order, if they differ from metainfo's.
    Returns {boxes [M, 4] float32 x1, y1, x2, y2 (not clipped), labels [M] int32 and the task's object_columns, float32
    [M, n]}, and a message for each annotation that is not an object.
    """
    labels_of_ids = {category_id: label for label, category_id in enumerate(category_ids or metainfo["category_ids"])}
    columns = task.targets.object_columns(metainfo)
    seen: dict = {}
    boxes, labels, skipped = [], [], []
    added: dict[str, list] = {name: [] for name in columns}
    for annotation in annotations:
        if problem := annotation_problem(annotation, size, seen):
            skipped.append(f"{annotation_name(annotation)}: {problem}")
            continue
        x, y, w, h = map(float, annotation["bbox"])
        boxes.append([x, y, x + w, y + h])
        labels.append(labels_of_ids[annotation["category_id"]])
        for name, values in task.targets.read_object(annotation, metainfo).items():
            added[name].append(values)
    objects = {"boxes": np.array(boxes, np.float32).reshape(-1, 4), "labels": np.array(labels, np.int32)}
    objects |= {name: np.array(added[name], np.float32).reshape(-1, count) for name, count in columns.items()}
    return objects, skipped


def counted_boxes(task: Task, objects: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(boxes, labels) of an image's objects without the Task's regions to ignore."""
    counts = task.targets.counted(objects)
    return objects["boxes"][counts], objects["labels"][counts]


def without_objects(count: int) -> str:
    """The reason for skipping an image with `count` annotations but no objects: as a negative it would mislead."""
    return f"none of its {count} annotations can be used, so it cannot count as an image without objects"


def ground_truth(task: Task, coco: "COCO", image_id: int, category_ids: Sequence[int], metainfo: dict) -> np.ndarray:
    """The objects of an image as the Task's rows [M, D] with score 1; category_ids in label order."""
    objects, _ = usable_objects(coco.imgToAnns[image_id], ANY_SIZE, task, metainfo, category_ids)
    return task.results.rows_from_objects(objects)


def turned_box(box: Sequence[float], degrees: float) -> list[float]:
    """The upright bounding box x, y, w, h of a box rotated about its center."""
    x, y, w, h = box
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    width, height = w * cosine + h * sine, w * sine + h * cosine
    # Rounded: the cosine of 90 degrees is not quite 0.
    return [round(value, 6) for value in (x + (w - width) / 2, y + (h - height) / 2, width, height)]
