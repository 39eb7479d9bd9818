"""Geometry, color and gaussians: pure functions on NumPy arrays.

Images are BGR uint8 [H, W, 3] as OpenCV reads them. Boxes are [x1, y1, x2, y2]. Sources: the original's
utils/image.py and datasets/sample/ctdet.py.
"""
import math

import cv2
import numpy as np

from src.native.extensions import extension

# BT.601 gray from BGR, as cv2.cvtColor computes it.
GRAY_WEIGHTS = np.array([0.114, 0.587, 0.299])
COLOR_JITTER = 0.4
LIGHTING_STD = 0.1
MSRA_SIGMA = 2


def affine_matrix(center, size, rotation, out_size, inverse=False):
    """Map of a region of an image onto an output raster.

    Args: center (x, y) of the region; size its width, or (width, height), of which only the width counts (the scale
    is the same along both axes); rotation in degrees; out_size (width, height) in pixels. Returns float64 [2, 3].
    The three points are float32 and solved for by OpenCV as in the original, to get its last digits.
    """
    region_width = np.atleast_1d(np.asarray(size, np.float32))[0]
    out_w, out_h = out_size
    angle = np.pi * rotation / 180
    up = np.array([np.sin(angle), -np.cos(angle)]) * (region_width * 0.5)
    src = _three_points(np.asarray(center, np.float32), up)
    dst = _three_points(np.array([out_w * 0.5, out_h * 0.5], np.float32), np.array([0, out_w * -0.5], np.float32))
    return cv2.getAffineTransform(dst, src) if inverse else cv2.getAffineTransform(src, dst)


def warp(image, matrix, out_size):
    """Resample image [H, W, 3] uint8 by a [2, 3] matrix of affine_matrix; outside it is black. Returns [h, w, 3]."""
    if max(abs(matrix[0, 1]), abs(matrix[1, 0])) > 1e-9:
        return cv2.warpAffine(image, matrix, tuple(out_size), flags=cv2.INTER_LINEAR)
    inverse = cv2.invertAffineTransform(matrix)
    resample = extension("resample").resample
    return resample(np.ascontiguousarray(image), inverse[0, 0], inverse[0, 2], inverse[1, 1], inverse[1, 2], *out_size)


def _three_points(center, up):
    """The center, the point `up` away from it, and the one that makes a right angle there."""
    points = np.zeros((3, 2), np.float32)
    points[0] = center
    points[1] = center + up
    side = points[0] - points[1]
    points[2] = points[1] + np.array([-side[1], side[0]], np.float32)
    return points


def transform_points(points, matrix):
    """Apply a [2, 3] matrix to points [..., 2]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def transform_boxes(boxes, matrix):
    """Boxes [M, 4] -> the boxes around their four transformed corners [M, 4], float32."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    corners = transform_points(corners, matrix)
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def flip_boxes(boxes, width):
    """Boxes [M, 4] of the mirrored image; pixel x goes to width - 1 - x, as in the original."""
    flipped = boxes.copy()
    flipped[:, [0, 2]] = width - boxes[:, [2, 0]] - 1
    return flipped


def crop_border(border, size):
    """The margin, at most `border`, that a random crop center keeps from the edges of a side of `size` pixels."""
    divisor = 1
    while size - border // divisor <= border // divisor:
        divisor *= 2
    return border // divisor


def random_crop(rng, center, width, image_size, ranges):
    """The random region of one training image: (center, width).

    Args: center (x, y) and width of the region that shows the whole image; image_size (width, height); ranges (rand_crop, scale, shift):
    whether the center is drawn from all places and the scale from steps of 0.1, else from normal distributions; the largest relative
    change of scale; the standard deviation of the shift, in image sizes.
    """
    rand_crop, scale, shift = ranges
    center = np.array(center, np.float32)
    if rand_crop:
        factors = np.arange(1 - scale, 1 + scale, 0.1)
        width = width * (rng.choice(factors) if len(factors) else 1.0)  # scale 0 is no scaling
        border_x, border_y = (crop_border(128, side) for side in image_size)
        center[0] = rng.integers(border_x, image_size[0] - border_x)
        center[1] = rng.integers(border_y, image_size[1] - border_y)
    else:
        center += width * np.clip(rng.standard_normal(2) * shift, -2 * shift, 2 * shift)
        width = width * np.clip(rng.standard_normal() * scale + 1, 1 - scale, 1 + scale)
    return center, width


def random_rotation(rng, probability, limit):
    """A random angle in degrees, at most `limit`, with a probability; else 0."""
    if rng.random() < probability:
        return float(np.clip(rng.standard_normal() * limit / 2, -limit, limit))
    return 0.0


def random_color(rng):
    """The random color change of one image: the three steps in their order with their factors, and three lighting draws."""
    steps = [("brightness", "contrast", "saturation")[i] for i in rng.permutation(3)]
    factors = 1.0 + rng.uniform(-COLOR_JITTER, COLOR_JITTER, 3)
    return list(zip(steps, factors)), rng.normal(scale=LIGHTING_STD, size=3)


def color_matrix(steps, lighting, mean_gray, eig_val, eig_vec):
    """Color augmentation as one affine map of the color vector: float64 [3, 4] on values in [0, 1].

    Contrast blends with the image's mean gray, saturation with the pixel's own gray, both of the image before any
    step, as in the original. Args: steps [(name, factor)] in order; lighting three draws, multiplied with eig_val
    and projected by eig_vec; mean_gray of the image.
    """
    matrix = np.hstack([np.eye(3), np.zeros((3, 1))])
    for name, factor in steps:
        matrix *= factor
        if name == "contrast":
            matrix[:, 3] += (1 - factor) * mean_gray
        elif name == "saturation":
            matrix[:, :3] += (1 - factor) * GRAY_WEIGHTS
    matrix[:, 3] += np.asarray(eig_vec) @ (np.asarray(eig_val) * lighting)
    return matrix


def normalizing_matrix(matrix, mean, std):
    """A [3, 4] color map on [0, 1] -> the map from uint8 values to normalized ones."""
    matrix = np.array(matrix, np.float64)
    matrix[:, :3] /= 255
    matrix[:, 3] -= mean
    return matrix / np.asarray(std, np.float64)[:, None]


def apply_color(image, matrix):
    """uint8 [H, W, 3] through a [3, 4] color map -> float32 [3, H, W]."""
    out = cv2.transform(image.astype(np.float32), matrix)
    return np.ascontiguousarray(out.transpose(2, 0, 1))


def mean_gray(image):
    """Mean gray of a uint8 image, in [0, 1]."""
    return float(GRAY_WEIGHTS @ np.array(cv2.mean(image)[:3])) / 255


def gaussian_radius(height, width, min_overlap=0.7):
    """How far a corner may be off while the box still overlaps the true one by min_overlap; pixels, float.

    The original's formula, a quadratic root that it divides by 2 instead of 2 a. It is kept, since every published number was
    trained with it. The original takes the least of three such roots: with its divisions this one is at most a quarter of
    height + width, and the others are at least a half.
    """
    total, area = height + width, height * width
    b = -2 * min_overlap * total
    return (b + math.sqrt(b**2 - 16 * min_overlap * (min_overlap - 1) * area)) / 2


def gaussian_kernel(radius, sigma):
    """Unnormalized gaussian, float64 [2 radius + 1, 2 radius + 1], 1 in the middle."""
    axis = np.arange(-radius, radius + 1, dtype=np.float64)
    kernel = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * sigma * sigma))
    kernel[kernel < np.finfo(np.float64).eps] = 0
    return kernel


def _overlap(shape, x, y, radius):
    """Where a kernel of that radius around (x, y) meets a map of that shape: slices of the map and of the kernel."""
    height, width = shape
    left, right = min(x, radius), min(width - x, radius + 1)
    top, bottom = min(y, radius), min(height - y, radius + 1)
    on_map = np.s_[y - top : y + bottom, x - left : x + right]
    on_kernel = np.s_[radius - top : radius + bottom, radius - left : radius + right]
    return on_map, on_kernel


def draw_gaussian(heatmap, x, y, kernel):
    """Raise heatmap [H, W] in place to the kernel centered on the pixel (x, y) inside it."""
    on_map, on_kernel = _overlap(heatmap.shape, x, y, kernel.shape[0] // 2)
    np.maximum(heatmap[on_map], kernel[on_kernel], out=heatmap[on_map], casting="same_kind")


def draw_dense_value(value_map, heatmap, x, y, kernel, value):
    """Write value [D] into value_map [D, H, W] in place where the kernel is at least heatmap [H, W] (draw_dense_reg)."""
    on_map, on_kernel = _overlap(heatmap.shape, x, y, kernel.shape[0] // 2)
    # float64 kernel against float32 heatmap, as in the original: which pixels pass depends on it.
    wins = kernel[on_kernel] >= heatmap[on_map]
    value_map[(slice(None), *on_map)][:, wins] = np.asarray(value, np.float32)[:, None]
