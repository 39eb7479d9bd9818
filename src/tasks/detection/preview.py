"""A training batch as one image: what the network is to learn, decoded from its targets and drawn on its input."""
import cv2
import numpy as np

from ...imaging.drawing import captioned, class_color, contact_sheet, draw_boxes, fit

TILE = 480  # pixels of an image's longer side
NO_CLASS = "no peak"  # a target whose center is no peak of the heatmap


def denormalize(image, mean, std):
    """A network's input [3, H, W] float32 -> BGR uint8 [H, W, 3]; colors beyond white and black are cut off."""
    pixels = (image.transpose(1, 2, 0) * np.asarray(std) + np.asarray(mean)) * 255
    return np.ascontiguousarray(pixels.round().clip(0, 255).astype(np.uint8))


def decode_targets(targets, layout, reg_offset=True):
    """The boxes that the targets of one image describe: [M, 6] float32 x1, y1, x2, y2 in input pixels, 1, label.

    Args: targets {hm, ind, reg, reg_mask, wh} as targets.encode_targets makes them; the targets.Layout; whether the offset is learned,
    else a center lies in the middle of its pixel. The class is the channel whose heatmap is 1 at the center, layout.num_classes if
    none is. Where centers of several classes fall on one pixel, which box is of which class is not in the targets, and taken in order.
    """
    hm, width = targets["hm"], layout.out_size[0]
    boxes, seen = [], {}
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


def tint_heatmap(image, hm):
    """A BGR image under its heatmaps [C, h, w]: each class in its color, the image shining through."""
    size = image.shape[1::-1]
    colors = np.array([class_color(label) for label in range(len(hm))], np.uint8)[hm.argmax(0)]
    colors = cv2.resize(colors, size, interpolation=cv2.INTER_NEAREST)
    cover = 0.5 * cv2.resize(hm.max(0).astype(np.float32).clip(0, 1), size, interpolation=cv2.INTER_LINEAR)[:, :, None]
    return (image * (1 - cover) + colors * cover).astype(np.uint8)


def draw_sample(image, hm, boxes, classes):
    """An input (BGR uint8), its heatmaps and its boxes (decode_targets) as one image whose longer side has TILE pixels."""
    zoom = TILE / max(image.shape[:2])
    canvas = fit(image, TILE, TILE)
    scaled = boxes * np.array([zoom] * 4 + [1, 1], np.float32)
    canvas = draw_boxes(tint_heatmap(canvas, hm), scaled[:, :4], scaled[:, 4], scaled[:, 5], [*classes, NO_CLASS], with_scores=False)
    for center in (scaled[:, :2] + scaled[:, 2:4]) / 2:
        for radius, color in ((4, (0, 0, 0)), (3, (255, 255, 255))):
            cv2.circle(canvas, center.round().astype(int).tolist(), radius, color, -1, cv2.LINE_AA)
    return canvas


def draw_batch(batch, names, layout, net_config, metainfo):
    """A batch of a few images as one image.

    Args: batch {image [B, 3, H, W] as the network gets it, hm [B, C, h, w], ind, reg, reg_mask, wh}; a name for each image; the
    targets.Layout; net_config; metainfo.
    """
    tiles = []
    for number, name in enumerate(names):
        targets = {column: values[number] for column, values in batch.items()}
        boxes = decode_targets(targets, layout, net_config.reg_offset)
        tile = draw_sample(denormalize(targets["image"], layout.mean, layout.std), targets["hm"], boxes, metainfo["classes"])
        tiles.append(captioned(tile, f"{name}: {len(boxes)} boxes"))
    return contact_sheet(tiles, min(4, len(tiles)), tiles[0].shape[1])
