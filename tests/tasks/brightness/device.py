"""The head light [channels] and its L1 loss, in addition to detection's."""
from mindspore import nn, ops

from src.core.errors import UserError
from src.tasks.base import Head
from src.tasks.detection import device
from src.tasks.points import DrawHeatmap, decode_boxes, gather_at_centers, l1_loss, total
from tests.tasks.brightness.targets import columns

BOXES = ("hm_loss", "wh_loss", "off_loss")
LOSSES = ("loss", *BOXES, "light_loss")
HEADS = ("hm", "wh", "reg", "light")


def heads(net_config, metainfo):
    if not net_config.reg_offset or net_config.dense_wh or net_config.cat_spec_wh or net_config.mse_loss:
        raise UserError("the task brightness has none of net_config.reg_offset false, dense_wh, cat_spec_wh, mse_loss")
    return [*device.heads(net_config, metainfo), Head("light", len(metainfo["channels"]), flip="mean")]


class Loss(nn.Cell):
    def __init__(self, boxes):
        super().__init__()
        self.boxes, self.micro_batches = boxes, boxes.micro_batches

    def construct(self, maps, targets, norms):
        losses = self.boxes(maps, targets, norms)
        mask = ops.broadcast_to(ops.expand_dims(targets["reg_mask"], -1), targets["light"].shape)
        light_loss = l1_loss(gather_at_centers(maps["light"], targets["ind"]), targets["light"], mask, norms["light"])
        more = {"loss": losses["loss"] + light_loss, "light_loss": light_loss}
        return {name: losses[name] if name in BOXES else more[name] for name in LOSSES}

    def norms(self, targets):
        norms = self.boxes.norms(targets)
        count = self.boxes.sum_over_ranks(total(targets["reg_mask"])) * targets["light"].shape[-1] + 1e-4
        return {name: count / self.boxes.rank_size if name == "light" else norms[name] for name in HEADS}


def build_loss(net_config, **options):
    return Loss(device.build_loss(net_config, **options))


class DrawTargets(nn.Cell):
    def __init__(self, layout):
        super().__init__()
        self.names = ("hm",) + tuple(columns(False)[3:])
        self.draw_heatmap = DrawHeatmap(layout.num_classes, layout.out_size)

    def construct(self, targets):
        hm = self.draw_heatmap(targets["objects"], targets["ind"])
        return {name: hm if name == "hm" else targets[name] for name in self.names}


class Decode(device.Decode):
    def __init__(self, net_config, metainfo, k):
        super().__init__(net_config, metainfo, k)
        self.channels = len(metainfo["channels"])

    def construct(self, maps):
        boxes, ind = decode_boxes(maps["hm"], maps["wh"], maps["reg"], self.k)
        return ops.concat((boxes, gather_at_centers(maps["light"], ind)), -1)
