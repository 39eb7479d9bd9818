"""Gaussians on heatmaps: pure functions on NumPy arrays."""
import math

import numpy as np

MSRA_SIGMA = 2


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
