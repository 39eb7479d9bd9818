"""CenterNet's losses (paper, section 3), with the original's normalisations. All return a float32 scalar.

Layouts: heatmaps [N, C, H, W]; regression maps [N, D, H, W]; objects in M slots: ind [N, M] holds y * W + x, targets
are [N, M, D], masks [N, M, D] with 1 where the slot holds an object.
"""
import mindspore as ms
from mindspore import nn, ops


def clamped_sigmoid(logits):
    """Sigmoid in float32, kept in [1e-4, 1 - 1e-4] so that its logarithms stay finite."""
    return ops.clamp(ops.sigmoid(logits.astype(ms.float32)), 1e-4, 1 - 1e-4)


def focal_loss(prob, target):
    """Penalty-reduced pixelwise logistic regression (paper, eq. 1; alpha 2, beta 4), per object.

    Args: prob, target [N, C, H, W]; target is 1 at the object centres and a gaussian around them. An image batch
    without objects gives the plain sum over its pixels.
    """
    positive = (target == 1.0).astype(ms.float32)
    positive_loss = ops.log(prob) * ops.square(1.0 - prob) * positive
    negative_loss = ops.log(1.0 - prob) * ops.square(prob) * ops.square(ops.square(1.0 - target)) * (1.0 - positive)
    objects = positive.sum()
    return -(positive_loss.sum() + negative_loss.sum()) / ops.maximum(objects, ops.ones_like(objects))


def mse_loss(logits, target):
    """Mean squared error of the raw heatmap output, as the original's `mse_loss` option (no sigmoid)."""
    return ops.square(logits.astype(ms.float32) - target).mean()


def gather_at_centers(regression_map, ind):
    """[N, D, H, W] and ind [N, M] -> [N, M, D]: the map's values at the objects' centres."""
    n, depth, height, width = regression_map.shape
    rows = regression_map.transpose(0, 2, 3, 1).reshape(n * height * width, depth)
    first_row = (ops.arange(n) * (height * width)).reshape(n, 1).astype(ms.int32)
    return ops.gather(rows, (ind.astype(ms.int32) + first_row).reshape(-1), 0).reshape(n, -1, depth)


def l1_loss(pred, target, mask):
    """Sum of |pred - target| where mask, over the number of masked values (the original's RegL1Loss)."""
    return ops.abs(pred * mask - target * mask).sum() / (mask.sum() + 1e-4)


def smooth_l1_loss(pred, target, mask):
    """Huber loss, delta 1, over the number of objects, not of values: the original's RegLoss counts so."""
    diff = ops.abs(pred * mask - target * mask)
    huber = ops.select(diff < 1.0, 0.5 * ops.square(diff), diff - 0.5)
    return huber.sum() / (mask.sum() / mask.shape[-1] + 1e-4)


def norm_l1_loss(pred, target, mask):
    """L1 of pred / target against 1 (the original's NormRegL1Loss)."""
    return l1_loss(pred / (target + 1e-4), ops.ones_like(target), mask)


class CenterNetLoss(nn.Cell):
    """The weighted sum of the three losses.

    Args: mse_loss, reg_loss ("l1" | "sl1"), dense_wh, norm_wh, cat_spec_wh, reg_offset and the weights, as in net_config.
    construct: hm [N, C, H, W] (logits), wh, reg (maps) and the targets of dataset.py -> (loss, hm_loss, wh_loss, off_loss).
    """

    def __init__(self, mse_loss, reg_loss, dense_wh, norm_wh, cat_spec_wh, reg_offset, hm_weight, wh_weight, off_weight):
        super().__init__()
        self.mse_loss = mse_loss
        self.dense_wh = dense_wh
        self.reg_offset = reg_offset
        self.regression = smooth_l1_loss if reg_loss == "sl1" else l1_loss
        # The original's order of precedence; these three are L1 whatever reg_loss says.
        if dense_wh:
            self.size_loss = l1_loss
        elif norm_wh:
            self.size_loss = norm_l1_loss
        else:
            self.size_loss = l1_loss if cat_spec_wh else self.regression
        self.hm_weight = hm_weight
        self.wh_weight = wh_weight
        self.off_weight = off_weight

    def construct(self, hm, wh, reg, hm_target, ind, reg_target, reg_mask, wh_target, wh_mask):
        if self.mse_loss:
            hm_loss = mse_loss(hm, hm_target)
        else:
            hm_loss = focal_loss(clamped_sigmoid(hm), hm_target)
        wh = wh.astype(ms.float32)
        wh_pred = wh if self.dense_wh else gather_at_centers(wh, ind)
        wh_loss = self.size_loss(wh_pred, wh_target, wh_mask)
        off_loss = ops.zeros_like(wh_loss)
        if self.reg_offset:
            mask = ops.broadcast_to(ops.expand_dims(reg_mask, -1), reg_target.shape)
            off_loss = self.regression(gather_at_centers(reg.astype(ms.float32), ind), reg_target, mask)
        loss = self.hm_weight * hm_loss + self.wh_weight * wh_loss + self.off_weight * off_loss
        return loss, hm_loss, wh_loss, off_loss
