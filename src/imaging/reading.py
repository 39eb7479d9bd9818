"""Encoded images -> arrays: reading, turning as the file says, limits.

Images are BGR uint8 [H, W, 3] as OpenCV reads them.
"""
import contextlib
import io
import warnings
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from .encoded import check_effort, strip_metadata
from .headers import FORMATS, read_header
from .headers import UnknownFormat as UnknownFormat

LARGEST = 178956970  # pixels; Pillow takes no more

# The sizes of images are checked here, for all threads; Pillow's own warning would come besides.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class TooManyPixels(ValueError):
    """An image that is larger than it may be."""


class WrongSize(ValueError):
    """An image of another size than its entry in the annotation file says."""

    def __init__(self, actual: tuple[int, int], stated: tuple[int, int]):
        super().__init__("the image is {}x{}, its entry in the annotation file says {}x{}".format(*actual, *stated))


# How an image is turned by its orientation.
TURNS = {
    1: lambda image: image, 2: lambda image: image[:, ::-1], 3: lambda image: image[::-1, ::-1], 4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2), 6: lambda image: np.rot90(image, -1),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1], 8: lambda image: np.rot90(image),
}


def decode_image(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Encoded bytes -> BGR uint8 [H, W, 3], turned as the file says. Raises ValueError if they are no image.

    With size (width, height), what an annotation file says, the image stays unturned if only that has this size, and it is a
    WrongSize, a ValueError, if neither has.
    """
    data = bytes(data)
    header = read_header(io.BytesIO(data))
    return _turn(_decode(strip_metadata(data, header), header), header, size)


def decode_whole_image(data: bytes, size: tuple[int, int] | None = None, max_pixels: int = LARGEST) -> np.ndarray:
    """decode_image, but ValueError also if the bytes are not the whole image, one of more than max_pixels pixels, or one that takes far
    longer, or more memory, than its pixels do: nothing is decoded before that is known.

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


def _turn(pixels, header, size):
    """Pixels as they are stored -> as they are shown, or as decode_image's size says."""
    if pixels.shape[1::-1] != header.size:
        raise ValueError("its header says {}x{}, and it holds {}x{}".format(*header.size, *pixels.shape[1::-1]))
    turned = _size_as_stated(header, size) == header.shown_size
    return np.ascontiguousarray(TURNS[header.orientation](pixels) if turned else pixels)


def _size_as_stated(header, size):
    """The size of an image as it is shown or, if only that is `size`, as it is stored. Raises WrongSize if neither is."""
    if size and tuple(size) not in (header.shown_size, header.size):
        raise WrongSize(header.shown_size, size)
    return tuple(size or header.shown_size)


def _decode(data, header):
    """The pixels of what strip_metadata gives: of a JPEG OpenCV's, as in the original, of all else Pillow's."""
    if header.format != "JPEG":
        with _opened(data, header) as opened:
            return _gray(_gray_values(opened, header.levels), *header.levels) if header.levels else from_pillow(opened)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # more pixels than OpenCV takes
        raise ValueError(f"OpenCV: {error.err}") from error
    if pixels is None:
        raise ValueError("not an image that OpenCV can read")
    return pixels


def _gray_values(opened, levels):
    """The values [H, W] of a Pillow image, which keeps unsigned ones of 32 bits as signed ones, and signed ones of 8 as unsigned."""
    values = np.asarray(opened)
    if values.dtype == np.int32 and max(levels) > 2**31 - 1:
        return values.view(np.uint32)
    return values.view(np.int8) if values.dtype == np.uint8 and min(levels) < 0 else values


def _gray(values, black, white):
    """Gray values [H, W] -> BGR uint8 [H, W, 3]: those from black to white, which may be the smaller one, are divided into 256 steps."""
    least, most = min(black, white), max(black, white)
    span = most - least + np.issubdtype(values.dtype, np.integer)  # of whole numbers the last one has a step, too
    with np.errstate(invalid="ignore", over="ignore"):
        steps = values.astype(np.float32)  # in place from here: large images
        steps -= least
        steps *= 256 / span
    steps = np.nan_to_num(steps, copy=False).clip(0, 255, out=steps).astype(np.uint8)
    return cv2.cvtColor(steps if black < white else 255 - steps, cv2.COLOR_GRAY2BGR)


def from_pillow(opened: Image.Image) -> np.ndarray:
    """A Pillow image -> BGR uint8 [H, W, 3], unturned; of 16 bits a channel the upper 8 count. Raises ValueError for values of more."""
    if opened.mode.startswith(("I", "F")):  # 16 bits, which Pillow keeps in 16 or 32
        values = np.asarray(opened)
        if opened.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise ValueError(f"nobody knows which values of a Pillow image of mode {opened.mode} are black and white; convert it to 8 bits")
        return _gray(values, 0, 65535)
    return cv2.cvtColor(np.asarray(opened.convert("RGB")), cv2.COLOR_RGB2BGR)


@contextlib.contextmanager
def _opened(data, header):
    """What strip_metadata gives as a Pillow image; whatever Pillow says of it in the block becomes a ValueError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.size != header.size:
                raise ValueError("its header says {}x{}, and it holds {}x{}".format(*header.size, *opened.size))
            yield opened
    except UnidentifiedImageError as error:
        raise ValueError("damaged, or of a kind that Pillow cannot read") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"it has more than {LARGEST} pixels") from error
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ValueError(str(error) or type(error).__name__) from error


def read_image(path: str, size: tuple[int, int] | None = None, max_pixels: int = LARGEST) -> np.ndarray:
    """An image file as BGR uint8 [H, W, 3]. Raises OSError, or ValueError as decode_whole_image, with its arguments."""
    with open(path, "rb") as file:
        return decode_whole_image(file.read(), size, max_pixels)


def header_size(data: bytes | BinaryIO, size: tuple[int, int] | None = None, max_pixels: int = LARGEST) -> tuple[int, int]:
    """(width, height) of what decode_whole_image gives of a file, or its bytes, from the header alone. Raises ValueError as that does, but
    for what only decoding finds."""
    header = read_header(io.BytesIO(data) if isinstance(data, bytes) else data)
    check_pixels(header.size, max_pixels)
    return _size_as_stated(header, size)


def read_size(path: str) -> tuple[int, int] | None:
    """(width, height) that read_image gives, from the file's header; None if that cannot be read."""
    try:
        return read_sizes(path)[0]
    except (OSError, ValueError):  # read_image says which
        return None


def read_sizes(path: str) -> list[tuple[int, int]]:
    """The sizes (width, height) that read_image can give, from the file's header: first as the image is shown, then, if that lays it on
    its side, as it is stored. Raises OSError, or ValueError if the header cannot be read."""
    with open(path, "rb") as file:
        header = read_header(file)
    return [header.shown_size, header.size] if header.orientation > 4 else [header.size]


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raise ValueError if an image of size (width, height) has more than max_pixels pixels."""
    if size[0] * size[1] > max_pixels:
        raise TooManyPixels(f"it has {size[0]}x{size[1]} pixels, more than {max_pixels}")


def without_orientation(data: bytes) -> bytes:
    """The bytes of a file whose pixels are to be read unturned -> bytes with the same pixels and no orientation."""
    return strip_metadata(data, read_header(io.BytesIO(data)))
