"""3D boxes on the device: heads, losses, decoding of heatmaps into the top K objects."""
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from .. import points
from ..base import Head
from ..points import (
    TaskLoss,
    at_least_one,
    clamped_sigmoid,
    decode_boxes,
    focal_loss,
    gather_at_centers,
    l1_loss,
    loss_options,
    ones_of,
    total,
)

ROTATION = 8  # channels: for each of two bins the logits of "no" and "yes", sine and cosine
EPSILON = 1e-6  # of a depth's reciprocal


@dataclass(frozen=True)
class LossOptions(points.CommonOptions):
    """The net_config parameters of the same names."""

    reg_bbox: bool = True
    dep_weight: float = 1.0
    dim_weight: float = 1.0
    rot_weight: float = 1.0


def heads(net_config: Any, metainfo: dict) -> list[Head]:
    """The Heads for C classes: hm [C], dep [1], rot [8], dim [3], wh [2] with reg_bbox, reg [2] with reg_offset."""
    found = [Head("hm", len(metainfo["classes"]), heatmap=True), Head("dep", 1), Head("rot", ROTATION), Head("dim", 3)]
    found += [Head("wh", 2)] if net_config.reg_bbox else []
    return found + ([Head("reg", 2)] if net_config.reg_offset else [])


def depth_of(values: Tensor) -> Tensor:
    """Outputs of the head dep -> depths in meters, from 0."""
    return 1.0 / (ops.sigmoid(values) + EPSILON) - 1.0


class BoxLoss(TaskLoss):
    """The weighted sum of the six losses (the original's DddLoss).

    construct: maps {head: its map, hm as logits}, the targets of targets.encode, norms(targets) -> {loss, hm_loss,
    dep_loss, dim_loss, rot_loss, wh_loss, off_loss}; losses of heads that the network lacks are 0. As in the original,
    an L1 loss is a mean over all max_objs places of an image, empty ones included.
    """

    def construct(self, maps: dict, targets: dict, norms: dict) -> dict:
        places, learned, present = norms["places"], targets["reg_mask"], targets["rot_mask"]
        ind = targets["ind"]
        hm_loss = focal_loss(clamped_sigmoid(maps["hm"]), targets["hm"], norms["hm"])
        depths = depth_of(gather_at_centers(maps["dep"].astype(ms.float32), ind))
        dep_loss = mean_l1(depths, targets["dep"], learned, places)
        dim_loss = mean_l1(gather_at_centers(maps["dim"].astype(ms.float32), ind), targets["dim"], learned, places)
        rotation = gather_at_centers(maps["rot"].astype(ms.float32), ind)
        rot_loss = (bin_loss(rotation[:, :, :4], targets["rotbin"][:, :, 0], targets["rotres"][:, :, 0], present,
                             places, norms["first_bin"])
                    + bin_loss(rotation[:, :, 4:], targets["rotbin"][:, :, 1], targets["rotres"][:, :, 1], present,
                               places, norms["second_bin"]))
        if self.reg_bbox:
            wh_loss = mean_l1(gather_at_centers(maps["wh"].astype(ms.float32), ind), targets["wh"], present, places)
        else:
            wh_loss = ops.zeros_like(dep_loss)
        if self.reg_offset:
            off_loss = mean_l1(gather_at_centers(maps["reg"].astype(ms.float32), ind), targets["reg"], present, places)
        else:
            off_loss = ops.zeros_like(dep_loss)
        loss = (self.hm_weight * hm_loss + self.dep_weight * dep_loss + self.dim_weight * dim_loss
                + self.rot_weight * rot_loss + self.wh_weight * wh_loss + self.off_weight * off_loss)
        return {"loss": loss, "hm_loss": hm_loss, "dep_loss": dep_loss, "dim_loss": dim_loss, "rot_loss": rot_loss,
                "wh_loss": wh_loss, "off_loss": off_loss}

    def norms(self, targets: dict) -> dict:
        """The divisors of the sums, from the targets of all ranks: {name: scalar}; places is that of masked means."""
        bins = targets["rotbin"]
        counts = self.sum_over_ranks(ops.stack((
            total(ones_of(targets["hm"])), total(bins[:, :, 0]), total(bins[:, :, 1]))))
        n, most = targets["rot_mask"].shape  # the same on all ranks
        return {"hm": at_least_one(counts[0]) / self.rank_size, "first_bin": at_least_one(counts[1]) / self.rank_size,
                "second_bin": at_least_one(counts[2]) / self.rank_size,
                "places": ops.zeros_like(counts[0]) + float(n * most)}


def mean_l1(values: Tensor, target: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """Mean of |values - target| [N, M, D] where mask [N, M] is 1, over all places (the original's L1Loss)."""
    mask = ops.broadcast_to(ops.expand_dims(mask, -1), target.shape)
    return l1_loss(values, target, mask, places * target.shape[-1])


def bin_loss(values: Tensor, holds: Tensor, residual: Tensor, mask: Tensor, places: Tensor, count: Tensor) -> Tensor:
    """The loss of one of the two bins of an angle (the original's BinRotLoss).

    Args: values [N, M, 4], logits of "no" and "yes", sine, cosine; holds [N, M], whether the bin holds the angle, and
    residual [N, M], the angle in it; mask [N, M], the objects; places, the divisor of the cross entropy, and count, of
    sine and cosine.
    """
    margin = (values[:, :, 0] - values[:, :, 1]) * mask * (2.0 * holds - 1.0)
    entropy = ops.relu(margin) + ops.log(1.0 + ops.exp(-ops.abs(margin)))
    sine = huber(values[:, :, 2] - ops.sin(residual)) * holds
    cosine = huber(values[:, :, 3] - ops.cos(residual)) * holds
    return total(entropy) / places + (total(sine) + total(cosine)) / count


def huber(difference: Tensor) -> Tensor:
    """Huber's function, delta 1, of each value."""
    size = ops.abs(difference)
    return ops.select(ops.less(size, ops.ones_like(size)), 0.5 * ops.square(size), size - 0.5)


def build_loss(net_config: Any, **options: Any) -> BoxLoss:
    """The BoxLoss for a net_config; options are its keyword arguments."""
    return BoxLoss(loss_options(LossOptions, net_config), **options)


class Decode(nn.Cell):
    """Inference maps {head: its map, hm in [0, 1]} -> the k best objects [N, k, 18], see decode."""

    def __init__(self, net_config: Any, metainfo: dict, k: int) -> None:
        super().__init__(auto_prefix=False)
        self.k = k
        self.num_classes = len(metainfo["classes"])
        self.cat_spec_wh = False
        self.reg_offset = net_config.reg_offset
        self.reg_bbox = net_config.reg_bbox

    def construct(self, maps: dict) -> Tensor:
        wh = maps["wh"] if self.reg_bbox else ops.zeros_like(maps["rot"][:, :2])
        return decode(maps["hm"], maps["rot"], depth_of(maps["dep"]), maps["dim"], wh,
                      maps["reg"] if self.reg_offset else None, self.k)


def decode(heat: Tensor, rot: Tensor, depth: Tensor, dim: Tensor, wh: Tensor, reg: Tensor | None, k: int) -> Tensor:
    """The k best objects [N, k, 18] of maps: detection's columns in output pixels, then rot 8, depth, dim h, w, l.

    depth in meters; without reg centers are in the middle of their pixels. Source: the original's ddd_decode.
    """
    boxes, ind = decode_boxes(heat, wh, reg, k)
    added = [gather_at_centers(values, ind) for values in (rot, depth, dim)]
    return ops.concat((boxes, *added), -1)
