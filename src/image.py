"""Geometry, colour and gaussians: pure functions on NumPy arrays.

Images are BGR uint8 [H, W, 3] as OpenCV reads them. Boxes are [x1, y1, x2, y2]. Sources: the original's
utils/image.py and datasets/sample/ctdet.py.
"""
import contextlib
import io
import math
import struct
import warnings

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from src.extensions import extension

# BT.601 grey from BGR, as cv2.cvtColor computes it.
GREY_WEIGHTS = np.array([0.114, 0.587, 0.299])
COLOR_JITTER = 0.4
LIGHTING_STD = 0.1
MSRA_SIGMA = 2
LARGEST = 178956970  # pixels; Pillow takes no more
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

# The sizes of images are checked here, for all threads; Pillow's own warning would come besides.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class UnknownFormat(ValueError):
    """Bytes that are no image of the FORMATS."""


class TooManyPixels(ValueError):
    """An image that is larger than it may be."""


# How an image is turned by its EXIF orientation, and back.
TURNS = {
    2: lambda image: image[:, ::-1], 3: lambda image: image[::-1, ::-1], 4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2), 6: lambda image: np.rot90(image, -1),
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1], 8: lambda image: np.rot90(image),
}
TURNED_BACK = {6: 8, 8: 6}  # the others undo themselves
MAGIC = (b"\xff\xd8", b"\x89PNG", b"BM", b"RIFF")  # first bytes of what OpenCV decodes as the original does: JPEG, PNG, BMP, WebP
MAY_BE_TURNED = (b"Exif", b"EXIF", b"eXIf", b"II*", b"MM\0*")  # bytes that a file with an orientation has


def decode_image(data, size=None):
    """Encoded bytes -> BGR uint8 [H, W, 3], turned as the EXIF tag says. Raises ValueError if they are no image.

    With size (width, height), what an annotation file says, the image stays unturned if only that has this size, and it is a
    ValueError if neither has.
    """
    data = bytes(data)
    pixels = _decode_opencv(data) if data.startswith(MAGIC) else _decode_pillow(data)
    orientation = read_orientation(data)
    turned = TURNS[orientation](pixels) if orientation in TURNS else pixels
    if size and turned.shape[1::-1] != tuple(size):
        if pixels.shape[1::-1] != tuple(size):
            raise ValueError(f"the image is {turned.shape[1]}x{turned.shape[0]}, its entry in the annotation file says {size[0]}x{size[1]}")
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


def from_pillow(opened):
    """A Pillow image -> BGR uint8 [H, W, 3], unturned; of 16 bits a channel the upper 8 count."""
    if opened.mode.startswith("I"):  # 16 bits, which Pillow keeps in 16 or 32
        grey = np.asarray(opened)
        grey = (np.clip(grey, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(np.asarray(opened.convert("RGB"))[:, :, ::-1])


@contextlib.contextmanager
def open_image(data):
    """A file's bytes as a Pillow image; whatever Pillow says of them in the block becomes a ValueError."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            yield opened
    except UnidentifiedImageError as error:
        raise UnknownFormat("not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"it has more than {LARGEST} pixels") from error
    except TooManyPixels:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        raise ValueError(str(error) or type(error).__name__) from error


def read_orientation(data):
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


def decode_whole_image(data, size=None, max_pixels=LARGEST):
    """decode_image, but ValueError also if the bytes are not the whole image, or one of more than max_pixels pixels.

    OpenCV alone fills a truncated one with grey. Nothing is decoded before the size is known to what decodes it: Pillow's for all formats
    but those in which OpenCV reads its size from the same place.
    """
    with open_image(data) as opened:
        check_pixels(opened.size, max_pixels)
        check_pixels(_stated_size(data), max_pixels)
        opened.load()
        loaded = opened.size
    image = decode_image(data, size)
    if sorted(image.shape[:2]) != sorted(loaded):
        raise ValueError(f"its header says {loaded[0]}x{loaded[1]}, and it holds {image.shape[1]}x{image.shape[0]}")
    return image


def read_picture(path, size=None, max_pixels=LARGEST):
    """An image file as BGR uint8 [H, W, 3]. Raises OSError, or ValueError as decode_whole_image, with its arguments."""
    with open(path, "rb") as file:
        return decode_whole_image(file.read(), size, max_pixels)


def read_size(path):
    """(width, height) that read_picture gives, from the file's header; None if that cannot be read."""
    try:
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as opened:
            return opened.size[::-1] if _orientation(opened) > 4 else opened.size
    except Exception:  # Pillow raises many kinds; read_picture says which
        return None


def check_pixels(size, max_pixels):
    """Raise ValueError if an image of size (width, height) has more than max_pixels pixels."""
    if size[0] * size[1] > max_pixels:
        raise TooManyPixels(f"it has {size[0]}x{size[1]} pixels, more than {max_pixels}")


def _stated_size(data):
    """(width, height) where OpenCV reads it, at a fixed place, in PNG and BMP files; (0, 0) for others."""
    if data.startswith(b"\x89PNG"):
        return struct.unpack(">II", data[16:24].ljust(8, b"\0"))
    if data.startswith(b"BM"):
        return tuple(map(abs, struct.unpack("<ii", data[18:26].ljust(8, b"\0"))))
    return 0, 0


def without_orientation(data):
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
    kept, place = [data[:2]], 2
    while data[place : place + 1] == b"\xff" and data[place + 1] not in (0xDA, 0xD9):
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] != 0xE1:
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def affine_matrix(center, size, rotation, out_size, inverse=False):
    """Map of a region of an image onto an output raster.

    Args: center (x, y) of the region; size its width, or (width, height), of which only the width counts (the scale
    is the same along both axes); rotation in degrees; out_size (width, height) in pixels. Returns float64 [2, 3].
    The three points are float32 and solved for by OpenCV as in the original, to get its last digits.
    """
    region_width = np.atleast_1d(np.asarray(size, np.float32))[0]
    out_w, out_h = out_size
    angle = np.pi * rotation / 180
    up = np.array([np.sin(angle), -np.cos(angle)]) * (region_width * 0.5)
    src = _three_points(np.asarray(center, np.float32), up)
    dst = _three_points(np.array([out_w * 0.5, out_h * 0.5], np.float32), np.array([0, out_w * -0.5], np.float32))
    return cv2.getAffineTransform(dst, src) if inverse else cv2.getAffineTransform(src, dst)


def warp(image, matrix, out_size):
    """Resample image [H, W, 3] uint8 by a [2, 3] matrix of affine_matrix; outside it is black. Returns [h, w, 3]."""
    if max(abs(matrix[0, 1]), abs(matrix[1, 0])) > 1e-9:
        return cv2.warpAffine(image, matrix, tuple(out_size), flags=cv2.INTER_LINEAR)
    inverse = cv2.invertAffineTransform(matrix)
    resample = extension("resample").resample
    return resample(np.ascontiguousarray(image), inverse[0, 0], inverse[0, 2], inverse[1, 1], inverse[1, 2], *out_size)


def _three_points(center, up):
    """The centre, the point `up` away from it, and the one that makes a right angle there."""
    points = np.zeros((3, 2), np.float32)
    points[0] = center
    points[1] = center + up
    side = points[0] - points[1]
    points[2] = points[1] + np.array([-side[1], side[0]], np.float32)
    return points


def transform_points(points, matrix):
    """Apply a [2, 3] matrix to points [..., 2]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def transform_boxes(boxes, matrix):
    """Boxes [M, 4] -> the boxes around their four transformed corners [M, 4], float32."""
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    corners = transform_points(corners, matrix)
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def flip_boxes(boxes, width):
    """Boxes [M, 4] of the mirrored image; pixel x goes to width - 1 - x, as in the original."""
    flipped = boxes.copy()
    flipped[:, [0, 2]] = width - boxes[:, [2, 0]] - 1
    return flipped


def crop_border(border, size):
    """The margin, at most `border`, that a random crop centre keeps from the edges of a side of `size` pixels."""
    divisor = 1
    while size - border // divisor <= border // divisor:
        divisor *= 2
    return border // divisor


def draw_crop(rng, center, size, image_size, dataset_config):
    """The random view of one training image.

    Args: center (x, y) and size (longest side) of the whole image; image_size (width, height); dataset_config's
    rand_crop, scale, shift, aug_rot, rotate, flip_prop. Returns center, size, rotation in degrees, flip (bool); the
    center is that of the image before it is mirrored.
    """
    width, height = image_size
    center = np.array(center, np.float32)
    if dataset_config.rand_crop:
        factors = np.arange(1 - dataset_config.scale, 1 + dataset_config.scale, 0.1)
        size = size * (rng.choice(factors) if len(factors) else 1.0)  # scale 0 is no scaling
        border_x = crop_border(128, width)
        border_y = crop_border(128, height)
        center[0] = rng.integers(border_x, width - border_x)
        center[1] = rng.integers(border_y, height - border_y)
    else:
        shift, scale = dataset_config.shift, dataset_config.scale
        center += size * np.clip(rng.standard_normal(2) * shift, -2 * shift, 2 * shift)
        size = size * np.clip(rng.standard_normal() * scale + 1, 1 - scale, 1 + scale)
    rotation = 0.0
    if rng.random() < dataset_config.aug_rot:
        limit = dataset_config.rotate
        rotation = float(np.clip(rng.standard_normal() * limit / 2, -limit, limit))
    flip = bool(rng.random() < dataset_config.flip_prop)
    return center, size, rotation, flip


def draw_color(rng):
    """The random colour change of one image: the three steps in their order with their factors, and three lighting draws."""
    steps = [("brightness", "contrast", "saturation")[i] for i in rng.permutation(3)]
    factors = 1.0 + rng.uniform(-COLOR_JITTER, COLOR_JITTER, 3)
    return list(zip(steps, factors)), rng.normal(scale=LIGHTING_STD, size=3)


def color_matrix(steps, lighting, mean_grey, eig_val, eig_vec):
    """Colour augmentation as one affine map of the colour vector: float64 [3, 4] on values in [0, 1].

    Contrast blends with the image's mean grey, saturation with the pixel's own grey, both of the image before any
    step, as in the original. Args: steps [(name, factor)] in order; lighting three draws, multiplied with eig_val
    and projected by eig_vec; mean_grey of the image.
    """
    matrix = np.hstack([np.eye(3), np.zeros((3, 1))])
    for name, factor in steps:
        matrix *= factor
        if name == "contrast":
            matrix[:, 3] += (1 - factor) * mean_grey
        elif name == "saturation":
            matrix[:, :3] += (1 - factor) * GREY_WEIGHTS
    matrix[:, 3] += np.asarray(eig_vec) @ (np.asarray(eig_val) * lighting)
    return matrix


def normalizing_matrix(matrix, mean, std):
    """A [3, 4] colour map on [0, 1] -> the map from uint8 values to normalised ones."""
    matrix = np.array(matrix, np.float64)
    matrix[:, :3] /= 255
    matrix[:, 3] -= mean
    return matrix / np.asarray(std, np.float64)[:, None]


def apply_color(image, matrix):
    """uint8 [H, W, 3] through a [3, 4] colour map -> float32 [3, H, W]."""
    out = cv2.transform(image.astype(np.float32), matrix)
    return np.ascontiguousarray(out.transpose(2, 0, 1))


def mean_grey(image):
    """Mean grey of a uint8 image, in [0, 1]."""
    return float(GREY_WEIGHTS @ np.array(cv2.mean(image)[:3])) / 255


def gaussian_radius(height, width, min_overlap=0.7):
    """How far a corner may be off while the box still overlaps the true one by min_overlap; pixels, float.

    The original's formula: two of its three quadratic roots are divided by 2 instead of 2 a. It is kept, since every
    published number was trained with it.
    """
    total, area = height + width, height * width
    c1 = area * (1 - min_overlap) / (1 + min_overlap)
    r1 = (total + math.sqrt(total**2 - 4 * c1)) / 2
    r2 = (2 * total + math.sqrt(4 * total**2 - 16 * (1 - min_overlap) * area)) / 2
    b3 = -2 * min_overlap * total
    r3 = (b3 + math.sqrt(b3**2 - 16 * min_overlap * (min_overlap - 1) * area)) / 2
    return min(r1, r2, r3)


def gaussian_kernel(radius, sigma):
    """Unnormalised gaussian, float64 [2 radius + 1, 2 radius + 1], 1 in the middle."""
    axis = np.arange(-radius, radius + 1, dtype=np.float64)
    kernel = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * sigma * sigma))
    kernel[kernel < np.finfo(np.float64).eps] = 0
    return kernel


def _overlap(shape, x, y, radius):
    """Where a kernel of that radius around (x, y) meets a map of that shape: slices of the map and of the kernel."""
    height, width = shape
    left, right = min(x, radius), min(width - x, radius + 1)
    top, bottom = min(y, radius), min(height - y, radius + 1)
    on_map = np.s_[y - top : y + bottom, x - left : x + right]
    on_kernel = np.s_[radius - top : radius + bottom, radius - left : radius + right]
    return on_map, on_kernel


def draw_gaussian(heatmap, x, y, kernel):
    """Raise heatmap [H, W] in place to the kernel centred on the pixel (x, y) inside it."""
    on_map, on_kernel = _overlap(heatmap.shape, x, y, kernel.shape[0] // 2)
    np.maximum(heatmap[on_map], kernel[on_kernel], out=heatmap[on_map], casting="same_kind")


def draw_dense_value(value_map, heatmap, x, y, kernel, value):
    """Write value [D] into value_map [D, H, W] in place where the kernel is at least heatmap [H, W] (draw_dense_reg)."""
    on_map, on_kernel = _overlap(heatmap.shape, x, y, kernel.shape[0] // 2)
    # float64 kernel against float32 heatmap, as in the original: which pixels pass depends on it.
    wins = kernel[on_kernel] >= heatmap[on_map]
    value_map[(slice(None), *on_map)][:, wins] = np.asarray(value, np.float32)[:, None]
