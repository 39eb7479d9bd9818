"""Keypoints of labels: their place in the image, the boxes around them, and the names that a class gives them.

A class's keypoints are the fields of its COCO category: keypoints (names), skeleton (pairs from 1), and flip_idx (pairs
from 0 that change places in a mirror image), of which the last two are optional.
"""
from collections.abc import Sequence
from typing import Any

from ...core.kinds import is_number, list_of
from ...tasks.pose import POSE
from ..objects import ANY_SIZE, is_box

TOLERANCE = 0.01  # fraction of the image by which a coordinate may lie outside
MARGIN, LEAST_MARGIN = 0.25, 12  # fraction of the longer side, and pixels
BOXED = ("objects have keypoints but no box: their box is the bounds of the keypoints, widened on each side by a "
         "quarter of the longer side, at least by 12 pixels")
OUTSIDE = "keypoints are outside their image, and count as absent"
FIELDS = ("keypoints", "skeleton", "flip_idx")
NO_BOX = "no_box"  # marks an annotation with a provisional box


def bounding_box(keypoints: Any, size: tuple[float, float]) -> list[float]:
    """The box x, y, w, h of an object without a box, from its keypoints [x, y, visibility, ...], in pixels.

    The bounds of the labeled keypoints, widened on each side by MARGIN of their longer side, at least by LEAST_MARGIN,
    and clipped to the image's size (width, height). [] if no keypoint is labeled, or for invalid keypoints.
    """
    if not list_of(is_number)(keypoints) or len(keypoints) % 3:
        return []
    labeled = [(x, y) for x, y, seen in _triples(keypoints) if seen > 0]
    if not labeled:
        return []
    left, top, right, bottom = (bound(point[axis] for point in labeled) for bound in (min, max) for axis in (0, 1))
    margin = max(MARGIN * max(right - left, bottom - top), LEAST_MARGIN)
    left, top = max(0.0, left - margin), max(0.0, top - margin)
    return [left, top, min(size[0], right + margin) - left, min(size[1], bottom + margin) - top]


def place_keypoints(keypoints: Sequence[float], size: tuple[float, float]) -> tuple[list[float], int]:
    """(keypoints [x, y, visibility, ...] inside the image, number of those that are not).

    Coordinates up to TOLERANCE outside are clipped to the image's size (width, height); keypoints farther outside and
    absent ones are 0, 0, 0.
    """
    placed: list[float] = []
    outside = 0
    for x, y, seen in _triples(keypoints):
        inside = all(-TOLERANCE * side <= value <= (1 + TOLERANCE) * side for value, side in zip((x, y), size))
        outside += seen > 0 and not inside
        placed += [min(max(x, 0), size[0]), min(max(y, 0), size[1]), int(seen)] if seen > 0 and inside else [0, 0, 0]
    return placed, outside


def _triples(keypoints: Sequence[float]) -> zip:
    return zip(keypoints[::3], keypoints[1::3], keypoints[2::3])


def add_boxes(content: Any) -> None:
    """Give annotations of a COCO file's content that have keypoints, but no box with an area, a provisional box.

    Such an annotation is marked NO_BOX. Invalid content is left unchanged.
    """
    annotations = content.get("annotations") if isinstance(content, dict) else None
    for entry in annotations if isinstance(annotations, list) else []:
        if isinstance(entry, dict) and _lacks_box(entry.get("bbox")):
            if found := bounding_box(entry.get("keypoints"), ANY_SIZE):
                entry.update(bbox=found, area=found[2] * found[3], **{NO_BOX: True})


def _lacks_box(box: Any) -> bool:
    """Whether a bbox is missing, or is a box without area as some tools write for keypoints."""
    return not box or is_box(box) and min(box[2:]) <= 0


def category_fields(categories: list[dict]) -> dict[int, tuple[dict, dict]]:
    """{category id: (FIELDS of a category, its metainfo for check_annotation)} of the categories with keypoints.

    Raises UserError for invalid fields.
    """
    return {entry["id"]: ({field: entry[field] for field in FIELDS if entry.get(field)},
                          {**POSE.targets.read_metainfo([entry]), "category_ids": [entry["id"]]})
            for entry in categories if entry.get("keypoints")}
