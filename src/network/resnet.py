"""ResNet 18/34/50/101 without classifier (He et al. 2015), the original's backbone, and the upsampling after it.

Cells are named as in PyTorch's ResNet, so that weights map by name. A block's stride is in its 3x3 convolution.
"""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeNormal, HeUniform

from .deform_conv import DeformConv2d


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, weight_init: Any = None) -> nn.Conv2d:
    """A convolution without bias, padded to keep the size at stride 1; initialized as in ResNets by default."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, pad_mode="pad", padding=kernel_size // 2,
                     weight_init=weight_init or HeNormal(mode="fan_out", nonlinearity="relu"))


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions and a shortcut: [N, in, H, W] -> [N, channels, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, downsample: nn.Cell) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def construct(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))


class Bottleneck(nn.Cell):
    """1x1, 3x3, 1x1 convolutions and a shortcut: [N, in, H, W] -> [N, 4 channels, H/stride, W/stride]."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, downsample: nn.Cell) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv(channels, channels * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def construct(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.downsample(x))


class MaxPoolOfPositive(nn.Cell):
    """3x3 max-pooling with stride 2 and padding 1 for non-negative values, [N, C, H, W], which can be padded with 0.

    In training nn.MaxPool2d with pad_mode "pad" becomes MaxPool3DWithArgmax, for which an Ascend 910 has no AI Core
    kernel (docs/ascend.md); without padding it is MaxPool.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, pad_mode="valid")

    def construct(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        line = ops.zeros((n, channels, 1, width), x.dtype)
        x = ops.concat((line, x, line), 2)
        column = ops.zeros((n, channels, height + 2, 1), x.dtype)
        return self.pool(ops.concat((column, x, column), 3))


BLOCKS: dict[str, Any] = {"BasicBlock": BasicBlock, "Bottleneck": Bottleneck}


class ResNet(nn.Cell):
    """Image batch [N, 3, H, W] -> features [N, out_channels, H/32, W/32].

    Args: block_class "BasicBlock" (18, 34) or "Bottleneck" (50, 101); num_stacks, the number of blocks in each of the
    four stages ([2, 2, 2, 2] is ResNet18).
    """

    def __init__(self, block_class: str = "BasicBlock", num_stacks: Sequence[int] = (2, 2, 2, 2)) -> None:
        super().__init__()
        block = BLOCKS[block_class]
        self.conv1 = conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = MaxPoolOfPositive()
        self.layer1 = _stage(block, 64, 64, num_stacks[0], 1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, num_stacks[1], 2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, num_stacks[2], 2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, num_stacks[3], 2)
        self.out_channels = 512 * block.expansion

    def construct(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _stage(block: Any, in_channels: int, channels: int, depth: int, stride: int) -> nn.SequentialCell:
    out_channels = channels * block.expansion
    shortcut = nn.Identity()
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.SequentialCell(conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
    blocks = [block(in_channels, channels, stride, shortcut)]
    blocks += [block(out_channels, channels, 1, nn.Identity()) for _ in range(1, depth)]
    return nn.SequentialCell(*blocks)


def upsampling(in_channels: int, stages: Sequence[int], dcn_impl: str | None) -> nn.SequentialCell:
    """Features [N, in_channels, H, W] -> [N, out_channels, 2^stages H, 2^stages W].

    Each stage, given by its channels, doubles the resolution with a transposed convolution. Before it, a deformable
    convolution changes the channels, unless dcn_impl is None. out_channels are the last stage's. Source: the original's
    resnet_dcn.py and msra_resnet.py.
    """
    layers = []
    for channels in stages:
        if dcn_impl:
            layers += [DeformConv2d(in_channels, channels, dcn_impl=dcn_impl), nn.BatchNorm2d(channels), nn.ReLU()]
            in_channels = channels
        layers += [bilinear_deconv(in_channels, channels), nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    cell = nn.SequentialCell(*layers)
    cell.out_channels = in_channels
    return cell


def bilinear_deconv(in_channels: int, out_channels: int, factor: int = 2) -> nn.Conv2dTranspose:
    """Transposed convolution with stride `factor`, initialized to bilinear upsampling plus some noise between channels.

    The original initializes only its first channel so, the others with noise; training from scratch then learns
    positions much later.
    """
    deconv = nn.Conv2dTranspose(in_channels, out_channels, 2 * factor, factor, pad_mode="pad", padding=factor // 2,
                                weight_init=HeUniform(math.sqrt(5)))
    weight = 0.3 * deconv.weight.asnumpy()
    same = np.arange(min(in_channels, out_channels))
    weight[same, same] = bilinear_kernel(factor)
    deconv.weight.set_data(Tensor(weight))
    return deconv


def bilinear_kernel(factor: int) -> np.ndarray:
    """Weights of a 2 factor x 2 factor transposed convolution that upsamples one channel bilinearly."""
    ramp = 1 - np.abs((np.arange(2 * factor) - factor + 0.5) / factor)
    return np.outer(ramp, ramp).astype(np.float32)
