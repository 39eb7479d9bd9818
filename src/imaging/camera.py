"""Pinhole cameras: projection, 3D boxes, KITTI's calibration files. Pure functions on NumPy arrays.

Camera coordinates are KITTI's: x right, y down, z forward, in meters. A calibration is a projection matrix, float64
[3, 4], from there to pixels. A 3D box has dims h, w, l, the location x, y, z of its bottom's center, and rotation_y in
radians about the y axis, 0 where the length lies along x. Source: the original's utils/ddd_utils.py.
"""
import json
from typing import Any

import numpy as np

from ..core import errors
from ..core.errors import UserError
from ..core.kinds import is_number, list_of

NEAR = 0.1  # meters: what is closer to the camera is not drawn
MAX_CALIB_BYTES = 2**20
SMALLEST_FOCAL, LARGEST = 1e-3, 1e9  # of a calibration's numbers, in pixels: float32 can represent what they project
FARTHEST = 100.0  # meters between a calibration's camera and the origin
STRAIGHT = 1e-3  # tolerance, in pixels per pixel and meters per meter, of the numbers that unproject takes for 0 and 1
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))  # of corners


def check_calib(value: Any) -> np.ndarray:
    """A calibration, float64 [3, 4], from nested lists 3x4, 12 numbers, or fx, fy, cx, cy. Raises UserError with the
    reason. Tuples and arrays are lists, too."""
    value = _as_lists(value)
    if list_of(is_number, 4)(value):
        fx, fy, cx, cy = value
        value = [[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0]]
    elif list_of(is_number, 12)(value):
        value = [value[0:4], value[4:8], value[8:12]]
    if not list_of(list_of(is_number, 4), 3)(value):
        raise UserError("expected 3 rows of 4 finite numbers, or fx, fy, cx, cy")
    calib = np.array(value, np.float64)
    focal = calib[0, 0], calib[1, 1]
    if min(focal) <= 0:
        raise UserError(f"focal lengths must be positive, not {focal[0]:g} and {focal[1]:g}")
    if min(focal) < SMALLEST_FOCAL or np.abs(calib).max() > LARGEST:
        raise UserError(f"numbers must be at most {LARGEST:g}, and focal lengths at least {SMALLEST_FOCAL:g} pixels")
    if abs(np.linalg.det(calib[:, :3])) < 1e-6 * focal[0] * focal[1]:
        raise UserError("its left 3x3 block is singular")
    if np.abs(calib[:2, 3] / focal).max() > FARTHEST or abs(calib[2, 3]) > FARTHEST:
        raise UserError(f"its fourth column moves the camera by more than {FARTHEST:g} meters")
    others = calib[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]] / [*focal, 1, 1, 1] - [0, 0, 0, 0, 1]
    if np.abs(others).max() > STRAIGHT:
        raise UserError("its left 3x3 block must be fx, 0, cx; 0, fy, cy; 0, 0, 1, without skew or rotation")
    return calib


def _as_lists(value: Any) -> Any:
    """Arrays, tuples and tuples in tuples as lists; other values are returned unchanged."""
    if isinstance(value, (list, tuple)):
        return [list(item) if isinstance(item, tuple) else item for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def read_calib(path: str) -> np.ndarray:
    """The calibration in a file: KITTI's (the row P2:), 12 numbers, fx fy cx cy, or JSON. Raises UserError."""
    errors.require_file(path, "calibration")
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        text = file.read(MAX_CALIB_BYTES).strip()
    rows = {} if text.startswith("{") else dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    with errors.prefix_errors(path):
        if rows and "P2" not in rows:
            raise UserError(f"no row P2: (it has {', '.join(name[:20] for name in list(rows)[:8])})")
        return check_calib(_numbers(rows.get("P2", text)))


def _numbers(text: str) -> Any:
    """The content of JSON, or the numbers in a text; {"calib": ...} is its value."""
    try:
        content = json.loads(text)
        return content.get("calib") if isinstance(content, dict) else content
    except (ValueError, RecursionError):
        pass
    numbers: list[float] = []
    for word in text.replace(",", " ").split():
        try:
            numbers.append(float(word))
        except ValueError:
            raise UserError(f"{word[:50]!r} is not a number") from None
    return numbers


def project(points: np.ndarray, calib: np.ndarray) -> np.ndarray:
    """Points [..., 3] in camera coordinates -> pixels [..., 2]."""
    rays = points @ calib[:, :3].T + calib[:, 3]
    return rays[..., :2] / rays[..., 2:]


def unproject(pixels: np.ndarray, depth: np.ndarray, calib: np.ndarray) -> np.ndarray:
    """Pixels [..., 2] at a depth [...] -> points [..., 3] in camera coordinates.

    As in the original, the depth is the projection's third coordinate: z plus the matrix's last number. The matrix has
    no skew: its rows are fx, 0, cx, tx; 0, fy, cy, ty; 0, 0, 1, tz.
    """
    z = depth - calib[2, 3]
    x = (pixels[..., 0] * depth - calib[0, 3] - calib[0, 2] * z) / calib[0, 0]
    y = (pixels[..., 1] * depth - calib[1, 3] - calib[1, 2] * z) / calib[1, 1]
    return np.stack([x, y, z], -1)


def wrapped(angles: Any) -> np.ndarray:
    """Angles in radians -> the same ones in [-pi, pi]."""
    angles = np.where(angles > np.pi, angles - 2 * np.pi, angles)
    return np.where(angles < -np.pi, angles + 2 * np.pi, angles)


def rotation_of(alpha: np.ndarray, x: np.ndarray, calib: np.ndarray) -> np.ndarray:
    """rotation_y [M] of observation angles alpha [M] of objects whose centers are in column x [M], in pixels."""
    return wrapped(alpha + np.arctan2(x - calib[0, 2], calib[0, 0]))


def alpha_of(rotation_y: np.ndarray, x: np.ndarray, calib: np.ndarray) -> np.ndarray:
    """The inverse of rotation_of."""
    return wrapped(rotation_y - np.arctan2(x - calib[0, 2], calib[0, 0]))


def corners(dims: np.ndarray, locations: np.ndarray, rotation_y: np.ndarray) -> np.ndarray:
    """The corners [M, 8, 3] of 3D boxes: four of the bottom, then those above them. The first two are the front.

    Args: dims [M, 3] h, w, l; locations [M, 3]; rotation_y [M].
    """
    h, w, length = (dims[:, None, axis] for axis in range(3))
    along = length / 2 * np.array([1, 1, -1, -1, 1, 1, -1, -1])
    across = w / 2 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
    up = -h * np.array([0, 0, 0, 0, 1, 1, 1, 1])
    cosine, sine = np.cos(rotation_y)[:, None], np.sin(rotation_y)[:, None]
    return np.stack([cosine * along + sine * across, up, cosine * across - sine * along], -1) + locations[:, None]


def segments(points: np.ndarray, calib: np.ndarray) -> np.ndarray:
    """The edges of a box's corners [8, 3] in the image: pixels [E, 2, 2]; the parts behind the camera are cut off."""
    found = []
    for start, end in EDGES:
        ends = np.stack([points[start], points[end]])
        depths = ends @ calib[2, :3] + calib[2, 3] - NEAR
        if depths.max() <= 0:
            continue
        behind = depths < 0
        if behind.any():
            share = depths[behind] / (depths[behind] - depths[~behind])
            ends[behind] += share[:, None] * (ends[~behind] - ends[behind])
        found.append(project(ends, calib))
    return np.array(found).reshape(-1, 2, 2)


def bounding_boxes(points: np.ndarray, calib: np.ndarray) -> np.ndarray:
    """The boxes x1, y1, x2, y2 [M, 4] around the corners [M, 8, 3] of 3D boxes in the image, in pixels; 0 for boxes
    behind the camera."""
    boxes = np.zeros((len(points), 4))
    for box, own in zip(boxes, points):
        if len(pixels := segments(own, calib).reshape(-1, 2)):
            box[:2], box[2:] = pixels.min(0), pixels.max(0)
    return boxes
