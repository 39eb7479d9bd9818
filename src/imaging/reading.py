"""Encoded images -> arrays: decoding, orientation, limits.

Images are BGR uint8 [H, W, 3], as in OpenCV.
"""
import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from .encoded import check_effort, strip_metadata
from .headers import FORMATS, Header, read_header
from .headers import UnknownFormat as UnknownFormat

LARGEST = 178956970  # pixels, Pillow's limit

# This module checks the sizes of images; Pillow would also warn. Set here, since it applies to all threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class TooManyPixels(ValueError):
    """An image with more pixels than allowed."""


class WrongSize(ValueError):
    """An image with another size than its annotation entry states."""

    def __init__(self, actual: tuple[int, int], stated: tuple[int, int]) -> None:
        super().__init__("the image is {}x{}, but its annotation states {}x{}".format(*actual, *stated))


# Stored -> displayed pixels, by orientation.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image, 2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1], 4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2), 6: lambda image: np.rot90(image, -1),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1], 8: lambda image: np.rot90(image),
}


def decode_image(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Encoded bytes -> BGR uint8 [H, W, 3], with the orientation applied. Raises ValueError if they are not an image.

    With size (width, height), as stated in an annotation file, the orientation is ignored if only the stored image has
    this size; WrongSize, a ValueError, is raised if neither has.
    """
    data = bytes(data)
    header = read_header(io.BytesIO(data))
    return _turn(_decode(strip_metadata(data, header), header), header, size)


def decode_whole_image(data: bytes, size: tuple[int, int] | None = None, max_pixels: int = LARGEST) -> np.ndarray:
    """decode_image that raises ValueError also for a truncated image, for more than max_pixels pixels, and for a file
    that takes far more time or memory to decode than its pixels justify. These are checked before decoding.

    OpenCV fills a truncated JPEG with gray, so Pillow decodes it first.
    """
    data = bytes(data)
    header = read_header(io.BytesIO(data))
    check_pixels(header.size, max_pixels)
    check_effort(data, header, max_pixels)
    bare = strip_metadata(data, header)
    if header.format == "JPEG":
        with _opened(bare, header) as opened:
            opened.load()
    return _turn(_decode(bare, header), header, size)


def _turn(pixels: np.ndarray, header: Header, size: tuple[int, int] | None) -> np.ndarray:
    """Apply the orientation to the stored pixels, unless decode_image's size is that of the stored image."""
    if pixels.shape[1::-1] != header.size:
        raise ValueError("its header states {}x{}, but it contains {}x{}".format(*header.size, *pixels.shape[1::-1]))
    turned = _size_as_stated(header, size) == header.shown_size
    return np.ascontiguousarray(TURNS[header.orientation](pixels) if turned else pixels)


def _size_as_stated(header: Header, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return the displayed size, or the stored size if only that equals `size`. Raises WrongSize if neither does."""
    if size and tuple(size) not in (header.shown_size, header.size):
        raise WrongSize(header.shown_size, size)
    width, height = size or header.shown_size
    return width, height


def _decode(data: bytes, header: Header) -> np.ndarray:
    """Decode the data that strip_metadata returns: JPEG by OpenCV, as in the original, other formats by Pillow."""
    if header.format != "JPEG":
        with _opened(data, header) as opened:
            levels = header.levels
            return _gray(_gray_values(opened, levels), *levels) if levels else from_pillow(opened)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # OpenCV's limit of pixels
        raise ValueError(f"OpenCV: {error.err}") from error
    if pixels is None:
        raise ValueError("OpenCV cannot decode the image")
    return pixels


def _gray_values(opened: Image.Image, levels: tuple[float, float]) -> np.ndarray:
    """The gray values [H, W] of a Pillow image, with the signedness of 32-bit and 8-bit values that Pillow ignores."""
    values = np.asarray(opened)
    if values.dtype == np.int32 and max(levels) > 2**31 - 1:
        return values.view(np.uint32)
    return values.view(np.int8) if values.dtype == np.uint8 and min(levels) < 0 else values


def _gray(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """Gray values [H, W] -> BGR uint8 [H, W, 3]: 256 steps from black to white, which may be the smaller value."""
    least, most = min(black, white), max(black, white)
    span = most - least + np.issubdtype(values.dtype, np.integer)  # the last integer is a step, too
    with np.errstate(invalid="ignore", over="ignore"):
        steps = values.astype(np.float32)  # in place from here, for large images
        steps -= least
        steps *= 256 / span
    steps = np.nan_to_num(steps, copy=False).clip(0, 255, out=steps).astype(np.uint8)
    return cv2.cvtColor(steps if black < white else 255 - steps, cv2.COLOR_GRAY2BGR)


def from_pillow(opened: Image.Image) -> np.ndarray:
    """A Pillow image -> BGR uint8 [H, W, 3] without applying the orientation; uses the upper 8 of 16 bits.

    Raises ValueError for values of more than 16 bits.
    """
    if opened.mode.startswith(("I", "F")):  # 16 bits, which Pillow stores in 16 or 32
        values = np.asarray(opened)
        if opened.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"it is unknown which values of a Pillow image of mode {opened.mode} are black and white; "
                             "convert it to 8 bits")
        return _gray(values, 0, 65535)
    return cv2.cvtColor(np.asarray(opened.convert("RGB")), cv2.COLOR_RGB2BGR)


@contextlib.contextmanager
def _opened(data: bytes, header: Header) -> Iterator[Image.Image]:
    """The data that strip_metadata returns as a Pillow image; Pillow's errors in the block become ValueErrors."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.size != header.size:
                raise ValueError("its header states {}x{}, but it contains {}x{}".format(*header.size, *opened.size))
            yield opened
    except UnidentifiedImageError as error:
        raise ValueError("damaged, or not supported by Pillow") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"it has more than {LARGEST} pixels") from error
    except Exception as error:  # Pillow raises many types for damaged files
        raise ValueError(str(error) or type(error).__name__) from error


def read_image(path: str, size: tuple[int, int] | None = None, max_pixels: int = LARGEST) -> np.ndarray:
    """Read an image file as BGR uint8 [H, W, 3]. Arguments and ValueErrors as in decode_whole_image; raises OSError."""
    with open(path, "rb") as file:
        return decode_whole_image(file.read(), size, max_pixels)


def header_size(data: bytes | BinaryIO, size: tuple[int, int] | None = None,
                max_pixels: int = LARGEST) -> tuple[int, int]:
    """Return the (width, height) that decode_whole_image would give for a file or its bytes, from the header alone.

    Raises the same ValueErrors, except those that only decoding finds.
    """
    header = read_header(io.BytesIO(data) if isinstance(data, bytes) else data)
    check_pixels(header.size, max_pixels)
    return _size_as_stated(header, size)


def read_size(path: str) -> tuple[int, int] | None:
    """Return the (width, height) of read_image's result, from the file's header; None if the header cannot be read."""
    try:
        return read_sizes(path)[0]
    except (OSError, ValueError):  # read_image reports it
        return None


def read_sizes(path: str) -> list[tuple[int, int]]:
    """Return the sizes (width, height) that read_image can give, from the file's header: the displayed size and, if
    the orientation swaps the sides, the stored size. Raises OSError, or ValueError if the header cannot be read."""
    with open(path, "rb") as file:
        header = read_header(file)
    return [header.shown_size, header.size] if header.orientation > 4 else [header.size]


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raise TooManyPixels if an image of size (width, height) has more than max_pixels pixels."""
    if size[0] * size[1] > max_pixels:
        raise TooManyPixels(f"it has {size[0]}x{size[1]} pixels, more than {max_pixels}")


def without_orientation(data: bytes) -> bytes:
    """Return a file's data with the same stored pixels and no orientation."""
    return strip_metadata(data, read_header(io.BytesIO(data)))
