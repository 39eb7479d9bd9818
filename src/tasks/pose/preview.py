"""Preview of a training batch: targets decoded and drawn on the network's input."""
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...imaging.drawing import captioned, contact_sheet
from ...imaging.skeletons import draw_keypoints
from ..detection import preview
from ..detection.preview import denormalize, draw_sample, names_of
from .targets import Layout


def decode_keypoints(targets: dict, layout: Layout) -> np.ndarray:
    """Decode the keypoints in the targets of one image: [M, J, 3] x, y in input pixels, 1; 0, 0, 0 if absent."""
    width, count = layout.out_size[0], layout.joints
    found = []
    for slot in np.flatnonzero(targets["reg_mask"]):
        y, x = divmod(int(targets["ind"][slot]), width)
        if layout.dense_hp:
            offsets, mask = targets["hps"][:, y, x].reshape(count, 2), targets["hps_mask"][::2, y, x] == 1
        else:
            offsets, mask = targets["hps"][slot].reshape(count, 2), targets["hps_mask"][slot][::2]
        points = np.hstack([(offsets + (x, y)) * layout.down_ratio, np.ones((count, 1))])
        found.append(points * mask[:, None])
    return np.array(found, np.float32).reshape(-1, count, 3)


def _draw_keypoints(canvas: np.ndarray, zoom: float, points: np.ndarray, facts: dict) -> np.ndarray:
    return draw_keypoints(canvas, points * (zoom, zoom, 1), facts["skeleton"], facts["flip_idx"])


def draw_batch(batch: dict[str, np.ndarray], names: Sequence[str], layout: Layout, net_config: Any,
               metainfo: dict) -> np.ndarray:
    """Draw a batch of a few images as one image.

    Args: batch {image [B, 3, H, W] as the network gets it, and the targets of targets.encode}; a name for each image;
    the targets.Layout; net_config; metainfo.
    """
    facts, tiles = metainfo["keypoints"], []
    for number, name in enumerate(names):
        targets = {column: values[number] for column, values in batch.items()}
        boxes = preview.decode_targets(targets, layout, net_config.reg_offset)
        points = decode_keypoints(targets, layout)
        image = denormalize(targets["image"], layout.mean, layout.std)
        tile = draw_sample(image, targets["hm"], boxes, names_of(boxes, metainfo["classes"]),
                           functools.partial(_draw_keypoints, points=points, facts=facts))
        tiles.append(captioned(tile, f"{name}: {len(boxes)} boxes, {int(points[:, :, 2].sum())} keypoints"))
    return contact_sheet(tiles, min(4, len(tiles)), tiles[0].shape[1])
