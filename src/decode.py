"""Heatmap -> top K boxes, on the device (the original's decode.py)."""
import mindspore as ms
from mindspore import ops

from src.losses import gather_at_centers


def suppress_non_peaks(heat):
    """Zero every value of heat [N, C, H, W] that is not the largest of its 3x3 neighbourhood: NMS of the paper."""
    peak = ops.MaxPool(kernel_size=3, strides=1, pad_mode="same")(heat)
    return heat * (peak == heat).astype(heat.dtype)


def top_k(heat, k):
    """The k largest values of heat [N, C, H, W] over all classes, largest first.

    Returns scores, ind (y * W + x), classes: each [N, k]; ind and classes int32.
    """
    n, classes, height, width = heat.shape
    lines = classes * height
    pixels = height * width
    if lines <= k:
        # A map may have fewer than k cells: the rest is of score 0, at the last of them.
        padded = ops.concat((heat.reshape(n, lines * width), ops.full((n, k), -1.0, dtype=heat.dtype)), 1)
        scores, flat = ops.topk(padded, k)
        flat = ops.minimum(flat, lines * width - 1)
        return ops.maximum(scores, 0.0), flat % pixels, flat // pixels
    # The k largest values lie in the k lines whose own largest values are largest.
    heat = heat.reshape(n, lines, width)
    _, best = ops.topk(ops.amax(heat, -1), k)
    first_line = (ops.arange(n) * lines).reshape(n, 1)
    candidates = ops.gather(heat.reshape(n * lines, width), (best + first_line).reshape(-1), 0)
    scores, index = ops.topk(candidates.reshape(n, k * width), k)
    flat = ops.gather_elements(best, 1, index // width) * width + index % width
    return scores, flat % pixels, flat // pixels


def decode(heat, wh, reg, k, cat_spec_wh=False):
    """Detections out of the three heads.

    Args: heat [N, C, H, W] after the sigmoid; wh [N, 2 or 2 C, H, W]; reg [N, 2, H, W] or None (then centers are taken
    in the middle of their pixel). Returns [N, k, 6] float32: x1, y1, x2, y2 in output pixels, score, class (0-based).
    """
    n, classes, _, width = heat.shape
    scores, ind, labels = top_k(suppress_non_peaks(heat), k)
    x = (ind % width).astype(ms.float32)
    y = (ind // width).astype(ms.float32)
    if reg is None:
        x = x + 0.5
        y = y + 0.5
    else:
        offset = gather_at_centers(reg, ind)
        x = x + offset[:, :, 0]
        y = y + offset[:, :, 1]
    size = gather_at_centers(wh, ind)
    if cat_spec_wh:
        rows = size.reshape(n * k * classes, 2)
        first_row = ops.arange(n * k) * classes
        size = ops.gather(rows, first_row.astype(ms.int32) + labels.reshape(-1), 0).reshape(n, k, 2)
    half_w = size[:, :, 0] / 2
    half_h = size[:, :, 1] / 2
    return ops.stack((x - half_w, y - half_h, x + half_w, y + half_h, scores, labels.astype(ms.float32)), -1)
