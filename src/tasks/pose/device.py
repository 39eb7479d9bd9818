"""Pose on the device: heads, losses, decoding of heatmaps into objects with keypoints."""
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
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
    mse_loss,
    ones_of,
    smooth_l1_loss,
    suppress_non_peaks,
    top_k_of_channels,
    total,
)
from .targets import mirrored_order

FAR = -10000.0  # output pixels: the place of candidates below THRESHOLD
THRESHOLD = 0.1  # the lowest score of a keypoint's peak that an object may take
REACH = 0.3  # how far a peak may be from the guess, relative to the box's longer side


@dataclass(frozen=True)
class LossOptions(points.CommonOptions):
    """The net_config parameters of the same names; reg_loss is "l1" or "sl1"."""

    mse_loss: bool = False
    reg_loss: str = "l1"
    dense_hp: bool = False
    hm_hp: bool = True
    reg_hp_offset: bool = True
    hp_weight: float = 1.0
    hm_hp_weight: float = 1.0


def heads(net_config: Any, metainfo: dict) -> list[Head]:
    """The Heads for C classes and J keypoints: hm [C], wh [2], hps [2J], reg [2], hm_hp [J], hp_offset [2].

    reg_offset, hm_hp and, with hm_hp, reg_hp_offset decide on the last three.
    """
    facts = metainfo["keypoints"]
    joints = len(facts["names"])
    order = mirrored_order(joints, facts["flip_idx"])
    pairs = tuple(2 * joint + axis for joint in order for axis in (0, 1))
    found = [Head("hm", len(metainfo["classes"]), heatmap=True, flip="mean"), Head("wh", 2, flip="mean"),
             Head("hps", 2 * joints, flip="mean", mirrored=pairs, signs=(-1, 1) * joints)]
    if net_config.reg_offset:
        found.append(Head("reg", 2))
    if net_config.hm_hp:  # with mse_loss the map itself is in [0, 1], as in the original
        found.append(Head("hm_hp", joints, heatmap=not net_config.mse_loss, flip="mean", mirrored=tuple(order)))
        found += [Head("hp_offset", 2)] if net_config.reg_hp_offset else []
    return found


class PoseLoss(TaskLoss):
    """The weighted sum of the six losses (the original's MultiPoseLoss).

    construct: maps {head: its map, heatmaps as logits}, the targets of targets.encode, norms(targets) -> {loss,
    hm_loss, hp_loss, hm_hp_loss, hp_offset_loss, wh_loss, off_loss}; losses of heads that the network lacks are 0.
    """

    def __init__(self, options: LossOptions, **shared: Any) -> None:
        super().__init__(options, **shared)
        self.smooth = options.reg_loss == "sl1"
        self.regression = smooth_l1_loss if self.smooth else l1_loss
        self.has_hp_offset = options.hm_hp and options.reg_hp_offset

    def construct(self, maps: dict, targets: dict, norms: dict) -> dict:
        ind, mask = targets["ind"], both(targets["reg_mask"])
        hm_loss = focal_loss(clamped_sigmoid(maps["hm"]), targets["hm"], norms["hm"])
        wh_loss = self._regression(maps["wh"], ind, targets["wh"], mask, norms["wh"])
        if self.reg_offset:
            off_loss = self._regression(maps["reg"], ind, targets["reg"], mask, norms["wh"])
        else:
            off_loss = ops.zeros_like(wh_loss)
        points = maps["hps"].astype(ms.float32)
        points = points if self.dense_hp else gather_at_centers(points, ind)
        hp_loss = l1_loss(points, targets["hps"], targets["hps_mask"], norms["hps"])
        if not self.hm_hp:
            hm_hp_loss = ops.zeros_like(wh_loss)
        elif self.mse_loss:
            hm_hp_loss = mse_loss(maps["hm_hp"], targets["hm_hp"]) / self.micro_batches
        else:
            hm_hp_loss = focal_loss(clamped_sigmoid(maps["hm_hp"]), targets["hm_hp"], norms["hm_hp"])
        if self.has_hp_offset:
            hp_offset_loss = self._regression(maps["hp_offset"], targets["hp_ind"], targets["hp_offset"],
                                              both(targets["hp_mask"]), norms["hp_offset"])
        else:
            hp_offset_loss = ops.zeros_like(wh_loss)
        loss = (self.hm_weight * hm_loss + self.wh_weight * wh_loss + self.off_weight * (off_loss + hp_offset_loss)
                + self.hp_weight * hp_loss + self.hm_hp_weight * hm_hp_loss)
        return {"loss": loss, "hm_loss": hm_loss, "hp_loss": hp_loss, "hm_hp_loss": hm_hp_loss,
                "hp_offset_loss": hp_offset_loss, "wh_loss": wh_loss, "off_loss": off_loss}

    def _regression(self, values: Tensor, ind: Tensor, target: Tensor, mask: Tensor, norm: Tensor) -> Tensor:
        return self.regression(gather_at_centers(values.astype(ms.float32), ind), target, mask, norm)

    def norms(self, targets: dict) -> dict:
        """The divisors of the sums, from the targets of all ranks: {head: scalar}; reg has wh's."""
        counts = self.sum_over_ranks(ops.stack((
            total(ones_of(targets["hm"])), total(ones_of(targets["hm_hp"])), total(targets["hps_mask"]),
            total(targets["reg_mask"]), total(targets["hp_mask"]))))
        values = 1 if self.smooth else 2  # counted for each object
        return {"hm": at_least_one(counts[0]) / self.rank_size, "hm_hp": at_least_one(counts[1]) / self.rank_size,
                "hps": (counts[2] + 1e-4) / self.rank_size, "wh": (values * counts[3] + 1e-4) / self.rank_size,
                "hp_offset": (values * counts[4] + 1e-4) / self.rank_size}


def both(mask: Tensor) -> Tensor:
    """A mask [N, M] for x and y: [N, M, 2]."""
    return ops.broadcast_to(ops.expand_dims(mask, -1), (*mask.shape, 2))


def build_loss(net_config: Any, **options: Any) -> PoseLoss:
    """The PoseLoss for a net_config; options are its keyword arguments."""
    return PoseLoss(loss_options(LossOptions, net_config), **options)


class Decode(nn.Cell):
    """Inference maps {head: its map, heatmaps in [0, 1]} -> the k best objects [N, k, 6 + 3J] in output pixels.

    Columns: box, score, label, and x, y, score of each keypoint, 0 for those that the class lacks. A keypoint is the
    peak of its heatmap that is nearest to the object's guess (hps), with the peak's score, if that is at least
    THRESHOLD, and the peak lies in the box and within REACH; otherwise the guess, with the heatmap's value there.
    Without hm_hp it is the guess, with the object's score. Source: the original's multi_pose_decode, whose keypoints
    have no scores.
    """

    def __init__(self, net_config: Any, metainfo: dict, k: int) -> None:
        super().__init__(auto_prefix=False)
        facts = metainfo["keypoints"]
        self.k = k
        self.joints = len(facts["names"])
        self.num_classes = len(metainfo["classes"])
        self.cat_spec_wh = False
        self.reg_offset = net_config.reg_offset
        self.hm_hp = net_config.hm_hp
        self.hp_offset = net_config.hm_hp and net_config.reg_hp_offset
        has = np.zeros((self.num_classes, self.joints, 1), np.float32)
        for label, own in enumerate(facts["of_class"]):
            has[label, own] = 1
        self.has = Tensor(has)
        self.all_the_same = bool(has.all())

    def construct(self, maps: dict) -> Tensor:
        boxes, ind = decode_boxes(maps["hm"], maps["wh"], maps["reg"] if self.reg_offset else None, self.k)
        n, width = ind.shape[0], maps["hm"].shape[3]
        guess = gather_at_centers(maps["hps"], ind).reshape(n, self.k, self.joints, 2)
        center = ops.stack((ind % width, ind // width), -1).astype(ms.float32).reshape(n, self.k, 1, 2)
        guess = guess + center
        if self.hm_hp:
            points = self._match(maps, guess, boxes)
        else:
            score = ops.broadcast_to(boxes[:, :, 4:5].reshape(n, self.k, 1, 1), (n, self.k, self.joints, 1))
            points = ops.concat((guess, score), -1)
        if not self.all_the_same:
            has = ops.gather(self.has, boxes[:, :, 5].astype(ms.int32).reshape(-1), 0)
            points = points * has.reshape(n, self.k, self.joints, 1)
        return ops.concat((boxes, points.reshape(n, self.k, 3 * self.joints)), -1)

    def _match(self, maps: dict, guess: Tensor, boxes: Tensor) -> Tensor:
        """Keypoints [N, k, J, 3] of guesses [N, k, J, 2] and boxes [N, k, 6]."""
        heat = maps["hm_hp"]
        n, joints, height, width = heat.shape
        scores, ind = top_k_of_channels(suppress_non_peaks(heat), self.k)
        places = ops.stack((ind % width, ind // width), -1).astype(ms.float32)
        if self.hp_offset:
            offset = gather_at_centers(maps["hp_offset"], ind.reshape(n, joints * self.k))
            places = places + offset.reshape(n, joints, self.k, 2)
        else:
            places = places + 0.5
        found = ops.expand_dims(scores > THRESHOLD, -1)
        places = ops.select(ops.broadcast_to(found, places.shape), places, ops.full_like(places, FAR))
        guess = guess.transpose(0, 2, 1, 3)  # [N, J, k, 2]
        away = guess.reshape(n, joints, self.k, 1, 2) - places.reshape(n, joints, 1, self.k, 2)
        away = ops.sqrt(ops.square(away[..., 0]) + ops.square(away[..., 1]))
        nearest = ops.topk(-away, 1)[1]  # not argmin, which is an AI CPU kernel on Ascend 910
        channel = ops.arange(n * joints).astype(ms.int32).reshape(n, joints, 1)
        flat = (nearest.reshape(n, joints, self.k) + channel * self.k).reshape(-1)
        peak = ops.gather(places.reshape(-1, 2), flat, 0).reshape(guess.shape)
        peak_score = ops.gather(scores.reshape(-1), flat, 0).reshape(n, joints, self.k)
        distance = ops.sqrt(ops.square(peak[..., 0] - guess[..., 0]) + ops.square(peak[..., 1] - guess[..., 1]))
        x1, y1, x2, y2 = (boxes[:, :, side].reshape(n, 1, self.k) for side in range(4))
        reach = ops.maximum(y2 - y1, x2 - x1) * REACH
        inside = ops.logical_and(ops.logical_and(peak[..., 0] >= x1, peak[..., 0] <= x2),
                                 ops.logical_and(peak[..., 1] >= y1, peak[..., 1] <= y2))
        taken = ops.logical_and(ops.logical_and(inside, distance <= reach), peak_score >= THRESHOLD)
        guess_score = heat_at(heat, guess, channel)
        both_axes = ops.broadcast_to(ops.expand_dims(taken, -1), guess.shape)
        points = ops.concat((ops.select(both_axes, peak, guess),
                             ops.expand_dims(ops.select(taken, peak_score, guess_score), -1)), -1)
        return points.transpose(0, 2, 1, 3)


def heat_at(heat: Tensor, points: Tensor, channel: Tensor) -> Tensor:
    """The values of heat [N, J, H, W] at points [N, J, k, 2], 0 outside; channel [N, J, 1] numbers all N J maps."""
    _, _, height, width = heat.shape
    x, y = ops.floor(points[..., 0]), ops.floor(points[..., 1])
    column, row = ops.clamp(x, 0.0, width - 1.0), ops.clamp(y, 0.0, height - 1.0)
    inside = ops.logical_and(ops.equal(x, column), ops.equal(y, row))
    flat = (channel * height + row.astype(ms.int32)) * width + column.astype(ms.int32)
    values = ops.gather(heat.reshape(-1), flat.reshape(-1), 0)
    return values.reshape(x.shape) * inside.astype(heat.dtype)
