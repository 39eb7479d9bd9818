"""Preview of a training batch: targets decoded and drawn on the network's input."""
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from ...imaging.drawing import captioned, contact_sheet, draw_frames, fit, light_up, put_labels
from .targets import Layout

TILE = 480  # pixels of an image's longer side
NO_CLASS = "no peak"  # label of targets whose center is not a peak of the heatmap


def denormalize(image: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """A network's input [3, H, W] float32 -> BGR uint8 [H, W, 3], clipped to black and white."""
    pixels = (image.transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)) * 255
    return np.ascontiguousarray(pixels.round().clip(0, 255).astype(np.uint8))


def decode_targets(targets: dict, layout: Layout, reg_offset: bool = True) -> np.ndarray:
    """Decode the boxes in the targets of one image: [M, 6] float32 x1, y1, x2, y2 in input pixels, 1, label.

    Args: targets {hm, ind, reg, reg_mask, wh} of targets.encode_targets; the targets.Layout; whether the offset is
    learned, otherwise centers are in the middle of their pixels. The label is the channel in which the heatmap is 1 at
    the center, layout.num_classes if there is none. If centers of several classes share a pixel, the targets do not
    define which box has which class; labels are assigned in order.
    """
    hm, width = targets["hm"], layout.out_size[0]
    boxes = []
    seen: dict[tuple[int, int], int] = {}
    for slot in np.flatnonzero(targets["reg_mask"]):
        y, x = divmod(int(targets["ind"][slot]), width)
        labels = np.flatnonzero(hm[:, y, x] == 1)
        if layout.cat_spec_wh:
            sizes = targets["wh"][slot].reshape(-1, 2)
            filled = np.flatnonzero(sizes.any(1))
            labels = np.intersect1d(labels, filled)
            size = sizes[labels[0] if len(labels) else filled[0] if len(filled) else 0]
        else:
            size = targets["wh"][:, y, x] if layout.dense_wh else targets["wh"][slot]
        earlier = seen[y, x] = seen.get((y, x), -1) + 1
        label = labels[min(earlier, len(labels) - 1)] if len(labels) else layout.num_classes
        center = np.array([x, y]) + (targets["reg"][slot] if reg_offset else 0.5)
        boxes.append([*(center - size / 2) * layout.down_ratio, *(center + size / 2) * layout.down_ratio, 1, label])
    return np.array(boxes, np.float32).reshape(-1, 6)


def show_heatmap(image: np.ndarray, hm: np.ndarray) -> np.ndarray:
    """Overlay the maximum of heatmaps [C, h, w] on a BGR image."""
    return light_up(image, cv2.resize(hm.max(0).astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR))


def names_of(boxes: np.ndarray, classes: Sequence[str]) -> list[str]:
    """The class names of boxes from decode_targets."""
    return [[*classes, NO_CLASS][int(label)] for label in boxes[:, 5]]


def draw_sample(image: np.ndarray, hm: np.ndarray, boxes: np.ndarray, texts: Sequence[str],
                draw_more: Callable[[np.ndarray, float], np.ndarray] | None = None) -> np.ndarray:
    """Draw an input (BGR uint8), its heatmaps and its boxes (decode_targets) with texts as one image of longer side
    TILE.

    draw_more(canvas, zoom) returns the canvas with what else the targets hold, in input pixels times zoom.
    """
    zoom = TILE / max(image.shape[:2])
    canvas = show_heatmap(fit(image, TILE, TILE), hm)
    scaled = boxes * np.array([zoom] * 4 + [1, 1], np.float32)
    draw_frames(canvas, scaled[:, :4], scaled[:, 4], scaled[:, 5])
    for center in (scaled[:, :2] + scaled[:, 2:4]) / 2:
        for radius, color in ((4, (0, 0, 0)), (3, (255, 255, 255))):
            cv2.circle(canvas, center.round().astype(int).tolist(), radius, color, -1, cv2.LINE_AA)
    canvas = draw_more(canvas, zoom) if draw_more else canvas
    put_labels(canvas, scaled[:, :4], scaled[:, 4], scaled[:, 5], texts)
    return canvas


def draw_batch(batch: dict[str, np.ndarray], names: Sequence[str], layout: Layout, net_config: Any,
               metainfo: dict) -> np.ndarray:
    """Draw a batch of a few images as one image.

    Args: batch {image [B, 3, H, W] as the network gets it, hm [B, C, h, w], ind, reg, reg_mask, wh}; a name for each
    image; the targets.Layout; net_config; metainfo.
    """
    tiles = []
    for number, name in enumerate(names):
        targets = {column: values[number] for column, values in batch.items()}
        boxes = decode_targets(targets, layout, net_config.reg_offset)
        image = denormalize(targets["image"], layout.mean, layout.std)
        tile = draw_sample(image, targets["hm"], boxes, names_of(boxes, metainfo["classes"]))
        tiles.append(captioned(tile, f"{name}: {len(boxes)} boxes"))
    return contact_sheet(tiles, min(4, len(tiles)), tiles[0].shape[1])
