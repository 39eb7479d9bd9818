"""The evaluation input of an image, and its position in the image. On the host, in NumPy; tasks/ maps detections back.

Source: the original's detectors/base_detector.py.
"""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from .color import apply_color, normalizing_matrix
from .geometry import affine_matrix, warp

STRIDE = 32  # of most networks: sides of inputs are multiples of it


@dataclass
class View:
    """Position of an evaluation input in its image: center and width of the region, (height, width) of the output;
    camera, the image's calibration [3, 4], if it is needed, and depth_factor, which multiplies depths; size, the
    image's (width, height), if it is known."""

    center: np.ndarray
    width: float
    out_hw: tuple
    scale: float
    camera: np.ndarray | None = None
    depth_factor: float = 1.0
    size: tuple[int, int] | None = None


def whole_view(width: int, height: int, input_size: tuple[int, int],
               sees_all: bool = True) -> tuple[np.ndarray, float]:
    """Center and width of the region that shows a full image in an input of input_size (width, height).

    The original's longest side, generalized to inputs that are not square; its full width, as in the original's 3D
    boxes, if sees_all is false.
    """
    region_width = max(width, height * input_size[0] / input_size[1]) if sees_all else width
    return np.array([width / 2, height / 2], np.float32), float(region_width)


def scaled_size(width: int, height: int, scale: float) -> tuple[int, int]:
    """Width and height of a scaled image."""
    return max(1, int(width * scale)), max(1, int(height * scale))


def padded_size(width: int, height: int, pad_multiple: int, stride: int = STRIDE) -> tuple[int, int]:
    """Width and height of the input of an image that keeps its size.

    The next larger multiple of the network's stride, rounded up to a multiple of pad_multiple and stride.
    """
    both = math.lcm(pad_multiple, stride)
    width, height = (-(-(side // stride + 1) * stride // both) * both for side in (width, height))
    return width, height


def output_size(input_size: tuple[int, int], down_ratio: int) -> tuple[int, int]:
    """Convert an input's size to output pixels; (width, height) or (height, width), in the order given."""
    first, second = input_size
    return first // down_ratio, second // down_ratio


@dataclass(frozen=True)
class Fit:
    """How an image is fitted into an evaluation input.

    With keep_res the scaled image is padded to multiples of the network's stride, then at the right and the bottom to
    multiples of pad_multiple, so that it keeps its position on the stride grid; otherwise it is fitted into input_res
    (width, height), see whole_view and its sees_all.
    """

    keep_res: bool
    input_res: Sequence[int] | None = None
    pad_multiple: int = STRIDE
    stride: int = STRIDE
    sees_all: bool = True


def make_input(image: np.ndarray, scale: float, fit: Fit, down_ratio: int) -> tuple[np.ndarray, View]:
    """One image at one scale as an evaluation input, padded with black.

    Args: image uint8 BGR; down_ratio input pixels per output pixel. Returns uint8 [H, W, 3] and its View.
    """
    height, width = image.shape[:2]
    new_w, new_h = scaled_size(width, height, scale)
    if fit.keep_res:
        base_w, base_h = padded_size(new_w, new_h, fit.stride, fit.stride)
        input_w, input_h = padded_size(new_w, new_h, fit.pad_multiple, fit.stride)
        center = np.array([new_w // 2 + (input_w - base_w) / 2, new_h // 2 + (input_h - base_h) / 2], np.float32)
        region_width = float(input_w)
    else:
        assert fit.input_res is not None
        input_w, input_h = fit.input_res
        center = np.array([new_w / 2, new_h / 2], np.float32)
        # As in the original, the region is the unscaled image's, so that scale zooms in the fixed input.
        region_width = whole_view(width, height, (input_w, input_h), fit.sees_all)[1]
    if (new_w, new_h) != (width, height):
        image = cv2.resize(image, (new_w, new_h))
    pixels = warp(image, affine_matrix(center, region_width, 0, (input_w, input_h)), (input_w, input_h))
    return pixels, View(center, region_width, output_size((input_h, input_w), down_ratio), scale, size=(width, height))


def normalize(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 [H, W, 3] -> the network's input, float32 [3, H, W]; mean and std in [0, 1]."""
    return apply_color(pixels, normalizing_matrix(np.eye(3, 4), mean, std))


def input_spec(from_bytes: bool, batch: Any, height: Any, width: Any) -> tuple[type, list]:
    """NumPy type and shape of a network's input; batch, height and width are numbers, or names of variable sizes.

    uint8 [N, H, W, 3] if it takes the images' bytes, else float32 [N, 3, H, W].
    """
    return (np.uint8, [batch, height, width, 3]) if from_bytes else (np.float32, [batch, 3, height, width])


def pad_batch(batch: np.ndarray, count: int) -> np.ndarray:
    """Pad a batch with zeros to `count` images."""
    missing = count - len(batch)
    return np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)]) if missing > 0 else batch
