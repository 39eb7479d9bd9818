"""Encoded images -> arrays: reading, turning as EXIF says, limits.

Images are BGR uint8 [H, W, 3] as OpenCV reads them.
"""
import contextlib
import io
import struct
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

LARGEST = 178956970  # pixels; Pillow takes no more
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# The sizes of images are checked here, for all threads; Pillow's own warning would come besides.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnknownFormat(ValueError):
    """Bytes that are no image of the FORMATS."""


class TooManyPixels(ValueError):
    """An image that is larger than it may be."""


class WrongSize(ValueError):
    """An image of another size than its entry in the annotation file says."""

    def __init__(self, actual: tuple[int, int], stated: tuple[int, int]):
        super().__init__("the image is {}x{}, its entry in the annotation file says {}x{}".format(*actual, *stated))


# How an image is turned by its EXIF orientation, and back.
TURNS = {
    2: lambda image: image[:, ::-1], 3: lambda image: image[::-1, ::-1], 4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2), 6: lambda image: np.rot90(image, -1),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1], 8: lambda image: np.rot90(image),
}
TURNED_BACK = {6: 8, 8: 6}  # the others undo themselves
MAGIC = (b"\xff\xd8", b"\x89PNG", b"BM", b"RIFF")  # first bytes of what OpenCV decodes as the original does: JPEG, PNG, BMP, WebP
MAY_BE_TURNED = (b"Exif", b"EXIF", b"eXIf", b"II*", b"MM\0*")  # bytes that a file with an orientation has


def decode_image(data: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Encoded bytes -> BGR uint8 [H, W, 3], turned as the EXIF tag says. Raises ValueError if they are no image.

    With size (width, height), what an annotation file says, the image stays unturned if only that has this size, and it is a
    WrongSize, a ValueError, if neither has.
    """
    data = bytes(data)
    pixels = _decode_opencv(data) if data.startswith(MAGIC) else _decode_pillow(data)
    orientation = read_orientation(data)
    turned = TURNS[orientation](pixels) if orientation in TURNS else pixels
    if size and turned.shape[1::-1] != tuple(size):
        if pixels.shape[1::-1] != tuple(size):
            raise WrongSize(turned.shape[1::-1], size)
        turned = pixels
    return np.ascontiguousarray(turned)


def _decode_opencv(data):
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:  # more pixels than OpenCV takes
        raise ValueError(f"OpenCV: {error.err}") from error
    if pixels is None:
        raise ValueError("not an image that OpenCV can read")
    return pixels


def _decode_pillow(data):
    with open_image(data) as opened:
        return from_pillow(opened)


def from_pillow(opened: Image.Image) -> np.ndarray:
    """A Pillow image -> BGR uint8 [H, W, 3], unturned; of 16 bits a channel the upper 8 count."""
    if opened.mode.startswith("I"):  # 16 bits, which Pillow keeps in 16 or 32
        gray = np.asarray(opened)
        gray = (np.clip(gray, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        return cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(np.asarray(opened.convert("RGB"))[:, :, ::-1])


@contextlib.contextmanager
def open_image(data: bytes | BinaryIO) -> Iterator[Image.Image]:
    """A file, or its bytes, as a Pillow image; whatever Pillow says of it in the block becomes a ValueError."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS) as opened:
            yield opened
    except UnidentifiedImageError as error:
        raise UnknownFormat("not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"it has more than {LARGEST} pixels") from error
    except (TooManyPixels, WrongSize):
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ValueError(str(error) or type(error).__name__) from error


def read_orientation(data: bytes) -> int:
    """The EXIF orientation of a file's bytes, 1 without one."""
    if not any(word in data for word in MAY_BE_TURNED):
        return 1
    try:
        with open_image(data) as opened:
            return _orientation(opened)
    except ValueError:  # damaged EXIF
        return 1


def _orientation(opened):
    """The EXIF orientation of a Pillow image, 1 without one: what is no number from 1 to 8, a text for one, is none."""
    value = opened.getexif().get(0x0112, 1)
    return int(value) if value in TURNS else 1


def decode_whole_image(data: bytes, size: tuple[int, int] | None = None, max_pixels: int = LARGEST) -> np.ndarray:
    """decode_image, but ValueError also if the bytes are not the whole image, or one of more than max_pixels pixels.

    OpenCV alone fills a truncated one with gray. Nothing is decoded before the size is known to what decodes it: Pillow's for all formats
    but those in which OpenCV reads its size at the same offset.
    """
    with open_image(data) as opened:
        check_pixels(opened.size, max_pixels)
        check_pixels(_stated_size(data), max_pixels)
        _check_chunks(data)
        opened.load()
        loaded = opened.size
    image = decode_image(data, size)
    if sorted(image.shape[:2]) != sorted(loaded):
        raise ValueError(f"its header says {loaded[0]}x{loaded[1]}, and it holds {image.shape[1]}x{image.shape[0]}")
    return image


def read_image(path: str, size: tuple[int, int] | None = None, max_pixels: int = LARGEST) -> np.ndarray:
    """An image file as BGR uint8 [H, W, 3]. Raises OSError, or ValueError as decode_whole_image, with its arguments."""
    with open(path, "rb") as file:
        return decode_whole_image(file.read(), size, max_pixels)


def header_size(data: bytes | BinaryIO, size: tuple[int, int] | None = None, max_pixels: int = LARGEST) -> tuple[int, int]:
    """(width, height) of what decode_whole_image gives of a file, or its bytes, from the header alone. Raises ValueError as that does, but
    for what only decoding finds."""
    with open_image(data) as opened:
        check_pixels(opened.size, max_pixels)
        turned = opened.size[::-1] if _orientation(opened) > 4 else opened.size
        if size and turned != tuple(size):
            if opened.size != tuple(size):
                raise WrongSize(turned, size)
            turned = opened.size
        return turned


def read_size(path: str) -> tuple[int, int] | None:
    """(width, height) that read_image gives, from the file's header; None if that cannot be read."""
    sizes = read_sizes(path)
    return sizes[0] if sizes else None


def read_sizes(path: str) -> list[tuple[int, int]] | None:
    """The sizes (width, height) that read_image can give, from the file's header: first as EXIF turns the image, then, if that lays it on
    its side, as it is stored. None if the header cannot be read."""
    try:
        with open(path, "rb") as file, open_image(file) as opened:
            return [opened.size[::-1], opened.size] if _orientation(opened) > 4 else [opened.size]
    except (OSError, ValueError):  # read_image says which
        return None


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Raise ValueError if an image of size (width, height) has more than max_pixels pixels."""
    if size[0] * size[1] > max_pixels:
        raise TooManyPixels(f"it has {size[0]}x{size[1]} pixels, more than {max_pixels}")


def _stated_size(data):
    """(width, height) where OpenCV reads it, at a fixed offset, in PNG and BMP files; (0, 0) for others."""
    if data.startswith(b"\x89PNG"):
        return struct.unpack(">II", data[16:24].ljust(8, b"\0"))
    if data.startswith(b"BM"):
        return tuple(map(abs, struct.unpack("<ii", data[18:26].ljust(8, b"\0"))))
    return 0, 0


def _check_chunks(data):
    """Raise ValueError for a PNG file with a chunk that is longer than the file: OpenCV makes room for it, up to 4 GB, before it reads."""
    offset = 8 if data.startswith(b"\x89PNG") else len(data)
    while offset + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[offset : offset + 8])
        if offset + 12 + length > len(data):
            raise ValueError("a part of it is longer than the file")
        offset = len(data) if kind == b"IEND" else offset + 12 + length


def without_orientation(data: bytes) -> bytes:
    """The bytes of a file whose pixels are to be read unturned -> bytes without an orientation and with the same pixels.

    A JPEG loses its EXIF and XMP segments, which both may hold one; any other file is written anew as PNG.
    """
    if data.startswith(b"\xff\xd8"):
        bare = _without_metadata(data)
        if read_orientation(bare) == 1:
            return bare
    pixels = _decode_opencv(data) if data.startswith(MAGIC) else _decode_pillow(data)
    return cv2.imencode(".png", pixels)[1].tobytes()


def _without_metadata(data):
    """A JPEG's bytes without its EXIF and XMP segments, those of the kind APP1."""
    kept, offset = [data[:2]], 2
    while data[offset : offset + 1] == b"\xff" and data[offset + 1] not in (0xDA, 0xD9):
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        if data[offset + 1] != 0xE1:
            kept.append(data[offset:end])
        offset = end
    return b"".join([*kept, data[offset:]])
