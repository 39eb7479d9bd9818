"""Detection on the device: heads, losses, decoding of heatmaps into the top K boxes."""
from dataclasses import dataclass
from typing import Any

import mindspore as ms
from mindspore import nn, ops

from .. import points
from ..base import Head
from ..points import (
    DrawHeatmap,
    TaskLoss,
    at_least_one,
    clamped_sigmoid,
    decode_boxes,
    focal_loss,
    gather_at_centers,
    l1_loss,
    loss_options,
    mse_loss,
    norm_l1_loss,
    ones_of,
    smooth_l1_loss,
    total,
)
from .targets import Layout, columns


@dataclass(frozen=True)
class LossOptions(points.CommonOptions):
    """The net_config parameters of the same names; reg_loss is "l1" or "sl1"."""

    mse_loss: bool = False
    reg_loss: str = "l1"
    dense_wh: bool = False
    norm_wh: bool = False
    cat_spec_wh: bool = False


def heads(net_config: Any, metainfo: dict) -> list[Head]:
    """The Heads: hm [C], wh [2, or 2 C with cat_spec_wh] and, with reg_offset, reg [2], for C classes."""
    num_classes = len(metainfo["classes"])
    sizes = Head("wh", 2 * num_classes if net_config.cat_spec_wh else 2, flip="mean")
    offset = [Head("reg", 2)] if net_config.reg_offset else []
    return [Head("hm", num_classes, heatmap=True, flip="mean"), sizes, *offset]


class CenterNetLoss(TaskLoss):
    """The weighted sum of the three losses.

    construct: maps {hm [N, C, H, W] (logits), wh, reg}, the targets {hm, ind, reg, reg_mask, wh, wh_mask} of
    targets.py, norms(targets) -> {loss, hm_loss, wh_loss, off_loss}.
    """

    def __init__(self, options: LossOptions, **shared: Any) -> None:
        super().__init__(options, **shared)
        self.smooth = options.reg_loss == "sl1"
        self.regression = smooth_l1_loss if self.smooth else l1_loss
        # The original's order of precedence; dense_wh, norm_wh and cat_spec_wh use L1 regardless of reg_loss.
        if options.dense_wh:
            self.size_loss = l1_loss
        elif options.norm_wh:
            self.size_loss = norm_l1_loss
        else:
            self.size_loss = l1_loss if options.cat_spec_wh else self.regression
        self.smooth_size = self.size_loss is smooth_l1_loss

    def construct(self, maps: dict, targets: dict, norms: dict) -> dict:
        mask = ops.broadcast_to(ops.expand_dims(targets["reg_mask"], -1), targets["reg"].shape)
        if self.mse_loss:
            hm_loss = mse_loss(maps["hm"], targets["hm"]) / self.micro_batches
        else:
            hm_loss = focal_loss(clamped_sigmoid(maps["hm"]), targets["hm"], norms["hm"])
        sizes = maps["wh"].astype(ms.float32)
        wh = sizes if self.dense_wh else gather_at_centers(sizes, targets["ind"])
        wh_loss = self.size_loss(wh, targets["wh"], targets["wh_mask"], norms["wh"])
        if self.reg_offset:
            offset = gather_at_centers(maps["reg"].astype(ms.float32), targets["ind"])
            off_loss = self.regression(offset, targets["reg"], mask, norms["reg"])
        else:
            off_loss = ops.zeros_like(wh_loss)
        loss = self.hm_weight * hm_loss + self.wh_weight * wh_loss + self.off_weight * off_loss
        return {"loss": loss, "hm_loss": hm_loss, "wh_loss": wh_loss, "off_loss": off_loss}

    def norms(self, targets: dict) -> dict:
        """The divisors of the three sums, from the targets of all ranks: {head: scalar}."""
        wh_mask = targets["wh_mask"]
        mask = ops.broadcast_to(ops.expand_dims(targets["reg_mask"], -1), targets["reg"].shape)
        objects = total(ones_of(targets["hm"]))
        counts = self.sum_over_ranks(ops.stack((objects, total(wh_mask), total(mask))))
        wh_count = counts[1] / wh_mask.shape[-1] if self.smooth_size else counts[1]
        off_count = counts[2] / mask.shape[-1] if self.smooth else counts[2]
        return {"hm": at_least_one(counts[0]) / self.rank_size, "wh": (wh_count + 1e-4) / self.rank_size,
                "reg": (off_count + 1e-4) / self.rank_size}


def build_loss(net_config: Any, **options: Any) -> CenterNetLoss:
    """The CenterNetLoss for a net_config; options are its keyword arguments."""
    return CenterNetLoss(loss_options(LossOptions, net_config), **options)


class DrawTargets(nn.Cell):
    """Targets {objects, ind, ...} of a pipeline that leaves heatmaps to the device -> {hm, ind, ...}."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.names = ("hm",) + tuple(columns(False)[3:])
        self.draw_heatmap = DrawHeatmap(layout.num_classes, layout.out_size, layout.mse_loss)

    def construct(self, targets: dict) -> dict:
        hm = self.draw_heatmap(targets["objects"], targets["ind"])
        return {name: hm if name == "hm" else targets[name] for name in self.names}


class Decode(nn.Cell):
    """Inference maps {hm in [0, 1], wh, reg} -> the k best detections [N, k, 6] in output pixels, as in decode."""

    def __init__(self, net_config: Any, metainfo: dict, k: int) -> None:
        super().__init__(auto_prefix=False)
        self.num_classes = len(metainfo["classes"])
        self.k = k
        self.cat_spec_wh = net_config.cat_spec_wh
        self.reg_offset = net_config.reg_offset

    def construct(self, maps: dict) -> ms.Tensor:
        reg = maps["reg"] if self.reg_offset else None
        return decode(maps["hm"], maps["wh"], reg, self.k, self.cat_spec_wh)


def decode(heat: ms.Tensor, wh: ms.Tensor, reg: ms.Tensor | None, k: int, cat_spec_wh: bool = False) -> ms.Tensor:
    """Detections [N, k, 6] of the three heads; arguments and columns as in points.decode_boxes."""
    return decode_boxes(heat, wh, reg, k, cat_spec_wh)[0]
