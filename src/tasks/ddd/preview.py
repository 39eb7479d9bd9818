"""Preview of a training batch: targets decoded and drawn on the network's input."""
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...imaging.drawing import captioned, contact_sheet, put_labels
from ..detection.preview import TILE, decode_targets, denormalize, draw_sample
from ..detection.targets import Layout


def draw_batch(batch: dict[str, np.ndarray], names: Sequence[str], layout: Layout, net_config: Any,
               metainfo: dict) -> np.ndarray:
    """Draw a batch of a few images as one image; each object has its class and depth.

    Args: batch {image [B, 3, H, W] as the network gets it, and the targets of targets.encode}; a name for each image;
    the Layout; net_config; metainfo. Depths of moved images, which are not learned, are in parentheses.
    """
    tiles = []
    for number, name in enumerate(names):
        targets = {column: values[number] for column, values in batch.items()}
        present = targets["rot_mask"] == 1
        boxes = decode_targets({**targets, "reg_mask": targets["rot_mask"]}, layout, net_config.reg_offset)
        image = denormalize(targets["image"], layout.mean, layout.std)
        zoom = TILE / max(image.shape[:2])
        tile = draw_sample(image, targets["hm"], boxes, metainfo["classes"])
        moved = not targets["reg_mask"].any()
        depths = [f"({depth:.1f} m)" if moved else f"{depth:.1f} m" for depth in targets["dep"][present, 0]]
        below = boxes[:, [0, 3, 2, 3]] * zoom
        put_labels(tile, below, np.ones(len(below)), boxes[:, 5], depths)
        tiles.append(captioned(tile, f"{name}: {len(boxes)} boxes" + (", moved" if moved and len(boxes) else "")))
    return contact_sheet(tiles, min(4, len(tiles)), tiles[0].shape[1])
