"""Gaussians on heatmaps: pure functions on NumPy arrays."""
import math
from collections.abc import Sequence

import numpy as np

MSRA_SIGMA = 2


def gaussian_radius(height: float, width: float, min_overlap: float = 0.7) -> float:
    """The largest offset of a corner at which the box still overlaps the true one by min_overlap; pixels, float.

    The original's formula, a quadratic root divided by 2 instead of 2 a, kept because all published results were
    trained with it. The original takes the smallest of three such roots: with its divisions this one is at most a
    quarter of height + width, and the others are at least half of it.
    """
    total, area = height + width, height * width
    b = -2 * min_overlap * total
    return (b + math.sqrt(b**2 - 16 * min_overlap * (min_overlap - 1) * area)) / 2


def gaussian_kernel(radius: int, sigma: float) -> np.ndarray:
    """Unnormalized gaussian, float64 [2 radius + 1, 2 radius + 1], 1 in the center."""
    axis = np.arange(-radius, radius + 1, dtype=np.float64)
    kernel = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * sigma * sigma))
    kernel[kernel < np.finfo(np.float64).eps] = 0
    return kernel


def _overlap(shape: tuple[int, ...], x: int, y: int, radius: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The overlap of a map of a shape and a kernel of a radius around (x, y): slices of the map and of the kernel."""
    height, width = shape
    left, right = min(x, radius), min(width - x, radius + 1)
    top, bottom = min(y, radius), min(height - y, radius + 1)
    on_map = np.s_[y - top : y + bottom, x - left : x + right]
    on_kernel = np.s_[radius - top : radius + bottom, radius - left : radius + right]
    return on_map, on_kernel


def draw_gaussian(heatmap: np.ndarray, x: int, y: int, kernel: np.ndarray) -> None:
    """Raise heatmap [H, W] in place to the kernel centered on its pixel (x, y)."""
    on_map, on_kernel = _overlap(heatmap.shape, x, y, kernel.shape[0] // 2)
    np.maximum(heatmap[on_map], kernel[on_kernel], out=heatmap[on_map], casting="same_kind")


def draw_dense_value(value_map: np.ndarray, heatmap: np.ndarray, x: int, y: int, kernel: np.ndarray,
                     value: Sequence[float] | np.ndarray, is_offset: bool = False) -> None:
    """Write value [D] into value_map [D, H, W] in place where kernel >= heatmap [H, W] (original: draw_dense_reg).

    is_offset: value is the offset (x, y) from the center of the kernel to a point, and each pixel gets its own.
    """
    on_map, on_kernel = _overlap(heatmap.shape, x, y, kernel.shape[0] // 2)
    # Compares a float64 kernel with a float32 heatmap, as in the original: the result depends on it.
    wins = kernel[on_kernel] >= heatmap[on_map]
    values = np.asarray(value, np.float32)[:, None]
    if is_offset:
        rows, columns = np.nonzero(wins)
        values = values - np.stack([columns + on_map[1].start - x, rows + on_map[0].start - y])
    value_map[(slice(None), *on_map)][:, wins] = values
