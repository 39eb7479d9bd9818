"""CenterNet's losses (paper, section 3), with the original's normalizations. All return a float32 scalar.

Layouts: heatmaps [N, C, H, W]; regression maps [N, D, H, W]; objects in M slots: ind [N, M] holds y * W + x, targets
are [N, M, D], masks [N, M, D] with 1 where the slot holds an object.
"""
from dataclasses import dataclass

import mindspore as ms
from mindspore import nn, ops


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


@dataclass(frozen=True)
class LossOptions:
    """The parameters of that name in net_config; reg_loss is "l1" or "sl1"."""

    mse_loss: bool = False
    reg_loss: str = "l1"
    dense_wh: bool = False
    norm_wh: bool = False
    cat_spec_wh: bool = False
    reg_offset: bool = True
    hm_weight: float = 1.0
    wh_weight: float = 0.1
    off_weight: float = 1.0


class CenterNetLoss(nn.Cell):
    """The weighted sum of the three losses.

    Across ranks each sum is divided by the number of objects of all, over the number of ranks: so the mean over ranks,
    which is what gradients are averaged to, is the loss of the whole batch, however the objects are spread.

    Args: a LossOptions; rank_size, and sum_over_ranks, a cell that adds a tensor up over the ranks; parts, in how many equal parts
    of_part gets a batch.
    construct: hm [N, C, H, W] (logits), wh, reg (maps) and the targets hm, ind, reg, reg_mask, wh, wh_mask of targets.py
    -> (loss, hm_loss, wh_loss, off_loss).
    """

    def __init__(self, options, *, rank_size=1, sum_over_ranks=None, parts=1):
        super().__init__()
        self.parts = parts
        self.mse_loss = options.mse_loss
        self.dense_wh = options.dense_wh
        self.reg_offset = options.reg_offset
        self.smooth = options.reg_loss == "sl1"
        self.regression = smooth_l1_loss if self.smooth else l1_loss
        # The original's order of precedence; these three are L1 whatever reg_loss says.
        if options.dense_wh:
            self.size_loss = l1_loss
        elif options.norm_wh:
            self.size_loss = norm_l1_loss
        else:
            self.size_loss = l1_loss if options.cat_spec_wh else self.regression
        self.smooth_size = self.size_loss is smooth_l1_loss
        self.hm_weight = options.hm_weight
        self.wh_weight = options.wh_weight
        self.off_weight = options.off_weight
        self.rank_size = rank_size
        self.sum_over_ranks = sum_over_ranks or nn.Identity()

    def construct(self, hm, wh, reg, *targets):
        return self.of_part(hm, wh, reg, self.norms(*targets), *targets)

    def of_part(self, hm, wh, reg, norms, *targets):
        """construct of a part of a batch, with the norms of the whole: the losses of its parts add up to the batch's."""
        hm_target, ind, reg_target, reg_mask, wh_target, wh_mask = targets
        mask = ops.broadcast_to(ops.expand_dims(reg_mask, -1), reg_target.shape)
        hm_norm, wh_norm, off_norm = norms
        if self.mse_loss:
            hm_loss = mse_loss(hm, hm_target) / self.parts
        else:
            hm_loss = focal_loss(clamped_sigmoid(hm), hm_target, hm_norm)
        wh = wh.astype(ms.float32)
        wh_pred = wh if self.dense_wh else gather_at_centers(wh, ind)
        wh_loss = self.size_loss(wh_pred, wh_target, wh_mask, wh_norm)
        if self.reg_offset:
            off_loss = self.regression(gather_at_centers(reg.astype(ms.float32), ind), reg_target, mask, off_norm)
        else:
            off_loss = ops.zeros_like(wh_loss)
        loss = self.hm_weight * hm_loss + self.wh_weight * wh_loss + self.off_weight * off_loss
        return loss, hm_loss, wh_loss, off_loss

    def norms(self, *targets):
        """What the three sums are divided by, from the targets of all ranks."""
        hm_target, _, reg_target, reg_mask, _, wh_mask = targets
        mask = ops.broadcast_to(ops.expand_dims(reg_mask, -1), reg_target.shape)
        objects = _sum((hm_target == 1.0).astype(ms.float32))
        counts = self.sum_over_ranks(ops.stack((objects, _sum(wh_mask), _sum(mask))))
        wh_count = counts[1] / wh_mask.shape[-1] if self.smooth_size else counts[1]
        off_count = counts[2] / mask.shape[-1] if self.smooth else counts[2]
        return at_least_one(counts[0]) / self.rank_size, (wh_count + 1e-4) / self.rank_size, (off_count + 1e-4) / self.rank_size
