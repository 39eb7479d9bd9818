"""KITTI's object benchmark: its text files, and average precision of image boxes, orientation, ground and 3D boxes.

The rules are those of evaluate_object in KITTI's development kit (Geiger et al., CVPR 2012) with 41 recalls.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ...core.errors import UserError

METRICS = ("box", "orientation", "bev", "3d")
LEVELS = ("easy", "moderate", "hard")
MIN_HEIGHT = np.array([[40], [25], [25]])  # pixels, of objects and detections; [levels, 1] like the next two
MAX_OCCLUSION = np.array([[0], [1], [2]])
MAX_TRUNCATION = np.array([[0.15], [0.3], [0.5]])
NEIGHBORS = {"car": "van", "pedestrian": "person_sitting"}  # neither right nor wrong if detected
RECALLS = 41
POSITIONS = {11: slice(0, None, 4), 40: slice(1, None)}  # of the recalls 0, 1/40, ..., 1
INVALID_ALPHA = -10  # of detections without an orientation
LINE = "{} {:.2f} {:.0f}" + 12 * " {:.2f}" + " {:.4f}\n"
PAIRS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Frame:
    """The objects or the detections of one image: lists and arrays of the same length M, in the order of the file."""

    names: list[str]  # KITTI's types
    truncated: np.ndarray  # [M] share outside the image; -1 unknown, as in detections
    occluded: np.ndarray  # [M] 0 visible, 1 partly, 2 largely occluded, 3 unknown; -1 in detections
    alpha: np.ndarray  # [M] angle of observation, radians
    boxes: np.ndarray  # [M, 4] x1, y1, x2, y2, pixels
    dims: np.ndarray  # [M, 3] height, width, length, meters
    locations: np.ndarray  # [M, 3] center of the bottom: x right, y down, z forward from the camera, meters
    rotation_y: np.ndarray  # [M] around the camera's y axis, radians
    scores: np.ndarray  # [M] 1 for objects


# ---------------------------------------------------------------- text


def parse(text: str) -> Frame:
    """The Frame of a KITTI file with 15 columns (labels) or 16 (detections); raises UserError naming a wrong line."""
    names, rows = [], []
    for number, line in enumerate(text.splitlines(), 1):
        columns = line.split()
        if not columns:
            continue
        if len(columns) not in (15, 16):
            raise UserError(f"line {number} has {len(columns)} columns; KITTI's labels have 15, detections 16")
        try:
            values = [float(column) for column in columns[1:]]
            if not all(map(math.isfinite, values)):
                raise ValueError("infinite, or nan")
        except ValueError as error:
            raise UserError(f"line {number} has a column that is not a number ({error}): {line.strip()}") from None
        names.append(columns[0])
        rows.append(values if len(values) == 15 else [*values, 1.0])
    return _frame(names, np.array(rows, float).reshape(-1, 15))


def format_frame(frame: Frame) -> str:
    """A Frame as the 16 columns of KITTI's result files, two decimals, of scores four; spaces in names become _."""
    return "".join(LINE.format("_".join(name.split()), *row) for name, row in zip(frame.names, _table(frame)))


def _frame(names: Sequence[str], table: np.ndarray) -> Frame:
    """The Frame of the columns [M, 15] after the name in KITTI's files."""
    return Frame(list(names), table[:, 0], table[:, 1], table[:, 2], table[:, 3:7], table[:, 7:10], table[:, 10:13],
                 table[:, 13], table[:, 14])


def _table(frame: Frame) -> np.ndarray:
    """The inverse of _frame."""
    return np.column_stack([frame.truncated, frame.occluded, frame.alpha, frame.boxes, frame.dims, frame.locations,
                            frame.rotation_y, frame.scores])


# ---------------------------------------------------------------- overlaps


def boxes_3d(frame: Frame) -> np.ndarray:
    """[M, 7] of a Frame: height, width, length, x, y, z, rotation_y, as the overlaps of 3D boxes take them."""
    return np.column_stack([frame.dims, frame.locations, frame.rotation_y])


def box_overlaps(a: np.ndarray, b: np.ndarray, of_a: bool = False) -> np.ndarray:
    """IoU [...] of image boxes [..., 4] x1, y1, x2, y2 that broadcast, or the share of a's area inside b.

    Boxes without area have an overlap of 0, here and in the other two.
    """
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    shared = sides[..., 0] * sides[..., 1]
    area_a, area_b = ((box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1]) for box in (a, b))
    return _ratio(shared, area_a if of_a else area_a + area_b - shared)


def bev_overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU [...] of the bottoms of 3D boxes [..., 7] (boxes_3d) that broadcast: turned rectangles in the x, z plane."""
    shared = _shared_ground(a, b)
    return _ratio(shared, a[..., 1] * a[..., 2] + b[..., 1] * b[..., 2] - shared)


def overlaps_3d(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU [...] of 3D boxes [..., 7] (boxes_3d) that broadcast."""
    top, bottom = np.maximum(a[..., 4] - a[..., 0], b[..., 4] - b[..., 0]), np.minimum(a[..., 4], b[..., 4])
    shared = _shared_ground(a, b) * np.maximum(bottom - top, 0)
    return _ratio(shared, a[..., :3].prod(-1) + b[..., :3].prod(-1) - shared)


def _ratio(shared: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """shared / whole, 0 where nothing is shared."""
    return np.divide(shared, whole, out=np.zeros(np.broadcast(shared, whole).shape), where=shared > 0)


def _shared_ground(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area [...] that the bottoms of 3D boxes share, square meters."""
    a, b = np.broadcast_arrays(a, b)
    distance = np.hypot(a[..., 3] - b[..., 3], a[..., 5] - b[..., 5])
    radii = (np.hypot(a[..., 1], a[..., 2]) + np.hypot(b[..., 1], b[..., 2])) / 2
    near = (distance < radii) & (a[..., 1:3] > 0).all(-1) & (b[..., 1:3] > 0).all(-1)
    area = np.zeros(near.shape)
    area[near] = _clipped_area(a[near], b[near])
    return area


def _clipped_area(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area [P] that the bottoms of pairs of 3D boxes [P, 7] share.

    In the frame of b, the area of a inside b is the integral of z dx around a's four edges, with x and z limited to b.
    """
    half_width, half_length = b[:, 1:2] / 2, b[:, 2:3] / 2
    x, z = _turn(a[:, 3:4] - b[:, 3:4], a[:, 5:6] - b[:, 5:6], -b[:, 6:])
    corner_x, corner_z = _turn(a[:, 2:3] / 2 * [1, 1, -1, -1], a[:, 1:2] / 2 * [1, -1, -1, 1], a[:, 6:] - b[:, 6:])
    x, z = x + corner_x, z + corner_z
    next_x, next_z = np.roll(x, -1, 1), np.roll(z, -1, 1)
    start, end = np.clip(x, -half_length, half_length), np.clip(next_x, -half_length, half_length)
    slope = np.divide(next_z - z, next_x - x, out=np.zeros_like(x), where=next_x != x)
    z, next_z = z + (start - x) * slope, z + (end - x) * slope
    low, high = np.minimum(z, next_z), np.maximum(z, next_z)
    rise = np.maximum(high - low, 1e-200)  # not 0, so that level edges are entirely below, between or above
    below = np.clip((-half_width - low) / rise, 0, 1)
    above = np.clip((high - half_width) / rise, 0, 1)
    between = (np.clip(low, -half_width, half_width) + np.clip(high, -half_width, half_width)) / 2
    mean = (above - below) * half_width + (1 - above - below) * between
    return np.abs(((end - start) * mean).sum(1))


def _turn(x: np.ndarray, z: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and z of points turned around the y axis, in the direction of rotation_y."""
    return np.cos(angle) * x + np.sin(angle) * z, np.cos(angle) * z - np.sin(angle) * x


# ---------------------------------------------------------------- average precision


def ap(precision: np.ndarray, positions: int) -> np.ndarray:
    """Average precision [...], in [0, 1], of precision [..., 41] at 11 recalls (KITTI until 2019) or 40 (since)."""
    return precision[..., POSITIONS[positions]].mean(-1)


def average_precision(labels: Sequence[Frame], detections: Sequence[Frame], name: str,
                      min_overlap: float) -> dict[str, np.ndarray]:
    """{metric: precision [3 levels, 41 recalls]} of one class; labels and detections of the same images in one order.

    Orientation: precision in which a right detection counts (1 + cos(difference of alpha)) / 2. nan: a level without
    objects; orientation, if a detection's alpha is -10, KITTI's mark for unknown. Ignored, neither right nor wrong, are
    matches of the neighboring class and of objects that are too small, occluded or truncated for the level, detections
    that are too small, and image boxes in DontCare regions.
    """
    if len(labels) != len(detections):
        raise ValueError(f"{len(labels)} images with labels, {len(detections)} with detections")
    name = name.lower()
    kinds, table, images = _join(labels)
    wanted = (kinds == name) | (kinds == NEIGHBORS.get(name, name))
    objects, object_images = _frame(kinds[wanted], table[wanted]), images[wanted]
    counted = ((kinds[wanted] == name) & (objects.boxes[:, 3] - objects.boxes[:, 1] >= MIN_HEIGHT)
               & (objects.occluded <= MAX_OCCLUSION) & (objects.truncated <= MAX_TRUNCATION))
    regions, region_images = table[kinds == "dontcare", 3:7], images[kinds == "dontcare"]

    kinds, table, images = _join(detections)
    oriented = not (table[:, 2] == INVALID_ALPHA).any()
    small = np.abs(table[:, 6] - table[:, 4]) < MIN_HEIGHT
    wanted = (kinds == name) | small.any(0)  # KITTI assigns small detections of all classes
    found, found_images, small = _frame(kinds[wanted], table[wanted]), images[wanted], small[:, wanted]
    valid = (kinds[wanted] == name) & ~small
    excused = np.zeros(len(found.names), bool)
    excused[_candidates(lambda region, box: box_overlaps(box, region, of_a=True), (regions, region_images),
                        (found.boxes, found_images), min_overlap)[1]] = True

    result = {metric: np.full((len(LEVELS), RECALLS), np.nan) for metric in METRICS}
    order = np.arange(len(object_images)) - np.searchsorted(object_images, object_images)
    for metric, overlaps, of_frame in (("box", box_overlaps, lambda frame: frame.boxes),
                                       ("bev", bev_overlaps, boxes_3d), ("3d", overlaps_3d, boxes_3d)):
        candidates = _candidates(overlaps, (of_frame(objects), object_images), (of_frame(found), found_images),
                                 min_overlap)
        for level in np.flatnonzero(counted.any(1)):
            wrong = valid[level] & ~excused if metric == "box" else valid[level]
            result[metric][level], orientation = _curves(objects, found, candidates, order, counted[level],
                                                         (valid[level], small[level], wrong))
            if metric == "box" and oriented:
                result["orientation"][level] = orientation
    return result


def _join(frames: Sequence[Frame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Names in lower case [M], columns [M, 15] of _table, images [M]) of the rows of many images."""
    names = np.array([name.lower() for frame in frames for name in frame.names], object)
    images = np.repeat(np.arange(len(frames)), [len(frame.names) for frame in frames])
    return names, np.concatenate([np.zeros((0, 15)), *map(_table, frames)]), images


def _candidates(overlaps: Callable[[np.ndarray, np.ndarray], np.ndarray], a: tuple[np.ndarray, np.ndarray],
                b: tuple[np.ndarray, np.ndarray], min_overlap: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row of a, row of b, overlap) of the pairs in one image with a larger overlap; a, b: (boxes, image of each)."""
    starts = np.searchsorted(b[1], a[1], "left")
    counts = np.searchsorted(b[1], a[1], "right") - starts
    parts = []
    for rows in np.array_split(np.arange(len(counts)), counts.sum() // PAIRS_AT_ONCE + 1):
        skipped = np.cumsum(counts[rows]) - counts[rows]
        of_a = np.repeat(rows, counts[rows])
        of_b = np.arange(len(of_a)) + np.repeat(starts[rows] - skipped, counts[rows])
        values = overlaps(a[0][of_a], b[0][of_b])
        keep = values > min_overlap
        parts.append((of_a[keep], of_b[keep], values[keep]))
    of_a, of_b, values = (np.concatenate(part) for part in zip(*parts))
    return of_a, of_b, values


def _curves(objects: Frame, found: Frame, candidates: tuple[np.ndarray, np.ndarray, np.ndarray], order: np.ndarray,
            counted: np.ndarray, judgment: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(precision [41], orientation [41]) of one level with objects.

    counted [M]: objects to be found. judgment, of detections, three masks [D]: valid can be right; small can be
    assigned, but are then ignored; wrong are so if not assigned. order [M]: an object's number in its image.
    """
    valid, small, wrong = judgment
    if not len(valid):
        return np.zeros(RECALLS), np.zeros(RECALLS)
    rows, columns, overlaps = candidates
    first = _assign(rows, columns, found.scores[columns], order, (valid | small)[None])[0]
    limits = thresholds(found.scores[first[counted & (first >= 0) & ~small[first]]], int(counted.sum()))
    free = (valid | small) & (found.scores >= limits[:, None])
    assigned = _assign(rows, columns, np.where(small[columns], 0, overlaps), order, free)
    hits = counted & (assigned >= 0) & ~small[assigned]
    similarity = hits * (1 + np.cos(objects.alpha - found.alpha[assigned])) / 2
    judged = np.maximum(hits.sum(1) + (free & wrong).sum(1), 1)
    return _envelope(hits.sum(1) / judged), _envelope(similarity.sum(1) / judged)


def _assign(rows: np.ndarray, columns: np.ndarray, preference: np.ndarray, order: np.ndarray,
            free: np.ndarray) -> np.ndarray:
    """The detection of each object, int [T, M], -1 if none, for T sets of detections: free [T, D].

    The objects of an image choose in their order among the candidates (object, detection, preference), each [P]: the
    free detection that is preferred most, or the first of these. Afterwards, free is False for those assigned.
    """
    assigned = np.full((len(free), len(order)), -1)
    ranked = np.lexsort((-preference, rows, order[rows]))
    for turn in np.split(ranked, np.flatnonzero(np.diff(order[rows[ranked]])) + 1):  # one object of each image
        if not len(turn):
            continue
        starts = np.flatnonzero(np.diff(rows[turn], prepend=-1))
        places = np.where(free[:, columns[turn]], np.arange(len(turn)), len(turn))
        best = np.minimum.reduceat(places, starts, axis=1)
        sets, which = np.nonzero(best < len(turn))
        taken = columns[turn[best[sets, which]]]
        free[sets, taken] = False
        assigned[sets, rows[turn[starts]][which]] = taken
    return assigned


def thresholds(scores: np.ndarray, count: int) -> np.ndarray:
    """Those scores of found objects, at most 41, that are nearest to recalls 0, 1/40, ..., 1 of count objects."""
    recall, limits = 0.0, []
    for number, score in enumerate(np.sort(scores)[::-1].tolist(), 1):
        if number == len(scores) or (number + 1) / count - recall >= recall - number / count:
            limits.append(score)
            recall += 1 / (RECALLS - 1)
    return np.array(limits)


def _envelope(values: np.ndarray) -> np.ndarray:
    """Values at up to 41 recalls, and 0 at the others, as the maximum at that recall or a higher one, [41]."""
    padded = np.concatenate([values, np.zeros(RECALLS - len(values))])
    return np.maximum.accumulate(padded[::-1])[::-1]
