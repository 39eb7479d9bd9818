"""Preview of a training batch: targets decoded and drawn on the network's input."""
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...imaging.boxes_3d import draw_wires
from ...imaging.drawing import captioned, class_color, contact_sheet
from ...imaging.view import View, whole_view
from .. import rows as row
from ..detection.preview import decode_targets, denormalize, draw_sample, names_of
from ..detection.targets import Layout
from . import results
from .cameras import default_calib


def draw_batch(batch: dict[str, np.ndarray], names: Sequence[str], layout: Layout, net_config: Any,
               metainfo: dict) -> np.ndarray:
    """Draw a batch of a few images as one image; each object has its class and depth, and its 3D box.

    Args: batch {image [B, 3, H, W] as the network gets it, and the targets of targets.encode}; a name for each image;
    the Layout; net_config; metainfo. Depths of moved images, which are not learned, are in parentheses, without boxes.
    """
    tiles = []
    for number, name in enumerate(names):
        targets = {column: values[number] for column, values in batch.items()}
        boxes = decode_targets({**targets, "reg_mask": targets["rot_mask"]}, layout, net_config.reg_offset)
        moved = not targets["reg_mask"].any()
        depths = [f"{depth:.1f} m" for depth in targets["dep"][targets["rot_mask"] == 1, 0]]
        texts = [f"{text} ({depth})" if moved else f"{text} {depth}"
                 for text, depth in zip(names_of(boxes, metainfo["classes"]), depths)]
        image = denormalize(targets["image"], layout.mean, layout.std)
        rows = decode_boxes_3d(targets, boxes, layout, metainfo)[: 0 if moved else len(boxes)]
        tile = draw_sample(image, targets["hm"], boxes, texts, functools.partial(_draw_boxes_3d, rows=rows))
        tiles.append(captioned(tile, f"{name}: {len(boxes)} boxes" + (", moved" if moved and len(boxes) else "")))
    return contact_sheet(tiles, min(4, len(tiles)), tiles[0].shape[1])


def _draw_boxes_3d(canvas: np.ndarray, zoom: float, rows: np.ndarray) -> np.ndarray:
    rows = results.scaled(rows, (zoom, zoom))
    cameras = row.column(rows, "cameras", results.COLUMNS).astype(np.float64)
    for corners, calib, label in zip(results.corners_of(results.boxes_3d_of(rows)), cameras, row.labels(rows)):
        draw_wires(canvas, corners, calib, class_color(int(label)))
    return canvas


def decode_boxes_3d(targets: dict, boxes: np.ndarray, layout: Layout, metainfo: dict) -> np.ndarray:
    """Rows [M, D] in input pixels of the objects in the targets of one image, as results.to_image makes them of a
    network's output, with the data set's camera; boxes [M, 6] of decode_targets."""
    present = targets["rot_mask"] == 1
    width, height = layout.input_size
    view = View(*whole_view(width, height, layout.input_size), layout.out_size[::-1], 1.0)
    view = dataclasses.replace(view, camera=default_calib(metainfo["camera"], view))
    turned, angles = targets["rotbin"][present], targets["rotres"][present]
    rotation = [np.stack([1 - turned[:, side], turned[:, side], np.sin(angles[:, side]), np.cos(angles[:, side])], 1)
                for side in (0, 1)]
    output = np.hstack([boxes[:, :4] / layout.down_ratio, boxes[:, 4:], *rotation, targets["dep"][present],
                        targets["dim"][present]])
    return results.to_image(output, view)
