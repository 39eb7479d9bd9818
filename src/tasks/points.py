"""What tasks that detect objects as points share: losses, peaks, the top K (paper, section 3)."""
import mindspore as ms
from mindspore import ops


def clamped_sigmoid(logits):
    """Sigmoid in float32, kept in [1e-4, 1 - 1e-4] so that its logarithms stay finite."""
    return ops.clamp(ops.sigmoid(logits.astype(ms.float32)), 1e-4, 1 - 1e-4)


def _sum(values):
    """The sum of all values; over one axis it takes a CPU a third of the time that it takes over four."""
    return values.reshape(-1).sum()


def focal_loss(prob, target, norm):
    """Penalty-reduced pixelwise logistic regression (paper, eq. 1; alpha 2, beta 4), over norm, the number of objects or 1.

    Args: prob, target [N, C, H, W]; target is 1 at the object centers and a gaussian around them.
    """
    positive = (target == 1.0).astype(ms.float32)
    positive_loss = ops.log(prob) * ops.square(1.0 - prob) * positive
    negative_loss = ops.log(1.0 - prob) * ops.square(prob) * ops.square(ops.square(1.0 - target))  # 0 at the centers
    return -(_sum(positive_loss) + _sum(negative_loss)) / norm


def at_least_one(count):
    """The count, or 1."""
    return ops.maximum(count, ops.ones_like(count))


def mse_loss(logits, target):
    """Mean squared error of the raw heatmap output, as the original's `mse_loss` option (no sigmoid)."""
    return ops.square(logits.astype(ms.float32) - target).mean()


def gather_at_centers(regression_map, ind):
    """[N, D, H, W] and ind [N, M] -> [N, M, D]: the map's values at the objects' centers."""
    n, depth, height, width = regression_map.shape
    rows = regression_map.transpose(0, 2, 3, 1).reshape(n * height * width, depth)
    first_row = (ops.arange(n) * (height * width)).reshape(n, 1).astype(ms.int32)
    return ops.gather(rows, (ind.astype(ms.int32) + first_row).reshape(-1), 0).reshape(n, -1, depth)


def l1_loss(pred, target, mask, norm):
    """Sum of |pred - target| where mask, over norm, the number of masked values (the original's RegL1Loss)."""
    return _sum(ops.abs(pred * mask - target * mask)) / norm


def smooth_l1_loss(pred, target, mask, norm):
    """Huber loss, delta 1, over norm, the number of objects, not of values (the original's RegLoss)."""
    diff = ops.abs(pred * mask - target * mask)
    huber = ops.select(diff < 1.0, 0.5 * ops.square(diff), diff - 0.5)
    return _sum(huber) / norm


def norm_l1_loss(pred, target, mask, norm):
    """L1 of pred / target against 1 (the original's NormRegL1Loss)."""
    return l1_loss(pred / (target + 1e-4), ops.ones_like(target), mask, norm)


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
