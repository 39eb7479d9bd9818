"""Boxes -> heatmap, size and offset targets. On the host, in NumPy.

Source: the original's datasets/sample/ctdet.py.
"""
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...imaging import gaussians, geometry
from .. import augmentation
from ..augmentation import random_augmentation as random_augmentation

METAINFO: dict = {}  # in addition to classes and category_ids


def fits(content: dict) -> bool:
    """Whether an annotation file, unchecked, has this task's fields; boxes with any further ones do."""
    return True


def is_consistent(metainfo: dict) -> bool:
    """Whether the additions to metainfo fit its classes; here there are none."""
    return True


def select(categories: list[dict], annotations: list[dict]) -> tuple[list[dict], list[dict]]:
    """The categories that are classes, and their annotations: all."""
    return categories, annotations


def read_metainfo(categories: list[dict], images: Sequence[dict] = ()) -> dict:
    """The additions of this task to metainfo from the categories and images of an annotation file: none."""
    return {}


def configured(metainfo: dict, config: Any) -> dict:
    """metainfo with a configuration's changes: none."""
    return metainfo


def check_same(ours: dict, theirs: dict) -> None:
    """Raise UserError unless a data set's metainfo has a model's additions; here there are none."""


def observed(metainfo: dict, labels: np.ndarray) -> dict:
    """metainfo without what no object has, given the objects' labels [M] and object_columns: all of it."""
    return metainfo


def counted(objects: dict) -> np.ndarray:
    """A mask [M] of the objects of an image that are objects, not regions to ignore: all."""
    return np.ones(len(objects["labels"]), bool)


def notes(metainfo: dict) -> tuple[list[str], list[str]]:
    """(remarks, warnings) about a data set's metainfo: none."""
    return [], []


def object_columns(metainfo: dict) -> dict[str, int]:
    """The additional float32 columns of objects in MindRecord files, {name: values per object}: none."""
    return {}


def check_image(entry: dict, size_of: Callable[[int], tuple[float, float]]) -> None:
    """Complete an image's additional fields in place, or raise UserError; here there are none."""


def check_annotation(entry: dict, metainfo: dict, image: dict) -> None:
    """Complete an annotation's additional fields in place, or raise UserError; here there are none."""


def read_object(annotation: dict, metainfo: dict) -> dict:
    """{name: values} of object_columns for an annotation."""
    return {}


@dataclass(frozen=True)
class Layout(augmentation.Layout):
    """augmentation.Layout with mse_loss, dense_wh and cat_spec_wh of net_config."""

    mse_loss: bool = False
    dense_wh: bool = False
    cat_spec_wh: bool = False


def layout_of(config: Any, metainfo: dict) -> Layout:
    """The Layout for a configuration and a data set."""
    net = config.net_config
    return Layout(**augmentation.common_layout(config, metainfo), mse_loss=net.mse_loss, dense_wh=net.dense_wh,
                  cat_spec_wh=net.cat_spec_wh)


def empty_heatmaps(count: int, layout: Layout) -> dict[str, np.ndarray]:
    """Heatmaps of `count` images to draw into: {"hm": zeros [count, C, h, w]}."""
    width, height = layout.out_size
    return {"hm": np.zeros((count, layout.num_classes, height, width), np.float32)}


def warp(objects: dict, place: augmentation.Placement, layout: augmentation.Layout) -> dict:
    """Objects of an image in output pixels."""
    boxes = geometry.flip_boxes(objects["boxes"], place.mirrored_in) if place.mirrored_in else objects["boxes"]
    return {**objects, "boxes": geometry.transform_boxes(boxes, place.matrix)}


def encode(objects: dict, layout: Layout, heatmaps: dict | None = None) -> dict[str, np.ndarray]:
    """encode_targets for objects in output pixels; heatmaps are those of one image of empty_heatmaps, or None."""
    return encode_targets(objects["boxes"], objects["labels"], layout, heatmaps["hm"] if heatmaps else None)


@functools.lru_cache(maxsize=512)
def kernel_of(radius: int, mse_loss: bool) -> np.ndarray:
    """The gaussian of a radius; of fixed width with the mean-squared-error option (the original's hm_gauss)."""
    if mse_loss:
        return gaussians.gaussian_kernel(3 * gaussians.MSRA_SIGMA, gaussians.MSRA_SIGMA)
    return gaussians.gaussian_kernel(radius, (2 * radius + 1) / 6)


def encode_targets(boxes: np.ndarray, labels: np.ndarray, layout: Layout, hm: Any = None) -> dict[str, np.ndarray]:
    """Targets of one image.

    Args: boxes [M, 4] x1, y1, x2, y2 in output pixels; labels [M]; a Layout; hm, zeros [C, h, w] to draw the heatmap
    into (required by dense_wh), or None. Returns a dictionary: hm, ind [max_objs] int32, reg [max_objs, 2], reg_mask
    [max_objs], wh and wh_mask: [max_objs, 2], or [max_objs, 2 C] with cat_spec_wh, or [2, h, w] with dense_wh. All but
    ind are float32. If hm is None, objects [max_objs, 2] int32 takes its place: class and radius, -1 for padding, from
    which the device draws it.
    """
    out_w, out_h = layout.out_size
    objects = np.full((layout.max_objs, 2), -1, np.int32)
    ind = np.zeros(layout.max_objs, np.int32)
    reg = np.zeros((layout.max_objs, 2), np.float32)
    reg_mask = np.zeros(layout.max_objs, np.float32)
    wh = np.zeros((layout.max_objs, 2), np.float32)
    dense = np.zeros((2 * layout.dense_wh, out_h, out_w), np.float32)
    boxes = np.clip(boxes[: layout.max_objs], 0, np.array([out_w - 1, out_h - 1] * 2, np.float32))
    labels = labels[: layout.max_objs]
    for slot, ((x1, y1, x2, y2), label) in enumerate(zip(boxes, labels)):
        w, h = x2 - x1, y2 - y1
        if w <= 0 or h <= 0:
            continue
        center = np.array([(x1 + x2) / 2, (y1 + y2) / 2], np.float32)
        x, y = center.astype(np.int32)
        radius = int(gaussians.gaussian_radius(math.ceil(h), math.ceil(w)))
        kernel = kernel_of(radius, layout.mse_loss)
        objects[slot] = label, len(kernel) // 2
        if hm is not None:
            gaussians.draw_gaussian(hm[label], x, y, kernel)
        ind[slot] = y * out_w + x
        reg[slot] = center - (x, y)
        reg_mask[slot] = 1
        wh[slot] = w, h
        if layout.dense_wh:
            # The original's draw_dense_reg uses the sigma of the heatmap's fixed gaussian as a radius.
            dense_kernel = kernel_of(gaussians.MSRA_SIGMA, False) if layout.mse_loss else kernel
            gaussians.draw_dense_value(dense, hm.max(0), x, y, dense_kernel, (w, h))
    targets: dict[str, Any] = {"objects": objects} if hm is None else {"hm": hm}
    targets |= {"ind": ind, "reg": reg, "reg_mask": reg_mask}
    wh_mask = np.repeat(reg_mask[:, None], 2, 1)
    if layout.dense_wh:
        targets["wh"], targets["wh_mask"] = dense, np.repeat(hm.max(0, keepdims=True), 2, 0)
    elif layout.cat_spec_wh:
        targets["wh"], targets["wh_mask"] = (_in_class_columns(v, labels, layout.num_classes) for v in (wh, wh_mask))
    else:
        targets["wh"], targets["wh_mask"] = wh, wh_mask
    return targets


def _in_class_columns(values: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """[M, 2] -> [M, 2 C] with the values in columns 2 label and 2 label + 1, zero elsewhere."""
    spread = np.zeros((len(values), num_classes, 2), np.float32)
    spread[np.arange(len(labels)), labels] = values[: len(labels)]
    return spread.reshape(len(values), -1)


def columns(heatmaps_on_host: bool) -> list[str]:
    """The columns of a training batch, in the order of device_input.DeviceInput's arguments."""
    return ["image", "color", "hm" if heatmaps_on_host else "objects", "ind", "reg", "reg_mask", "wh", "wh_mask"]


def draws_on_host(config: Any, device_target: str) -> bool:
    """Whether the pipeline draws the heatmaps, for dataset_config.heatmap_on "auto", "host" or "device".

    auto: on the device unless it is the host itself, which saves most of the transfer. The dense size map needs the
    host.
    """
    heatmap_on = config.dataset_config.heatmap_on
    return config.net_config.dense_wh or heatmap_on == "host" or (heatmap_on == "auto" and device_target == "CPU")


def unused(config: Any) -> list[tuple[Any, str, list[str]]]:
    """Rows of combinations.py: parameters of this task without effect in a training with this configuration."""
    network = config.net_config
    sizes_are_l1 = network.dense_wh or network.norm_wh or network.cat_spec_wh
    return [*augmentation.unused(config),
            (network.dense_wh, "net_config.dense_wh is true", ["net_config.norm_wh"]),
            (not network.reg_offset, "net_config.reg_offset is false",
             ["net_config.off_weight", *(["net_config.reg_loss"] if sizes_are_l1 else [])])]
