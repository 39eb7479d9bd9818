"""The camera of a data set, and the camera and depth of one image.

Depth is learned for one camera: what a network sees is an object's size at its input, its real size times the focal
length over its distance. metainfo["camera"] is a dictionary: matrix, the median of the images' 3x4 calibrations; size,
the median image size; focals, the smallest and the largest focal length relative to its image's width, if known; and
focal, the matrix's focal length in pixels of the network's input, which the side file keeps.
"""
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.console import LOG
from ...core.errors import UserError
from ...core.kinds import is_number, is_positive, list_of
from ...imaging import camera
from ...imaging.view import View

# The original's camera, for data without images: that of KITTI's image 000000.
KITTI = {"matrix": [[707.0493, 0, 604.0814, 45.75831], [0, 707.0493, 180.5066, -0.3454157], [0, 0, 1, 0.004981016]],
         "size": [1224, 370]}
TOLERANCE = 0.02  # relative difference of focal lengths that is not worth a warning


def is_camera(value: Any) -> bool:
    """Whether a value is metainfo["camera"]."""
    if not isinstance(value, dict) or not list_of(list_of(is_number, 4), 3)(value.get("matrix")):
        return False
    try:
        camera.check_calib(value["matrix"])
    except UserError:
        return False
    return list_of(is_positive, 2)(value.get("size")) and is_positive(value.get("focal", 1))


METAINFO = {"camera": is_camera}


def read_metainfo(categories: list[dict], images: Sequence[dict] = ()) -> dict:
    """{"camera": ...} of the images of an annotation file; KITTI's if they have no calib, its size if they have no
    size."""
    known = [entry for entry in images if "calib" in entry]
    if not known:
        return {"camera": KITTI}
    sized = [entry for entry in known if entry.get("width") and entry.get("height")]
    matrix = np.median([entry["calib"] for entry in sized or known], axis=0)
    sizes: list = [[entry["width"], entry["height"]] for entry in sized] or [KITTI["size"]]
    focals = [entry["calib"][0][0] / entry["width"] for entry in sized]
    return {"camera": {"matrix": matrix.tolist(), "size": np.median(sizes, axis=0).tolist(),
                       **({"focals": [min(focals), max(focals)]} if focals else {})}}


def configured(metainfo: dict, config: Any) -> dict:
    """metainfo with the focal length at the network's input of a configuration."""
    known = metainfo["camera"]
    focal = known["matrix"][0][0] * config.dataset_config.input_res_train[0] / known["size"][0]
    return {**metainfo, "camera": {**known, "focal": focal}}


def check_same(ours: dict, theirs: dict) -> None:
    """Raise UserError unless a data set's metainfo has a model's additions; another camera is no error, see placed."""


def notes(metainfo: dict) -> tuple[list[str], list[str]]:
    """(remarks, warnings) about a data set's metainfo: its camera."""
    known = metainfo["camera"]
    (fx, _, cx, _), (_, fy, cy, _), _ = known["matrix"]
    width, height = known["size"]
    at_input = f", {known['focal']:.0f} pixels at the network's input" if "focal" in known else ""
    return [f"camera: focal length {fx:.1f} and {fy:.1f} pixels in images of {width:.0f}x{height:.0f}, center "
            f"{cx:.1f}, {cy:.1f}{at_input}"], _spread(known)


def _spread(known: dict) -> list[str]:
    """A warning in a list if the images of a data set have different cameras."""
    low, high = known.get("focals", (1, 1))
    return [f"the images have different cameras, with focal lengths of {low:.3f} to {high:.3f} of their width, but "
            "depth is learned for one: train on images of one camera"] if high / low - 1 > TOLERANCE else []


def camera_note(metainfo: dict) -> str:
    """A sentence on the camera of images without calibration."""
    known = metainfo["camera"]
    share = known["matrix"][0][0] / known["size"][0]
    return (f"images without calibration have the training's camera: a focal length of {share:.3f} of their width "
            "(--calib gives another one)")


def placed(view: View, calib: Any, description: dict, options: Any) -> View:
    """The View of an image with its camera: calib [3, 4], or if it is None the training's, as far as it is known.

    With depth_by_focal of options, an eval_config, depths are multiplied by the ratio of the focal lengths at the
    network's input, this image's to the training's; else a ratio other than 1 is a warning.
    """
    matrix = default_calib(description["camera"], view) if calib is None else np.asarray(calib, np.float64)
    input_width = view.out_hw[1] * description["down_ratio"]
    focal = matrix[0, 0] * view.scale * input_width / view.width
    ratio = float(focal / description["camera"].get("focal", focal))
    if abs(ratio - 1) > TOLERANCE and not options.depth_by_focal:
        warn_of_focal(round(focal / ratio), round(focal))
    return dataclasses.replace(view, camera=matrix, depth_factor=ratio if options.depth_by_focal else 1.0)


def default_calib(known: dict, view: View) -> np.ndarray:
    """A data set's camera for an image without calibration: its focal length relative to the image's width, [3, 4]."""
    matrix, (width, height) = np.array(known["matrix"], np.float64), known["size"]
    zoom = view.width / view.scale / width
    matrix[:2] *= zoom
    matrix[1, 2] = view.center[1] / view.scale + zoom * (known["matrix"][1][2] - height / 2)
    return matrix


@functools.cache
def warn_of_focal(trained: int, focal: int) -> None:
    """Warn of another focal length than the training's, once for each training; `focal` is the first one that differs.
    """
    percent = round(100 * abs(trained / max(focal, 1) - 1))
    LOG.warning(f"warning: the focal length is {focal} pixels at the network's input, and {trained} in training: "
                f"depths are off by about {percent} %; if the calibration is that of an image of this size, "
                "depth_by_focal true scales them")
