"""The original's pose network and loss in PyTorch, for comparisons of results and speed."""
import torch
from torch import nn
from torch.nn import functional

from tests import torch_family, torch_reference

HEADS = {"hm": 1, "wh": 2, "hps": 34, "reg": 2, "hm_hp": 17, "hp_offset": 2}
FEATURES = {"resdcn_18": lambda: torch_reference.CenterNet(1), "dlav0_34": lambda: torch_family.PlainDLANet(1)}
HEAD_CONV = {"resdcn_18": 64, "dlav0_34": 256}


class PoseNet(nn.Module):
    """A network of the other modules with pose's heads: image [N, 3, H, W] -> {head: map}."""

    def __init__(self, arch, heads=None):
        super().__init__()
        self.features = FEATURES[arch]()
        self.features.hm = self.features.wh = self.features.reg = nn.Identity()
        self.heads = nn.ModuleDict({
            name: nn.Sequential(nn.Conv2d(64, HEAD_CONV[arch], 3, padding=1), nn.ReLU(),
                                nn.Conv2d(HEAD_CONV[arch], depth, 1)) for name, depth in (heads or HEADS).items()})
        for name, head in self.heads.items():
            nn.init.constant_(head[2].bias, -2.19 if name.startswith("hm") else 0)

    def forward(self, image):
        features = self.features(image)[0]
        return {name: head(features) for name, head in self.heads.items()}


def focal(logits, target):
    """The focal loss of heatmaps."""
    prob = torch.clamp(torch.sigmoid(logits), 1e-4, 1 - 1e-4)
    positive = target.eq(1).float()
    at_centers = (torch.log(prob) * (1 - prob) ** 2 * positive).sum()
    elsewhere = (torch.log(1 - prob) * prob**2 * (1 - target) ** 4 * (1 - positive)).sum()
    return -(at_centers + elsewhere) / positive.sum().clamp(min=1)


def regression(values, ind, target, mask):
    """L1 of values [N, D, H, W] at positions ind [N, M], where mask [N, M, D] is 1."""
    found = values.flatten(2).gather(2, ind[:, None].expand(-1, values.shape[1], -1)).transpose(1, 2)
    return functional.l1_loss(found * mask, target * mask, reduction="sum") / (mask.sum() + 1e-4)


def pose_loss(maps, batch):
    """The weighted sum of the six losses with the original's defaults; batch as from our pipeline, as tensors."""
    ind, joints = batch["ind"].long(), batch["hp_ind"].long()
    mask, joint_mask = (batch[name][..., None].expand(-1, -1, 2) for name in ("reg_mask", "hp_mask"))
    return (focal(maps["hm"], batch["hm"]) + focal(maps["hm_hp"], batch["hm_hp"])
            + 0.1 * regression(maps["wh"], ind, batch["wh"], mask) + regression(maps["reg"], ind, batch["reg"], mask)
            + regression(maps["hps"], ind, batch["hps"], batch["hps_mask"])
            + regression(maps["hp_offset"], joints, batch["hp_offset"], joint_mask))
