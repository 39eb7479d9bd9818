"""The original's network in PyTorch, with its parameter names: the reference of the tests."""
import os
import runpy

import torch
from torch import nn
from torch.nn import functional

# The tests run in one process per core, and threads of several processes would busy-wait for each other.
torch.set_num_threads(1)


def deform_conv(x, offset, mask, weight, bias=None):
    """Modulated deformable convolution, stride 1, same size, by grid_sample.

    offset [N, 2 k k, H, W] has (y, x) per tap, mask is [N, k k, H, W]; x is zero outside its borders.
    """
    n, channels, height, width = x.shape
    kernel = weight.shape[-1]
    taps = kernel * kernel
    offset = offset.reshape(n, taps, 2, height, width)
    tap = torch.arange(taps)
    base_y = torch.arange(height).view(1, 1, height, 1) + (tap // kernel - kernel // 2).view(1, taps, 1, 1)
    base_x = torch.arange(width).view(1, 1, 1, width) + (tap % kernel - kernel // 2).view(1, taps, 1, 1)
    y = base_y + offset[:, :, 0]
    x_at = base_x + offset[:, :, 1]
    grid = torch.stack([2 * x_at / max(width - 1, 1) - 1, 2 * y / max(height - 1, 1) - 1], -1)
    sampled = functional.grid_sample(x, grid.view(n, taps * height, width, 2), padding_mode="zeros", align_corners=True)
    sampled = sampled.view(n, channels, taps, height * width) * mask.reshape(n, 1, taps, height * width)
    out = weight.reshape(len(weight), -1) @ sampled.reshape(n, channels * taps, height * width)
    out = out.view(n, -1, height, width)
    return out if bias is None else out + bias.view(1, -1, 1, 1)


class DCN(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        bound = (in_channels * 9) ** -0.5
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.conv_offset_mask = nn.Conv2d(in_channels, 27, 3, padding=1)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x):
        out = self.conv_offset_mask(x)
        return deform_conv(x, out[:, :18], torch.sigmoid(out[:, 18:]), self.weight, self.bias)


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False),
                                            nn.BatchNorm2d(channels))

    def forward(self, x):
        out = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels, channels, stride):
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                                            nn.BatchNorm2d(out_channels))

    def forward(self, x):
        out = functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))))
        return functional.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


class CenterNet(nn.Module):
    """ResNet with or without DCN, ResNet18-DCN by default: image [N, 3, H, W] -> hm (logits), wh, reg."""

    def __init__(self, num_classes, head_conv=64, block=BasicBlock, stacks=(2, 2, 2, 2), dcn=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, (depth, width, stride) in enumerate(zip(stacks, (64, 128, 256, 512), (1, 2, 2, 2)), 1):
            out_channels = width * block.expansion
            blocks = [block(channels, width, stride)] + [block(out_channels, width, 1) for _ in range(1, depth)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            channels = out_channels
        layers = []
        for width in (256, 128, 64) if dcn else (256, 256, 256):
            if dcn:
                layers += [DCN(channels, width), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers += [nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.deconv_layers = nn.Sequential(*layers)
        for name, depth in (("hm", num_classes), ("wh", 2), ("reg", 2)):
            layers = nn.Conv2d(channels, head_conv, 3, padding=1), nn.ReLU(), nn.Conv2d(head_conv, depth, 1)
            setattr(self, name, nn.Sequential(*layers))

    def forward(self, image):
        x = self.maxpool(functional.relu(self.bn1(self.conv1(image))))
        x = self.deconv_layers(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return self.hm(x), self.wh(x), self.reg(x)


def detection_loss(hm, wh, reg, target, ind, reg_target, reg_mask, wh_target):
    """The original's loss with default options: (loss, heatmap, size, offset)."""
    prob = torch.clamp(torch.sigmoid(hm), 1e-4, 1 - 1e-4)
    positive = target.eq(1).float()
    positive_loss = (torch.log(prob) * (1 - prob) ** 2 * positive).sum()
    negative_loss = (torch.log(1 - prob) * prob**2 * (1 - target) ** 4 * (1 - positive)).sum()
    hm_loss = -(positive_loss + negative_loss) / positive.sum().clamp(min=1)

    def at_centers(head):
        return head.flatten(2).gather(2, ind[:, None].expand(-1, 2, -1)).transpose(1, 2)

    mask = reg_mask[..., None].expand_as(reg_target)
    wh_loss = functional.l1_loss(at_centers(wh) * mask, wh_target * mask, reduction="sum") / (mask.sum() + 1e-4)
    off_loss = functional.l1_loss(at_centers(reg) * mask, reg_target * mask, reduction="sum") / (mask.sum() + 1e-4)
    return hm_loss + 0.1 * wh_loss + off_loss, hm_loss, wh_loss, off_loss


def zoo_names(module):
    """Return {name in a CenterNet's state_dict: name in the model zoo's checkpoint}, without names that it lacks."""
    names = {}
    for cell, kind_of_cell in ((name, type(child)) for name, child in module.named_modules()):
        first, _, rest = cell.partition(".")
        if first in ("hm", "wh", "reg"):
            theirs = f"{first}_fn.{rest}"
        else:
            theirs = cell if first == "deconv_layers" else f"backbone.{cell}"
        theirs = f"network.{theirs}".replace("conv_offset_mask", "conv_offset")
        if kind_of_cell is nn.BatchNorm2d:
            kinds = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        else:
            kinds = {"weight": "weight"} if kind_of_cell is DCN else {"weight": "weight", "bias": "bias"}
        names.update({f"{cell}.{kind}": f"{theirs}.{zoo_kind}" for kind, zoo_kind in kinds.items()})
    return {name: names[name] for name in module.state_dict() if name in names}


def lively(module):
    """Give a PyTorch network weights that propagate the input to the output, and statistics as after training."""
    recipe = runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden", "recipe.py"))
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    state = {name: torch.tensor(value) for name, value in recipe["make_state_dict"](shapes, 3).items()}
    state.update({name: torch.tensor(1234) for name in state if name.endswith("num_batches_tracked")})
    module.load_state_dict(state)
    return module.eval()
