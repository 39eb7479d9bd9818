"""Boxes and keypoints -> heatmaps, sizes and offsets. On the host, in NumPy.

Source: the original's datasets/sample/multi_pose.py.
"""
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.errors import UserError
from ...core.kinds import is_number, list_of
from ...imaging import gaussians, geometry
from .. import augmentation
from ..augmentation import Placement
from ..augmentation import random_augmentation as random_augmentation
from ..detection import targets as detection
from ..detection.targets import check_image, counted, kernel_of, select
from .keypoints import METAINFO, check_same, configured, fits, is_consistent, notes, observed, read_metainfo

__all__ = [
    "METAINFO", "check_image", "check_same", "configured", "counted", "fits", "is_consistent", "notes", "observed",
    "random_augmentation", "read_metainfo", "select",
]

FARTHEST = 1e9  # pixels, as for boxes
IGNORED = 0.9999  # of a heatmap: neither a center nor background


def object_columns(metainfo: dict) -> dict[str, int]:
    """The additional column of objects in MindRecord files: keypoints, J times x, y, visibility."""
    return {"keypoints": 3 * len(metainfo["keypoints"]["names"])}


def _is_coordinate(value: Any) -> bool:
    return is_number(value) and abs(value) <= FARTHEST


def check_annotation(entry: dict, metainfo: dict, image: dict) -> None:
    """Replace an annotation's keypoints in place by those of all classes, 0 if its class lacks them, and count them.

    Raises UserError unless they are x, y and visibility 0, 1 or 2 of the class's keypoints. An annotation without
    keypoints has none that are visible.
    """
    facts = metainfo["keypoints"]
    own = facts["of_class"][metainfo["category_ids"].index(entry["category_id"])]
    values = own and entry.get("keypoints") or [0] * (3 * len(own))
    if not list_of(_is_coordinate, 3 * len(own))(values):
        what = f"{len(values)} values" if list_of(_is_coordinate)(values) else f"not numbers up to {FARTHEST:g}"
        raise UserError(f"its keypoints are {what}; expected x, y and visibility of {len(own)} keypoints")
    points = np.array(values, float).reshape(-1, 3)
    if wrong := sorted({value for value in points[:, 2] if value not in (0, 1, 2)}):
        raise UserError(f"its keypoints have visibility {wrong[0]:g}; expected 0 (absent), 1 (hidden) or 2 (visible)")
    points[points[:, 2] == 0] = 0
    whole = np.zeros((len(facts["names"]), 3))
    whole[own] = points
    entry["keypoints"] = whole.ravel().tolist()
    entry["num_keypoints"] = int((points[:, 2] > 0).sum())


def read_object(annotation: dict, metainfo: dict) -> dict:
    """{name: values} of object_columns for an annotation."""
    return {"keypoints": annotation["keypoints"]}


@dataclass(frozen=True)
class Layout(detection.Layout):
    """detection's Layout with dense_hp of net_config; joints, the number of keypoints, flip_idx, and of_class, of
    metainfo."""

    dense_hp: bool = False
    joints: int = 0
    flip_idx: tuple = ()
    of_class: tuple = ()


def layout_of(config: Any, metainfo: dict) -> Layout:
    """The Layout for a configuration and a data set."""
    net, facts = config.net_config, metainfo["keypoints"]
    return Layout(**augmentation.common_layout(config, metainfo), mse_loss=net.mse_loss, dense_hp=net.dense_hp,
                  joints=len(facts["names"]), flip_idx=tuple(map(tuple, facts["flip_idx"])),
                  of_class=tuple(map(tuple, facts["of_class"])))


def empty_heatmaps(count: int, layout: Layout) -> dict[str, np.ndarray]:
    """Heatmaps of `count` images to draw into: {"hm": zeros [count, C, h, w], "hm_hp": zeros [count, J, h, w]}."""
    width, height = layout.out_size
    return {"hm": np.zeros((count, layout.num_classes, height, width), np.float32),
            "hm_hp": np.zeros((count, layout.joints, height, width), np.float32)}


def warp(objects: dict, place: Placement, layout: Layout) -> dict:
    """Objects of an image {boxes [M, 4], labels [M], keypoints [M, 3J]} in output pixels, keypoints as [M, J, 3].

    Boxes are moved without the rotation, as in the original, which does not learn centers and sizes of rotated images.
    """
    boxes, points = objects["boxes"], objects["keypoints"].reshape(-1, layout.joints, 3).copy()
    if place.mirrored_in:
        boxes = geometry.flip_boxes(boxes, place.mirrored_in)
        points[:, :, 0] = place.mirrored_in - points[:, :, 0] - 1
        order = mirrored_order(layout.joints, layout.flip_idx)
        points = points[:, order]
        for own, label in zip(points, objects["labels"]):  # a class may have one keypoint of a pair
            own[[joint for joint in range(layout.joints) if joint not in layout.of_class[label]]] = 0
    points[:, :, :2] = geometry.transform_points(points[:, :, :2], place.matrix)
    return {**objects, "boxes": geometry.transform_boxes(boxes, place.upright), "keypoints": points,
            "rotated": place.rotation != 0}


def mirrored_order(joints: int, flip_idx: Any) -> list[int]:
    """For each keypoint, the one that is in its place in a mirror image."""
    order = list(range(joints))
    for one, other in flip_idx:
        order[one], order[other] = other, one
    return order


def encode(objects: dict, layout: Layout, heatmaps: dict | None = None) -> dict[str, np.ndarray]:
    """Targets of one image.

    Args: objects of warp; heatmaps {hm [C, h, w], hm_hp [J, h, w]}, zeros to draw into. Returns hm, hm_hp, wh, reg
    [max_objs, 2], ind [max_objs] int32, reg_mask [max_objs], hps and hps_mask [max_objs, 2J], or [2J, h, w] with
    dense_hp, hp_offset [max_objs J, 2], hp_ind [max_objs J] int32, hp_mask [max_objs J].
    """
    assert heatmaps is not None  # draws_on_host
    (out_w, out_h), joints, most = layout.out_size, layout.joints, layout.max_objs
    hm, hm_hp = heatmaps["hm"], heatmaps["hm_hp"]
    wh, reg, reg_mask = np.zeros((most, 2), np.float32), np.zeros((most, 2), np.float32), np.zeros(most, np.float32)
    ind = np.zeros(most, np.int32)
    hps, hps_mask = np.zeros((most, joints, 2), np.float32), np.zeros((most, joints, 2), np.float32)
    hp_offset, hp_mask = np.zeros((most, joints, 2), np.float32), np.zeros((most, joints), np.float32)
    hp_ind = np.zeros((most, joints), np.int32)
    size = (joints, out_h, out_w) if layout.dense_hp else (0, 0, 0)
    dense, dense_mask = np.zeros((size[0], 2, *size[1:]), np.float32), np.zeros(size, np.float32)
    boxes = np.clip(objects["boxes"][:most], 0, np.array([out_w - 1, out_h - 1] * 2, np.float32))
    for slot, ((x1, y1, x2, y2), label, points) in enumerate(zip(boxes, objects["labels"], objects["keypoints"])):
        w, h = x2 - x1, y2 - y1
        if (w <= 0 or h <= 0) and not objects["rotated"]:
            continue
        center = np.array([(x1 + x2) / 2, (y1 + y2) / 2], np.float32)
        x, y = center.astype(np.int32)
        kernel = kernel_of(int(gaussians.gaussian_radius(math.ceil(h), math.ceil(w))), layout.mse_loss)
        wh[slot], reg[slot], ind[slot] = (w, h), center - (x, y), y * out_w + x
        seen = points[:, 2] > 0
        reg_mask[slot] = seen.any() or not layout.of_class[label]  # the original has no class without keypoints
        inside = seen & (points[:, :2] >= 0).all(1) & (points[:, :2] < (out_w, out_h)).all(1)
        for joint in np.flatnonzero(inside):
            point = points[joint, :2].astype(np.float32)
            column, row = point.astype(np.int32)
            hps[slot, joint], hps_mask[slot, joint] = point - (x, y), 1
            hp_offset[slot, joint], hp_mask[slot, joint] = point - (column, row), 1
            hp_ind[slot, joint] = row * out_w + column
            if layout.dense_hp:
                # The original's draw_dense_reg uses the sigma of the heatmap's fixed gaussian as a radius.
                own = kernel_of(gaussians.MSRA_SIGMA, False) if layout.mse_loss else kernel
                gaussians.draw_dense_value(dense[joint], hm[label], x, y, own, point - (x, y), is_offset=True)
                gaussians.draw_gaussian(dense_mask[joint], x, y, kernel)
            gaussians.draw_gaussian(hm_hp[joint], column, row, kernel)
        gaussians.draw_gaussian(hm[label], x, y, kernel)
    if objects["rotated"]:
        hm[:], reg_mask[:], hps_mask[:] = IGNORED, 0, 0
    if layout.dense_hp:
        hps, hps_mask = dense.reshape(2 * joints, out_h, out_w), np.repeat(dense_mask, 2, 0)
    else:
        hps, hps_mask = hps.reshape(most, -1), hps_mask.reshape(most, -1)
    return {"hm": hm, "hm_hp": hm_hp, "ind": ind, "reg": reg, "reg_mask": reg_mask, "wh": wh, "hps": hps,
            "hps_mask": hps_mask, "hp_offset": hp_offset.reshape(-1, 2), "hp_ind": hp_ind.ravel(),
            "hp_mask": hp_mask.ravel()}


def columns(heatmaps_on_host: bool) -> list[str]:
    """The columns of a training batch, in the order of device_input.DeviceInput's arguments."""
    return ["image", "color", "hm", "hm_hp", "ind", "reg", "reg_mask", "wh", "hps", "hps_mask", "hp_offset", "hp_ind",
            "hp_mask"]


def draws_on_host(config: Any, device_target: str) -> bool:
    """Whether the pipeline draws the heatmaps: always, since a device would draw max_objs x J maps for each image."""
    return True


def unused(config: Any) -> list[tuple[Any, str, list[str]]]:
    """Rows of combinations.py: parameters of this task without effect in a training with this configuration."""
    return [*augmentation.unused(config),
            (not config.net_config.hm_hp, "net_config.hm_hp is false",
             ["net_config.reg_hp_offset", "net_config.hm_hp_weight"]),
            (not config.eval_epochs, "eval_epochs is 0", ["eval_config.keypoints", "eval_config.kpt_oks_sigmas"])]
