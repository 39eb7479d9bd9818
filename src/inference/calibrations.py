"""The cameras of images for models that need one: the option --calib."""
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from ..core.errors import UserError
from ..imaging.camera import check_calib, read_calib
from ..tasks import task_of

USAGE = ("FILE (KITTI's with P2:, JSON, or numbers), a folder with such a file for each image (<name>.txt), "
         "fx fy cx cy, or 12 numbers")


def calibrations(values: Sequence[str] | None, description: dict) -> Callable[[str], np.ndarray | None]:
    """A function: an image's path -> its calibration [3, 4], from the values of --calib, or None without them.

    With a folder it raises ValueError for an image without a valid file. Raises UserError for invalid values, or if a
    model with this description needs no camera.
    """
    if not values:
        return lambda path: None
    if not task_of(description).results.camera_note(description):
        raise UserError("--calib is for models with 3D boxes (task ddd); leave it out")
    if len(values) == 1 and os.path.isdir(values[0]):
        return functools.partial(_of_image, values[0])
    calib = read_calib(values[0]) if len(values) == 1 and not _is_number(values[0]) else parse_calib(values)
    return lambda path: calib


def parse_calib(words: Sequence[str]) -> np.ndarray:
    """A calibration [3, 4] from numbers, fx, fy, cx, cy or 12. Raises UserError."""
    numbers = [word for text in words for word in text.replace(",", " ").split()]
    if wrong := [word for word in numbers if not _is_number(word)]:
        raise UserError(f"--calib: {wrong[0]!r} is neither a file nor a number; expected {USAGE}")
    if len(numbers) not in (4, 12):
        raise UserError(f"--calib has {len(numbers)} numbers; expected {USAGE}")
    try:
        return check_calib([float(word) for word in numbers])
    except UserError as error:
        raise UserError(f"--calib: {error}") from error


def _is_number(text: str) -> bool:
    try:
        return bool(text.strip()) and float(text.split(",")[0]) is not None
    except ValueError:
        return False


def _of_image(folder: str, path: str) -> np.ndarray:
    """The calibration of an image in a folder of files with the images' names."""
    try:
        return read_calib(os.path.join(folder, f"{os.path.splitext(os.path.basename(path))[0]}.txt"))
    except UserError as error:
        raise ValueError(str(error)) from error
