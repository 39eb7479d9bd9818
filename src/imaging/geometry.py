"""Geometry: pure functions on NumPy arrays."""
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ..native.extensions import extension


def affine_matrix(center: Sequence[float] | np.ndarray, size: Any, rotation: float, out_size: Sequence[int],
                  inverse: bool = False) -> np.ndarray:
    """Map of a region of an image to an output raster.

    Args: center (x, y) of the region; size its width, or (width, height), of which only the width is used (both axes
    have the same scale); rotation in degrees; out_size (width, height) in pixels. Returns float64 [2, 3], with
    inverse=True the map back. The three points are float32 and solved by OpenCV as in the original, to match its last
    digits.
    """
    region_width = np.atleast_1d(np.asarray(size, np.float32))[0]
    out_w, out_h = out_size
    angle = np.pi * rotation / 180
    up = np.array([np.sin(angle), -np.cos(angle)]) * (region_width * 0.5)
    src = _three_points(np.asarray(center, np.float32), up)
    dst = _three_points(np.array([out_w * 0.5, out_h * 0.5], np.float32), np.array([0, out_w * -0.5], np.float32))
    return cv2.getAffineTransform(dst, src) if inverse else cv2.getAffineTransform(src, dst)


def warp(image: np.ndarray, matrix: np.ndarray, out_size: Sequence[int]) -> np.ndarray:
    """Resample image [H, W, 3] uint8 by affine_matrix's [2, 3]; black outside the image. Returns [h, w, 3]."""
    inverse, image = cv2.invertAffineTransform(matrix), np.ascontiguousarray(image)
    if max(abs(matrix[0, 1]), abs(matrix[1, 0])) > 1e-9:
        return extension("resample").resample_rotated(image, inverse.astype(np.float32), *out_size)
    resample = extension("resample").resample
    scale_x, shift_x, scale_y, shift_y = inverse[0, 0], inverse[0, 2], inverse[1, 1], inverse[1, 2]
    return resample(image, scale_x, shift_x, scale_y, shift_y, *out_size)


def _three_points(center: np.ndarray, up: np.ndarray) -> np.ndarray:
    """The center, the center plus `up`, and the point that completes a right angle there: float32 [3, 2]."""
    points = np.zeros((3, 2), np.float32)
    points[0] = center
    points[1] = center + up
    side = points[0] - points[1]
    points[2] = points[1] + np.array([-side[1], side[0]], np.float32)
    return points


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply a [2, 3] matrix to points [..., 2]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Boxes [M, 4] -> the bounding boxes of their transformed corners [M, 4], float32."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    corners = transform_points(corners, matrix)
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def flip_boxes(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes [M, 4] in the mirrored image; pixel x maps to width - 1 - x, as in the original."""
    flipped = boxes.copy()
    flipped[:, [0, 2]] = width - boxes[:, [2, 0]] - 1
    return flipped


def crop_border(border: int, size: int) -> int:
    """The margin, at most `border`, between a random crop center and the ends of a side of `size` pixels."""
    divisor = 1
    while size - border // divisor <= border // divisor:
        divisor *= 2
    return border // divisor


def random_crop(rng: np.random.Generator, center: Sequence[float] | np.ndarray, width: float,
                image_size: tuple[int, int], ranges: tuple[bool, float, float]) -> tuple[np.ndarray, float]:
    """Draw the region of a training image: (center, width).

    Args: center (x, y) and width of the region that shows the full image; image_size (width, height); ranges
    (rand_crop, scale, shift): whether to draw the center uniformly and the scale in steps of 0.1, instead of from
    normal distributions; the largest relative change of scale; the standard deviation of the shift, relative to the
    width.
    """
    rand_crop, scale, shift = ranges
    center = np.array(center, np.float32)
    if rand_crop:
        factors = np.arange(1 - scale, 1 + scale, 0.1)
        width = width * (rng.choice(factors) if len(factors) else 1.0)  # scale 0: no scaling
        border_x, border_y = (crop_border(128, side) for side in image_size)
        center[0] = rng.integers(border_x, image_size[0] - border_x)
        center[1] = rng.integers(border_y, image_size[1] - border_y)
    else:
        center += width * np.clip(rng.standard_normal(2) * shift, -2 * shift, 2 * shift)
        width = width * np.clip(rng.standard_normal() * scale + 1, 1 - scale, 1 + scale)
    return center, width


def random_rotation(rng: np.random.Generator, probability: float, limit: float) -> float:
    """With the given probability a random angle in degrees, at most `limit`; else 0."""
    if rng.random() < probability:
        return float(np.clip(rng.standard_normal() * limit / 2, -limit, limit))
    return 0.0
