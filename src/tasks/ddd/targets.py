"""3D boxes -> heatmap, depth, rotation, dimensions, size and offset. On the host, in NumPy.

Source: the original's datasets/sample/ddd.py.
"""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core import errors
from ...core.errors import UserError
from ...core.kinds import is_number, list_of
from ...imaging import camera, gaussians
from ...imaging.color import random_color
from .. import augmentation
from ..augmentation import Augmentation, Placement, Ranges
from ..detection import targets as detection
from ..detection.targets import Layout, empty_heatmaps, is_consistent, kernel_of
from .cameras import METAINFO, check_same, configured, notes, read_metainfo
from .categories import select

__all__ = ["METAINFO", "check_same", "configured", "empty_heatmaps", "is_consistent", "notes", "read_metainfo",
           "select"]

IGNORED = 0.9999  # of a heatmap: neither a center nor background
MAX_METERS = 1e5
COLUMNS = {"depth": 1, "alpha": 1, "dim": 3, "location": 3, "rotation_y": 1, "calib": 12, "ignored": 1}
FIELDS = ("dim", "location", "depth", "alpha", "rotation_y", "truncated", "occluded")  # of a 3D box in annotations


def fits(content: dict) -> bool:
    """Whether an annotation file, unchecked, has an object with a 3D box."""
    entries = content.get("annotations")
    return any(isinstance(entry, dict) and has_box(entry) for entry in (entries if isinstance(entries, list) else []))


def has_box(annotation: dict) -> bool:
    """Whether an annotation, unchecked, has dimensions and a depth or location."""
    return "dim" in annotation and ("depth" in annotation or "location" in annotation)


def observed(metainfo: dict, labels: np.ndarray, **columns: np.ndarray) -> dict:
    """metainfo, given the objects' labels [M] and object_columns. Raises UserError if no object has a 3D box."""
    if not (columns["ignored"] == 0).any():
        raise UserError("no object has a 3D box, so the data fits the task detection (net_config.task), not ddd")
    return metainfo


def counted(objects: dict) -> np.ndarray:
    """A mask [M] of the objects of an image that are objects, not regions to ignore."""
    return objects["ignored"][:, 0] == 0


def object_columns(metainfo: dict) -> dict[str, int]:
    """The additional columns of objects in MindRecord files: their 3D boxes, the image's calibration, and whether they
    are only regions to ignore."""
    return COLUMNS


def check_image(entry: dict, size_of: Any) -> None:
    """Complete an image's entry in place with its size. Raises UserError unless it has a calibration."""
    if "calib" not in entry:
        raise UserError("it has no calib, the camera's 3x4 projection matrix")
    with errors.prefix_errors("its calib"):
        entry["calib"] = camera.check_calib(entry["calib"]).tolist()
    size = size_of(entry["id"])
    for name, side in zip(("width", "height"), size):
        if math.isfinite(side):
            entry[name] = side
        else:
            entry.pop(name, None)


def check_annotation(entry: dict, metainfo: dict, image: dict) -> None:
    """Complete an annotation in place: a 3D box, or a region to ignore (a crowd), with the image's calib.

    depth and location complete each other, as do alpha and rotation_y, which are then in [-pi, pi]. Raises UserError
    unless the numbers are those of a box in front of the camera. A crowd may have such a box (KITTI's vans), or loses
    these fields.
    """
    entry["calib"] = image["calib"]
    try:
        _complete_box(entry)
    except UserError:
        if not entry["iscrowd"]:
            raise
        for name in FIELDS:
            entry.pop(name, None)


def _complete_box(entry: dict) -> None:
    """Complete the 3D box of an annotation with a calib in place. Raises UserError."""
    calib = np.array(entry["calib"])
    values: list[Any] = [entry.get(name) for name in FIELDS[:5]]
    dim, location, depth, alpha, rotation_y = values
    if not (list_of(is_number, 3)(dim) and 0 < min(dim) and max(dim) <= MAX_METERS):
        raise UserError(f"its dim is {_short(dim)}; expected height, width and length in meters")
    if location is not None and not (list_of(is_number, 3)(location) and location[2] > 0
                                     and max(map(abs, location)) <= MAX_METERS):
        raise UserError(f"its location is {_short(location)}; expected x, y, z in meters, z above 0")
    depth = location[2] if depth is None and location is not None else depth
    if not (is_number(depth) and 0 < depth <= MAX_METERS):
        raise UserError(f"its depth is {_short(depth)}; expected the distance from the camera in meters, above 0")
    x, y, w, h = entry["bbox"]
    center = np.array([x + w / 2, y + h / 2])
    if location is None:
        location = (camera.unproject(center, np.array(depth), calib) + [0, dim[0] / 2, 0]).tolist()
    if alpha is None and rotation_y is None:
        raise UserError("it has neither alpha nor rotation_y, an angle in radians")
    for name, angle in (("alpha", alpha), ("rotation_y", rotation_y)):
        if angle is not None and not (is_number(angle) and abs(angle) <= 2 * np.pi):
            raise UserError(f"its {name} is {_short(angle)}; expected an angle in radians")
    if alpha is None:
        alpha = camera.alpha_of(np.array(rotation_y), center[0], calib)
    if rotation_y is None:
        rotation_y = camera.rotation_of(np.array(alpha), center[0], calib)
    for name in ("truncated", "occluded"):
        value = entry.get(name, 0)
        if not (isinstance(value, bool) or is_number(value) and abs(value) <= MAX_METERS):
            raise UserError(f"its {name} is {_short(value)}; expected KITTI's number")
    entry |= {"location": location, "depth": depth, "alpha": float(camera.wrapped(alpha)),
              "rotation_y": float(camera.wrapped(rotation_y))}


def _short(value: Any) -> str:
    """A value for a message."""
    return repr(value)[:60]


def read_object(annotation: dict, metainfo: dict) -> dict:
    """{name: list of values} of object_columns for an annotation."""
    calib = np.ravel(annotation["calib"]).tolist()
    if annotation.get("iscrowd"):
        return {**{name: [0.0] * count for name, count in COLUMNS.items()}, "calib": calib, "ignored": [1]}
    values = {**annotation, "calib": calib, "ignored": 0}
    return {name: np.atleast_1d(values[name]).tolist() for name in COLUMNS}


def layout_of(config: Any, metainfo: dict) -> Layout:
    """The Layout for a configuration and a data set."""
    return Layout(**augmentation.common_layout(config, metainfo))


def warp(objects: dict, place: Placement, layout: Layout) -> dict:
    """Objects of an image in output pixels; moved, whether its scale and position are not those of inference."""
    return {**detection.warp(objects, place, layout), "moved": place.moved}


def random_augmentation(rng: np.random.Generator, image_size: tuple[int, int], input_size: tuple[int, int],
                        ranges: Ranges) -> Augmentation:
    """Draw an Augmentation: with the probability aug_ddd another scale and shift, whose depths are not learned.

    No flip and no rotation, as in the original.
    """
    steps, lighting = random_color(rng) if ranges.color_aug else ((), np.zeros(3))
    center, width = augmentation.whole_view(*image_size, input_size, sees_all=False)
    if rng.random() >= ranges.aug_ddd:
        return Augmentation(center, width, steps=steps, lighting=lighting)
    return Augmentation(*moved_view(center, width, image_size, rng.standard_normal(3), ranges.scale, ranges.shift),
                        steps=steps, lighting=lighting, moved=True)


def moved_view(center: np.ndarray, width: float, image_size: tuple[int, int], draws: Sequence[float] | np.ndarray,
               scale: float, shift: float) -> tuple[np.ndarray, float]:
    """(center, width) of a region after three standard normal draws: scale, shift in x, shift in y."""
    width = width * float(np.clip(draws[0] * scale + 1, 1 - scale, 1 + scale))
    moves = np.clip(np.asarray(draws[1:]) * shift, -2 * shift, 2 * shift)
    return (center + np.array(image_size) * moves).astype(np.float32), width


def encode(objects: dict, layout: Layout, heatmaps: dict | None = None) -> dict[str, np.ndarray]:
    """Targets of one image.

    Args: objects of warp; heatmaps {hm [C, h, w]}, zeros to draw into. Returns hm; ind [max_objs] int32; dep
    [max_objs, 1] in meters; dim [max_objs, 3] h, w, l; rotbin and rotres [max_objs, 2], see bins_of; wh, reg
    [max_objs, 2]; rot_mask [max_objs], the objects; reg_mask [max_objs], those whose depth and dimensions are learned:
    none in a moved image. Ignored regions are IGNORED at their centers.
    """
    assert heatmaps is not None  # draws_on_host
    (out_w, out_h), most, hm = layout.out_size, layout.max_objs, heatmaps["hm"]
    targets = {name: np.zeros((most, count), np.float32)
               for name, count in (("dep", 1), ("dim", 3), ("rotbin", 2), ("rotres", 2), ("wh", 2), ("reg", 2))}
    ind, rot_mask = np.zeros(most, np.int32), np.zeros(most, np.float32)
    boxes = np.clip(objects["boxes"], 0, np.array([out_w - 1, out_h - 1] * 2, np.float32))
    slot = 0
    for index, ((x1, y1, x2, y2), label) in enumerate(zip(boxes, objects["labels"])):
        w, h = x2 - x1, y2 - y1
        if w <= 0 or h <= 0:
            continue
        center = np.array([(x1 + x2) / 2, (y1 + y2) / 2], np.float32)
        x, y = center.astype(np.int32)
        kernel = kernel_of(max(0, int(gaussians.gaussian_radius(h, w))), False)
        if objects["ignored"][index] or slot == most:
            gaussians.draw_gaussian(hm[label], x, y, kernel)
            hm[label, y, x] = IGNORED
            continue
        gaussians.draw_gaussian(hm[label], x, y, kernel)
        ind[slot], rot_mask[slot] = y * out_w + x, 1
        targets["wh"][slot], targets["reg"][slot] = (w, h), center - (x, y)
        targets["dep"][slot], targets["dim"][slot] = objects["depth"][index], objects["dim"][index]
        targets["rotbin"][slot], targets["rotres"][slot] = bins_of(float(objects["alpha"][index, 0]))
        slot += 1
    return {"hm": hm, "ind": ind, **targets, "reg_mask": rot_mask * (not objects["moved"]), "rot_mask": rot_mask}


def bins_of(alpha: float) -> tuple[list[float], list[float]]:
    """(which bins hold an angle alpha, its difference from their centers, else 0): two overlapping parts of the
    circle, around -pi/2 and pi/2."""
    first = alpha < np.pi / 6 or alpha > 5 * np.pi / 6
    second = alpha > -np.pi / 6 or alpha < -5 * np.pi / 6
    return [first, second], [(alpha + np.pi / 2) * first, (alpha - np.pi / 2) * second]


def columns(heatmaps_on_host: bool) -> list[str]:
    """The columns of a training batch, in the order of device_input.DeviceInput's arguments."""
    return ["image", "color", "hm", "ind", "dep", "dim", "rotbin", "rotres", "reg_mask", "rot_mask", "wh", "reg"]


def draws_on_host(config: Any, device_target: str) -> bool:
    """Whether the pipeline draws the heatmaps: always, since ignored regions are not gaussians with a peak of 1."""
    return True


def unused(config: Any) -> list[tuple[Any, str, list[str]]]:
    """Rows of combinations.py: parameters of this task without effect in a training with this configuration."""
    network = config.net_config
    return [(not network.reg_offset, "net_config.reg_offset is false", ["net_config.off_weight"]),
            (not network.reg_bbox, "net_config.reg_bbox is false", ["net_config.wh_weight"]),
            (not config.dataset_config.aug_ddd, "dataset_config.aug_ddd is 0",
             ["dataset_config.shift", "dataset_config.scale"])]
