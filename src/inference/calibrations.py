"""The cameras of images for models that need one: the option --calib."""
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np

from ..core.errors import UserError
from ..imaging.camera import check_calib, read_calib
from ..tasks import task_of

NUMBERS = "fx fy cx cy, or 12 numbers"
USAGE = ("FILE (KITTI's with P2:, JSON, or numbers), a folder with such a file for each image (<name>.txt), "
         f"{NUMBERS}")


def calibrations(values: Sequence[str] | None, description: dict) -> Callable[[str], np.ndarray | None]:
    """A function: an image's path -> its calibration [3, 4], from the values of --calib, or None without them.

    With a folder it raises ValueError for an image without a valid file. Raises UserError for invalid values, or if a
    model with this description needs no camera.
    """
    if not values:
        return lambda path: None
    require_camera(description, "--calib")
    if len(values) == 1 and os.path.isdir(values[0]):
        return functools.lru_cache(maxsize=1000)(functools.partial(_of_image, values[0]))
    names_file = len(values) == 1 and (os.path.exists(values[0]) or not _is_number(_words(values)[:1]))
    calib = read_calib(values[0]) if names_file else parse_calib(values)
    return lambda path: calib


def one_calibration(values: Sequence[str] | None, description: dict) -> np.ndarray | None:
    """The calibration [3, 4] of all images, from the values of --calib, or None without them. Raises UserError as
    calibrations does, also for a folder."""
    if values and len(values) == 1 and os.path.isdir(values[0]):
        raise UserError(f"--calib: {values[0]} is a folder; expected FILE, {NUMBERS}, for all images")
    return calibrations(values, description)("")


def require_camera(description: dict, option: str) -> None:
    """Raise UserError that names the option if a model with this description needs no camera."""
    if not task_of(description).results.camera_note(description):
        raise UserError(f"{option} is for models with 3D boxes (task ddd); leave it out")


def parse_calib(words: Sequence[str], option: str = "--calib", expected: str = USAGE) -> np.ndarray:
    """A calibration [3, 4] from numbers, fx, fy, cx, cy or 12. Raises UserError that names the option."""
    numbers = _words(words)
    if wrong := [word for word in numbers if not _is_number([word])]:
        raise UserError(f"{option}: {wrong[0][:50]!r} is not a number; expected {expected}")
    if len(numbers) not in (4, 12):
        raise UserError(f"{option} has {len(numbers)} numbers; expected {expected}")
    try:
        return check_calib([float(word) for word in numbers])
    except UserError as error:
        raise UserError(f"{option}: {error}") from error


def _words(texts: Sequence[str]) -> list[str]:
    """The parts of texts between spaces and commas."""
    return [word for text in texts for word in text.replace(",", " ").split()]


def _is_number(words: Sequence[str]) -> bool:
    """Whether words are a single number."""
    try:
        return len(words) == 1 and float(words[0]) is not None
    except ValueError:
        return False


def _of_image(folder: str, path: str) -> np.ndarray:
    """The calibration of an image in a folder of files with the images' names."""
    try:
        return read_calib(os.path.join(folder, f"{os.path.splitext(os.path.basename(path))[0]}.txt"))
    except UserError as error:
        raise ValueError(str(error)) from error
