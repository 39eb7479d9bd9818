"""The original's networks and losses for pose and 3D boxes in PyTorch, for comparisons of results and speed."""
import torch
from torch import nn
from torch.nn import functional

from tests import torch_family, torch_reference

HEADS = {"pose": {"hm": 1, "wh": 2, "hps": 34, "reg": 2, "hm_hp": 17, "hp_offset": 2},
         "ddd": {"hm": 3, "dep": 1, "rot": 8, "dim": 3, "wh": 2, "reg": 2}}
FEATURES = {"resdcn_18": lambda: torch_reference.CenterNet(1), "dlav0_34": lambda: torch_family.PlainDLANet(1),
            "dla_34": lambda: torch_family.DLANet(1)}
HEAD_CONV = {"resdcn_18": 64, "dlav0_34": 256, "dla_34": 256}


class TaskNet(nn.Module):
    """A network of the other modules with a task's heads {name: channels}: image [N, 3, H, W] -> {head: map}."""

    def __init__(self, arch, heads):
        super().__init__()
        self.features = FEATURES[arch]()
        self.features.hm = self.features.wh = self.features.reg = nn.Identity()
        self.heads = nn.ModuleDict({
            name: nn.Sequential(nn.Conv2d(64, HEAD_CONV[arch], 3, padding=1), nn.ReLU(),
                                nn.Conv2d(HEAD_CONV[arch], depth, 1)) for name, depth in heads.items()})
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
    found = at(values, ind)
    return functional.l1_loss(found * mask, target * mask, reduction="sum") / (mask.sum() + 1e-4)


def pose_loss(maps, batch):
    """The weighted sum of the six losses with the original's defaults; batch as from our pipeline, as tensors."""
    ind, joints = batch["ind"].long(), batch["hp_ind"].long()
    mask, joint_mask = (batch[name][..., None].expand(-1, -1, 2) for name in ("reg_mask", "hp_mask"))
    return (focal(maps["hm"], batch["hm"]) + focal(maps["hm_hp"], batch["hm_hp"])
            + 0.1 * regression(maps["wh"], ind, batch["wh"], mask) + regression(maps["reg"], ind, batch["reg"], mask)
            + regression(maps["hps"], ind, batch["hps"], batch["hps_mask"])
            + regression(maps["hp_offset"], joints, batch["hp_offset"], joint_mask))


def at(values, ind):
    """The values [N, D, H, W] at positions ind [N, M]: [N, M, D]."""
    return values.flatten(2).gather(2, ind[:, None].expand(-1, values.shape[1], -1)).transpose(1, 2)


def mean_l1(values, target, mask):
    """L1 where mask [N, M] is 1, as a mean over all values."""
    mask = mask[..., None].expand_as(target)
    return functional.l1_loss(values * mask, target * mask)


def rotation_loss(values, holds, residuals, mask):
    """The loss of rotations [N, M, 8] in two bins; holds and residuals [N, M, 2]; mask [N, M]."""
    loss = 0
    for which in (0, 1):
        own, inside = values[..., 4 * which : 4 * which + 4], holds[..., which].long()
        loss += functional.cross_entropy((own[..., :2] * mask[..., None]).flatten(0, 1), inside.flatten())
        chosen, angle = own[inside == 1], residuals[..., which][inside == 1]
        if len(angle):
            loss += functional.smooth_l1_loss(chosen[:, 2], angle.sin())
            loss += functional.smooth_l1_loss(chosen[:, 3], angle.cos())
    return loss


def ddd_loss(maps, batch):
    """The weighted sum of the six losses of 3D boxes with the original's defaults."""
    ind = batch["ind"].long()
    depth = 1 / (torch.sigmoid(maps["dep"]) + 1e-6) - 1
    return (focal(maps["hm"], batch["hm"]) + mean_l1(at(depth, ind), batch["dep"], batch["reg_mask"])
            + mean_l1(at(maps["dim"], ind), batch["dim"], batch["reg_mask"])
            + rotation_loss(at(maps["rot"], ind), batch["rotbin"], batch["rotres"], batch["rot_mask"])
            + 0.1 * mean_l1(at(maps["wh"], ind), batch["wh"], batch["rot_mask"])
            + mean_l1(at(maps["reg"], ind), batch["reg"], batch["rot_mask"]))


LOSSES = {"pose": pose_loss, "ddd": ddd_loss}
