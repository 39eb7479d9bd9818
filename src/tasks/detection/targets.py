"""Boxes -> heatmap, size and offset targets; a training sample. On the host, in NumPy.

Source: the original's datasets/sample/ctdet.py.
"""
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np

from ...imaging import gaussians, geometry
from ...imaging.color import color_matrix, mean_gray, normalizing_matrix, random_color
from ...imaging.view import output_size, whole_view


@dataclass(frozen=True)
class Layout:
    """What a training sample looks like, whatever its image.

    input_size (width, height) of the network's input, down_ratio input pixels per output pixel, num_classes; max_objs objects of an image
    at most; mean, std, eig_val and eig_vec of dataset_config; mse_loss, dense_wh and cat_spec_wh of net_config.
    """

    input_size: tuple
    num_classes: int
    max_objs: int
    down_ratio: int
    mean: list
    std: list
    eig_val: list
    eig_vec: list
    mse_loss: bool = False
    dense_wh: bool = False
    cat_spec_wh: bool = False

    @property
    def out_size(self):
        """(width, height) of the output."""
        return output_size(self.input_size, self.down_ratio)


def layout_of(config, num_classes):
    """The Layout that a configuration describes for a number of classes."""
    data, net = config.dataset_config, config.net_config
    return Layout(tuple(data.input_res_train), num_classes, data.max_objs, net.down_ratio, data.mean, data.std, data.eig_val, data.eig_vec,
                  net.mse_loss, net.dense_wh, net.cat_spec_wh)


def empty_heatmaps(count, layout):
    """Heatmaps of so many images to draw into: zeros [count, C, h, w]."""
    width, height = layout.out_size
    return np.zeros((count, layout.num_classes, height, width), np.float32)


@dataclass(frozen=True)
class Ranges:
    """Within what an augmentation is drawn: the parameters of that name in dataset_config."""

    rand_crop: bool
    shift: float
    scale: float
    aug_rot: float
    rotate: float
    flip_prop: float
    color_aug: bool


def ranges_of(config):
    """The Ranges that a configuration describes."""
    return Ranges(*(getattr(config.dataset_config, field.name) for field in fields(Ranges)))


@dataclass(frozen=True)
class Augmentation:
    """The view of one training image: center (x, y) and width of the region that is shown, in the image's pixels before it is mirrored;
    rotation in degrees; flip; steps and lighting of color.color_matrix."""

    center: np.ndarray
    width: float
    rotation: float = 0.0
    flip: bool = False
    steps: tuple = ()
    lighting: Sequence[float] | np.ndarray = (0.0, 0.0, 0.0)


def whole_image(image_size, input_size):
    """The Augmentation that shows an image of image_size (width, height) as it is."""
    return Augmentation(*whole_view(*image_size, input_size))


def random_augmentation(rng, image_size, input_size, ranges):
    """The Augmentation that a NumPy generator draws within Ranges for an image of image_size (width, height)."""
    center, width = whole_view(*image_size, input_size)
    center, width = geometry.random_crop(rng, center, width, image_size, (ranges.rand_crop, ranges.scale, ranges.shift))
    rotation = geometry.random_rotation(rng, ranges.aug_rot, ranges.rotate)
    flip = bool(rng.random() < ranges.flip_prop)
    steps, lighting = random_color(rng) if ranges.color_aug else ((), np.zeros(3))
    return Augmentation(center, width, rotation, flip, steps, lighting)


@functools.lru_cache(maxsize=512)
def _kernel(radius, mse_loss):
    """The gaussian of a radius; of fixed width with the mean-squared-error option (the original's hm_gauss)."""
    if mse_loss:
        return gaussians.gaussian_kernel(3 * gaussians.MSRA_SIGMA, gaussians.MSRA_SIGMA)
    return gaussians.gaussian_kernel(radius, (2 * radius + 1) / 6)


def encode_targets(boxes, labels, layout, hm=None):
    """Targets of one image.

    Args: boxes [M, 4] x1, y1, x2, y2 in output pixels; labels [M]; a Layout; hm zeros [C, h, w] to draw the heatmap into (dense_wh needs
    it), or None.
    Returns a dictionary: hm as it was given, ind [max_objs] int32, reg [max_objs, 2], reg_mask [max_objs], wh and wh_mask:
    [max_objs, 2], or [max_objs, 2 C] with cat_spec_wh, or [2, h, w] with dense_wh. All but ind float32. If hm is None, it holds
    in its place objects [max_objs, 2] int32, class and radius (-1 where there is none), of which the device draws it.
    """
    out_w, out_h = layout.out_size
    objects = np.full((layout.max_objs, 2), -1, np.int32)
    ind = np.zeros(layout.max_objs, np.int32)
    reg = np.zeros((layout.max_objs, 2), np.float32)
    reg_mask = np.zeros(layout.max_objs, np.float32)
    wh = np.zeros((layout.max_objs, 2), np.float32)
    dense = np.zeros((2, out_h, out_w), np.float32) if layout.dense_wh else None
    boxes = np.clip(boxes[: layout.max_objs], 0, np.array([out_w - 1, out_h - 1] * 2, np.float32))
    labels = labels[: layout.max_objs]
    for slot, ((x1, y1, x2, y2), label) in enumerate(zip(boxes, labels)):
        w, h = x2 - x1, y2 - y1
        if w <= 0 or h <= 0:
            continue
        center = np.array([(x1 + x2) / 2, (y1 + y2) / 2], np.float32)
        x, y = center.astype(np.int32)
        radius = int(gaussians.gaussian_radius(math.ceil(h), math.ceil(w)))
        kernel = _kernel(radius, layout.mse_loss)
        objects[slot] = label, len(kernel) // 2
        if hm is not None:
            gaussians.draw_gaussian(hm[label], x, y, kernel)
        ind[slot] = y * out_w + x
        reg[slot] = center - (x, y)
        reg_mask[slot] = 1
        wh[slot] = w, h
        if layout.dense_wh:
            # The original's draw_dense_reg takes the sigma of the heatmap's fixed gaussian for a radius.
            dense_kernel = _kernel(gaussians.MSRA_SIGMA, False) if layout.mse_loss else kernel
            gaussians.draw_dense_value(dense, hm.max(0), x, y, dense_kernel, (w, h))
    targets = {"objects": objects} if hm is None else {"hm": hm}
    targets |= {"ind": ind, "reg": reg, "reg_mask": reg_mask}
    wh_mask = np.repeat(reg_mask[:, None], 2, 1)
    if layout.dense_wh:
        targets["wh"], targets["wh_mask"] = dense, np.repeat(hm.max(0, keepdims=True), 2, 0)
    elif layout.cat_spec_wh:
        targets["wh"], targets["wh_mask"] = (_in_class_columns(v, labels, layout.num_classes) for v in (wh, wh_mask))
    else:
        targets["wh"], targets["wh_mask"] = wh, wh_mask
    return targets


def _in_class_columns(values, labels, num_classes):
    """[M, 2] -> [M, 2 C] with the values in the columns 2 label, 2 label + 1, zero elsewhere."""
    spread = np.zeros((len(values), num_classes, 2), np.float32)
    spread[np.arange(len(labels)), labels] = values[: len(labels)]
    return spread.reshape(len(values), -1)


def make_sample(pixels, boxes, labels, augmentation, layout, hm=None):
    """A training sample: {"image": uint8 [H, W, 3], "color": float32 [3, 4] and encode_targets' dictionary}.

    The network's input is image through the color map, which augments and normalizes. Args: pixels uint8 BGR; boxes [M, 4] x1, y1,
    x2, y2 in them; labels [M]; an Augmentation; a Layout; hm as in encode_targets.
    """
    width, center = pixels.shape[1], augmentation.center
    if augmentation.flip:
        pixels = cv2.flip(pixels, 1)
        boxes = geometry.flip_boxes(boxes, width)
        center = np.array([width - center[0] - 1, center[1]], np.float32)
    region = center, augmentation.width, augmentation.rotation
    view = geometry.warp(pixels, geometry.affine_matrix(*region, layout.input_size), layout.input_size)
    gray = mean_gray(view) if augmentation.steps else 0.0  # only the contrast step uses it
    color = color_matrix(augmentation.steps, augmentation.lighting, gray, layout.eig_val, layout.eig_vec)
    color = normalizing_matrix(color, layout.mean, layout.std)
    boxes = geometry.transform_boxes(boxes, geometry.affine_matrix(*region, layout.out_size))
    return {"image": view, "color": color.astype(np.float32), **encode_targets(boxes, labels, layout, hm)}


def columns(heatmap_on_host):
    """The columns of a training batch, in the order device_input.DeviceInput takes them."""
    return ["image", "color", "hm" if heatmap_on_host else "objects", "ind", "reg", "reg_mask", "wh", "wh_mask"]


def collate(samples, hm):
    """make_sample's dictionaries -> a training batch, the values of columns(); hm [B, C, h, w] if they were drawn into it, else None."""
    return tuple(hm if name == "hm" else np.stack([sample[name] for sample in samples]) for name in columns(hm is not None))


def draws_on_host(config, device_target):
    """Whether the pipeline draws the heatmaps, for dataset_config.heatmap_on "auto", "host" or "device".

    auto: the device does where it is not the host itself, since that saves most of the bytes between them. The dense size map needs them.
    """
    heatmap_on = config.dataset_config.heatmap_on
    return config.net_config.dense_wh or heatmap_on == "host" or (heatmap_on == "auto" and device_target == "CPU")
