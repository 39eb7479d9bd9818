"""Drawing on images: boxes with labels, images side by side."""
import colorsys
import functools
import math
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..core.backups import MARK
from ..core.console import LOG
from ..core.files import atomic_write
from .geometry import affine_matrix
from .labels import place_labels
from .view import View

WRITABLE = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MAX_SIDES = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}  # pixels, the limits of these formats
MAX_LABEL = 60  # characters
DIMMED = 0.6  # brightness of an image below its heatmap
SMALLEST_TEXT = 14  # pixels
SMALL = 400  # pixels of a longer side; images below are enlarged, so that labels do not hide their objects
MAX_STEM = 200  # bytes of a drawing's name; file systems allow 255, and its temporary name is longer


def class_color(label: Any) -> tuple[int, int, int]:
    """A color (BGR, 0-255) for a class; neighboring classes get very different ones."""
    red, green, blue = colorsys.hsv_to_rgb((0.61 * label + 0.02) % 1.0, 0.85, 0.95)
    return int(255 * blue), int(255 * green), int(255 * red)


def luminance(color: Any) -> float:
    """Relative luminance (WCAG 2) of a color (BGR, 0-255), in [0, 1]."""
    blue, green, red = (value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4
                        for value in np.array(color) / 255)
    return 0.0722 * blue + 0.7152 * green + 0.2126 * red


def drawing_side(image: np.ndarray) -> int:
    """The side in pixels that line widths and font sizes are relative to: the longer one.

    It is limited for panoramas, where text would be too large, and for huge images, where drawing would take too long.
    """
    height, width = image.shape[:2]
    return min(max(height, width), 4 * min(height, width), 6000)


def css_color(color: tuple[float, ...]) -> str:
    """A color (BGR, 0-255) as #rrggbb."""
    return "#{2:02x}{1:02x}{0:02x}".format(*map(round, color))


def draw_boxes(image: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray,
               texts: Sequence[str]) -> np.ndarray:
    """Draw boxes [M, 4] (pixels of the image) with scores [M], labels [M] and texts on a copy of a BGR uint8 image.

    Legible on any background: lines have a dark outline; texts are in black or white, whichever has more contrast, on
    the class's color. Those of higher scores are placed first.
    """
    canvas = image.copy()
    draw_frames(canvas, boxes, scores, labels)
    put_labels(canvas, boxes, scores, labels, texts)
    return canvas


def draw_frames(canvas: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
    """Draw the lines of boxes as in draw_boxes, those of higher scores on top, on the canvas."""
    side, thickness = drawing_side(canvas), line_thickness(canvas)
    order = np.argsort(scores, kind="stable")
    for (x1, y1, x2, y2), label in zip(whole_pixels(boxes[order], canvas), np.asarray(labels)[order].astype(int)):
        if side >= 200:
            cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 0, 0), thickness + 2, cv2.LINE_AA)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), class_color(label), thickness, cv2.LINE_AA)


def line_thickness(image: np.ndarray) -> int:
    """The thickness of lines on an image, in pixels."""
    side = drawing_side(image)
    return 1 if side < 200 else max(2, round(side / 250))


def whole_pixels(points: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Coordinates in whole pixels, not far outside the image, where OpenCV's integers overflow."""
    longest = max(image.shape[:2])
    return np.clip(points, -longest, 2 * longest).round().astype(int)


def put_labels(canvas: np.ndarray, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray,
               texts: Sequence[str]) -> None:
    """Write the texts of boxes [M, 4] with scores [M] and labels [M] on the canvas.

    Those of higher scores are placed first, by labels.place_labels. A line leads from a label to a box that it does not
    touch; a label without a place is left out.
    """
    corners, size = whole_pixels(boxes, canvas), max(SMALLEST_TEXT, round(drawing_side(canvas) / 55))
    order = np.argsort(scores, kind="stable")[::-1]
    masks = [text_mask(texts[index], size) for index in order]
    height, width = canvas.shape[:2]
    places = place_labels([(mask.shape[1], mask.shape[0]) for mask in masks], corners[order], (width, height))
    put = [(corners[index], mask, place, class_color(int(labels[index])))
           for index, mask, place in zip(order, masks, places) if place]
    for box, _, place, color in put:  # below all labels
        _lead(canvas, box, place, color)
    for _, mask, place, color in put:
        _put_label(canvas, mask, place, color)


def _lead(canvas: np.ndarray, box: np.ndarray, place: tuple[int, int, int, int], color: tuple[int, int, int]) -> None:
    """Draw a line from a label's place to the nearest point of its box, if they do not touch."""
    middle = np.array([(place[0] + place[2]) // 2, (place[1] + place[3]) // 2])
    if (np.maximum(place[:2] - box[2:], box[:2] - place[2:]) > 0).any():
        end = np.clip(middle, box[:2], box[2:])
        for ink, width in (((0, 0, 0), 3), (color, 1)):
            cv2.line(canvas, middle.tolist(), end.tolist(), ink, width, cv2.LINE_AA)


def _put_label(canvas: np.ndarray, mask: np.ndarray, place: tuple[int, int, int, int],
               color: tuple[int, int, int]) -> None:
    """Fill the rectangle with the color and write the mask's text on it, clipped to the canvas."""
    x1, y1, x2, y2 = place
    patch = canvas[y1:y2, x1:x2]
    ink = np.array((0, 0, 0) if luminance(color) > 0.179 else (255, 255, 255))  # where both have the same contrast
    cover = mask[: patch.shape[0], : patch.shape[1], None] / 255
    patch[:] = (np.array(color) * (1 - cover) + ink * cover).astype(np.uint8)


@functools.lru_cache(maxsize=512)
def text_mask(text: str, size: int) -> np.ndarray:
    """Render text of a height in pixels with a margin: uint8 [h, w], 255 for ink. Control characters become spaces."""
    text = text if len(text) <= MAX_LABEL else f"{text[: MAX_LABEL - 1]}…"
    text = "".join(character if character.isprintable() else " " for character in text)
    font = ImageFont.truetype(_font_file(is_east_asian(text)), size)
    ascent, descent = font.getmetrics()
    margin = max(2, size // 5)
    mask = Image.new("L", (math.ceil(font.getlength(text)) + 2 * margin, ascent + descent + margin))
    ImageDraw.Draw(mask).text((margin, margin // 2), text, 255, font)
    return np.asarray(mask)


def _font_file(east_asian: bool) -> str:
    """The path of a font: matplotlib's, or an installed one for Chinese, Japanese and Korean if available."""
    from matplotlib import get_data_path

    font = east_asian_font() if east_asian else None
    return font.fname if font else os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@functools.cache
def east_asian_font() -> Any:
    """matplotlib's entry of the first installed font with Chinese, Japanese and Korean, or None, with a warning."""
    from matplotlib import font_manager

    known = ("CJK", "Source Han", "WenQuanYi", "SimHei", "YaHei", "PingFang", "Droid Sans Fallback")
    for font in font_manager.fontManager.ttflist:
        if any(name in font.name for name in known):
            return font
    LOG.warning("no font with Chinese, Japanese and Korean characters is installed, so they are drawn as squares; "
                "install one, such as Debian's fonts-noto-cjk")
    return None


def is_east_asian(text: str) -> bool:
    """Whether a string has Chinese, Japanese or Korean characters."""
    return any(character > "\u2e7f" for character in text)


def overlay_heatmap(image: np.ndarray, heat: np.ndarray, view: View) -> np.ndarray:
    """Overlay a heatmap [C, h, w] in [0, 1] on its BGR image: the maximum over its channels, see light_up.

    view is the position of the heatmap in the image.
    """
    matrix = affine_matrix(view.center, view.width, 0, view.out_hw[::-1], inverse=True) / view.scale
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5  # centers of output pixels to centers of pixels
    height, width = image.shape[:2]
    return light_up(image, cv2.warpAffine(heat.max(0), matrix, (width, height), flags=cv2.INTER_LINEAR))


def light_up(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A BGR uint8 image [H, W, 3], dimmed, that turns white where heat [H, W] is 1: a color of no box and no object."""
    cover = heat.astype(np.float32).clip(0, 1) ** 0.75  # weak peaks stay visible
    return cv2.blendLinear(cv2.convertScaleAbs(image, alpha=DIMMED), np.full_like(image, 255), 1 - cover, cover)


def side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one size next to each other, panoramas below each other; BGR uint8."""
    return np.vstack(panels) if panels[0].shape[1] > 4 * panels[0].shape[0] else np.hstack(panels)


def captioned(image: np.ndarray, caption: str) -> np.ndarray:
    """An image below a line of text."""
    size = max(SMALLEST_TEXT, round(min(image.shape[1], drawing_side(image)) / 40))
    mask = text_mask(caption, size)[:, : image.shape[1]]
    strip = np.full((len(mask), image.shape[1], 3), 255, np.uint8)
    strip[:, : mask.shape[1]] -= mask[:, :, None]
    return np.vstack([strip, image])


def enlarged(image: np.ndarray) -> np.ndarray:
    """An image, by a whole factor larger if its longer side is below SMALL."""
    factor = -(-SMALL // max(image.shape[:2]))
    return image if factor <= 1 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)


def save_image(path: str, image: np.ndarray, ours: Callable[[str], bool] | None = None) -> None:
    """Write a BGR image, downscaled to the limit of its format if necessary, with a mark in a JPEG or PNG.

    The write is atomic, and an earlier file is backed up as in atomic_write. Raises OSError if writing fails.
    """
    if os.path.dirname(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    ending = os.path.splitext(path)[1]
    data = cv2.imencode(ending, fit_format(image, ending))[1].tobytes()
    with atomic_write(path, ours) as partial, open(partial, "wb") as file:
        file.write(with_mark(data))


def with_mark(data: bytes) -> bytes:
    """Add MARK to encoded image data, as a JPEG's comment or a PNG's software; other formats stay unchanged."""
    text = MARK.encode()
    if data[:2] == b"\xff\xd8":
        return data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:]
    if data[:8] == b"\x89PNG\r\n\x1a\n":  # followed by the 25 bytes of IHDR
        text = b"tEXtSoftware\0" + text
        return data[:33] + (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big") + data[33:]
    return data


def drawing_paths(names: Iterable[str]) -> list[str]:
    """Relative paths for the drawings of images with these names: the same names, made unique, inside one folder.

    Names with an extension that cannot be written get .png appended, and names in use a number before the extension.
    """
    taken: set[str] = set()
    paths = []
    for name in names:
        *folders, file = [segment for segment in name.split("/") if segment not in ("", ".", "..")] or ["image"]
        # A folder must not have a file's name.
        folders = [f"{folder}_" if folder.lower().endswith(WRITABLE) else folder for folder in folders]
        file = file if os.path.splitext(file)[1].lower() in WRITABLE else f"{file}.png"
        stem, ending = os.path.splitext(file)
        stem = stem[:MAX_STEM]
        while len(stem.encode(errors="surrogatepass")) > MAX_STEM:
            stem = stem[:-1]
        path, number = "/".join([*folders, stem + ending]), 0
        while path in taken:
            number += 1
            path = "/".join([*folders, f"{stem}.{number}{ending}"])
        taken.add(path)
        paths.append(path)
    return paths


def fit(image: np.ndarray, width: float, height: float) -> np.ndarray:
    """Scale an image by one factor to the largest size within width and height, at least one pixel."""
    zoom = min(width / image.shape[1], height / image.shape[0])
    size = [max(1, round(side * zoom)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC)


def fit_format(image: np.ndarray, ending: str) -> np.ndarray:
    """Downscale an image if it exceeds the limit of the file format with this extension."""
    longest = MAX_SIDES.get(ending.lower(), math.inf)
    return fit(image, longest, longest) if max(image.shape) > longest else image


def contact_sheet(images: Sequence[np.ndarray], columns: int, width: int) -> np.ndarray:
    """BGR images in rows with gaps, each scaled to fit into the given width and twice that height: one BGR image."""
    gap = 8
    scaled = [fit(image, width, 2 * width) for image in images]
    height = max(image.shape[0] for image in scaled)
    rows = -(-len(scaled) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for place, image in enumerate(scaled):
        y, x = gap + place // columns * (height + gap), gap + place % columns * (width + gap)
        sheet[y : y + image.shape[0], x : x + image.shape[1]] = image
    return sheet
