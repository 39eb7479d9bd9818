"""Augmentation of training images: crop, mirroring, rotation, color. On the host, in NumPy.

Source: the original's datasets/sample/ctdet.py.
"""
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import cv2
import numpy as np

from ..imaging import geometry
from ..imaging.color import color_matrix, mean_gray, normalizing_matrix, random_color
from ..imaging.view import output_size, whole_view


@dataclass(frozen=True)
class Layout:
    """The format of training samples, the same for all images.

    input_size (width, height) of the network's input, down_ratio input pixels per output pixel, num_classes; max_objs,
    the largest number of objects per image; mean, std, eig_val and eig_vec of dataset_config. Tasks add fields.
    """

    input_size: tuple
    num_classes: int
    max_objs: int
    down_ratio: int
    mean: list
    std: list
    eig_val: list
    eig_vec: list

    @property
    def out_size(self) -> tuple[int, int]:
        """(width, height) of the output."""
        return output_size(self.input_size, self.down_ratio)


def common_layout(config: Any, metainfo: dict) -> dict[str, Any]:
    """The fields of Layout, by name, for a configuration and a data set."""
    data = config.dataset_config
    same = {name: getattr(data, name) for name in ("max_objs", "mean", "std", "eig_val", "eig_vec")}
    return {"input_size": tuple(data.input_res_train), "num_classes": len(metainfo["classes"]),
            "down_ratio": config.net_config.down_ratio, **same}


@dataclass(frozen=True)
class Ranges:
    """The ranges of random augmentation: the dataset_config parameters of the same names."""

    rand_crop: bool
    shift: float
    scale: float
    aug_rot: float
    rotate: float
    flip_prop: float
    color_aug: bool
    aug_ddd: float


def ranges_of(config: Any) -> Ranges:
    """The Ranges of a configuration."""
    return Ranges(*(getattr(config.dataset_config, field.name) for field in fields(Ranges)))


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of one training image: center (x, y) and width of the visible region, in pixels of the image
    before mirroring; rotation in degrees; flip; steps and lighting of color.color_matrix; moved, for tasks whose
    targets depend on it: whether scale and position differ from those of inference."""

    center: np.ndarray
    width: float
    rotation: float = 0.0
    flip: bool = False
    steps: Sequence[tuple[str, float]] = ()
    lighting: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0)
    moved: bool = False


def whole_image(image_size: tuple[int, int], input_size: tuple[int, int]) -> Augmentation:
    """The Augmentation that shows the full image of image_size (width, height) unchanged."""
    return Augmentation(*whole_view(*image_size, input_size))


def random_augmentation(rng: np.random.Generator, image_size: tuple[int, int], input_size: tuple[int, int],
                        ranges: Ranges) -> Augmentation:
    """Draw an Augmentation within Ranges for an image of image_size (width, height)."""
    center, width = whole_view(*image_size, input_size)
    center, width = geometry.random_crop(rng, center, width, image_size, (ranges.rand_crop, ranges.scale, ranges.shift))
    rotation = geometry.random_rotation(rng, ranges.aug_rot, ranges.rotate)
    flip = bool(rng.random() < ranges.flip_prop)
    steps, lighting = random_color(rng) if ranges.color_aug else ((), np.zeros(3))
    return Augmentation(center, width, rotation, flip, steps, lighting)


@dataclass(frozen=True)
class Placement:
    """Where an augmented image lies in the output.

    matrix [2, 3] maps points of the image, in pixels, to output pixels; upright does without the rotation; rotation in
    degrees; mirrored_in, the image's width in pixels if points must be mirrored first, else 0; moved, see Augmentation.
    """

    matrix: np.ndarray
    upright: np.ndarray
    rotation: float = 0.0
    mirrored_in: int = 0
    moved: bool = False


def augmented_view(pixels: np.ndarray, augmentation: Augmentation, layout: Layout) -> tuple[dict, Placement]:
    """Apply an Augmentation to an image, BGR uint8.

    Returns {"image": uint8 [H, W, 3], "color": float32 [3, 4]}: applying the color map, which augments and normalizes,
    to the image gives the network's input. Also the image's Placement.
    """
    width, center, mirrored_in = pixels.shape[1], augmentation.center, 0
    if augmentation.flip:
        pixels, mirrored_in = cv2.flip(pixels, 1), width
        center = np.array([width - center[0] - 1, center[1]], np.float32)
    region, rotation = (center, augmentation.width), augmentation.rotation
    view = geometry.warp(pixels, geometry.affine_matrix(*region, rotation, layout.input_size), layout.input_size)
    gray = mean_gray(view) if augmentation.steps else 0.0  # only for the contrast step
    color = color_matrix(augmentation.steps, augmentation.lighting, gray, layout.eig_val, layout.eig_vec)
    color = normalizing_matrix(color, layout.mean, layout.std)
    inputs = {"image": view, "color": color.astype(np.float32)}
    matrix, upright = (geometry.affine_matrix(*region, angle, layout.out_size) for angle in (rotation, 0.0))
    return inputs, Placement(matrix, upright, rotation, mirrored_in, augmentation.moved)


def unused(config: Any) -> list[tuple[Any, str, list[str]]]:
    """Rows of combinations.py: parameters of random_augmentation without effect with this configuration."""
    data = config.dataset_config
    return [(data.rand_crop, "dataset_config.rand_crop is true", ["dataset_config.shift"]),
            (not data.rotate, "dataset_config.rotate is 0", ["dataset_config.aug_rot"]),
            (not data.aug_rot, "dataset_config.aug_rot is 0", ["dataset_config.rotate"])]
