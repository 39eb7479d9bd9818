"""Stacked hourglasses (Newell et al. 2016; Law and Deng 2018), as in the original's large_hourglass.py.

Cells are named so that its weights map by name (source_names.py). A batch norm is defined after the convolution it
follows.
"""
import math
from collections.abc import Sequence

from mindspore import Tensor, nn
from mindspore.common.initializer import HeUniform

from .resnet import conv

DIMS = (256, 256, 384, 384, 384, 512)  # channels from stride 4 to stride 128: Hourglass-104
STEM = (128, 256)
LOWEST_BLOCKS = 4


def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return conv(in_channels, out_channels, kernel_size, stride, HeUniform(math.sqrt(5)))


def _conv_norm(in_channels: int, out_channels: int, stride: int = 1) -> nn.SequentialCell:
    """A 1x1 convolution and its norm."""
    return nn.SequentialCell(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


class ConvBlock(nn.Cell):
    """Convolution, norm, ReLU: [N, in, H, W] -> [N, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = _conv(in_channels, out_channels, kernel_size, stride)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


class Residual(nn.Cell):
    """Two 3x3 convolutions and a shortcut: [N, in, H, W] -> [N, out, H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv(out_channels, out_channels, 3)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.skip = nn.Identity() if same else _conv_norm(in_channels, out_channels, stride)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.skip(x))


def _residuals(*channels: int, stride: int = 1) -> nn.SequentialCell:
    """Residuals from each of the channels to the next; the first one has the stride."""
    return nn.SequentialCell(*(Residual(before, after, 1 if number else stride)
                               for number, (before, after) in enumerate(zip(channels, channels[1:]))))


class Level(nn.Cell):
    """One level of an hourglass with all levels below: [N, dims[0], H, W] -> the same shape."""

    def __init__(self, dims: Sequence[int]) -> None:
        super().__init__()
        here, below = dims[:2]
        self.up1 = _residuals(here, here, here)
        self.low1 = _residuals(here, below, below, stride=2)
        self.low2 = Level(dims[1:]) if len(dims) > 2 else _residuals(*[below] * (LOWEST_BLOCKS + 1))
        self.low3 = _residuals(below, below, here)

    def construct(self, x: Tensor) -> Tensor:
        low = self.low3(self.low2(self.low1(x)))
        n, channels, height, width = low.shape
        # Each pixel of the lower level is added to four: nearest-neighbor upsampling without the larger map.
        out = self.up1(x).reshape(n, channels, height, 2, width, 2) + low.reshape(n, channels, height, 1, width, 1)
        return out.reshape(n, channels, 2 * height, 2 * width)


class Hourglass(nn.Cell):
    """Image batch [N, 3, H, W], sides multiples of 128 -> a tuple of each stack's features [N, out_channels, H/4, W/4].

    Args: stacks, their number; dims, the channels from stride 4 to the lowest level; stem, the channels at strides 2
    and 4; out_channels.
    """

    def __init__(self, stacks: int = 2, dims: Sequence[int] = DIMS, stem: Sequence[int] = STEM,
                 out_channels: int = 256) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.pre = nn.SequentialCell(ConvBlock(3, stem[0], 7, 2), Residual(stem[0], stem[1], 2))
        self.kps = nn.CellList([Level(dims) for _ in range(stacks)])
        self.cnvs = nn.CellList([ConvBlock(dims[0], out_channels, 3) for _ in range(stacks)])
        self.inters = nn.CellList([Residual(dims[0], dims[0]) for _ in range(stacks - 1)])
        self.inters_ = nn.CellList([_conv_norm(dims[0], dims[0]) for _ in range(stacks - 1)])
        self.cnvs_ = nn.CellList([_conv_norm(out_channels, dims[0]) for _ in range(stacks - 1)])
        self.relu = nn.ReLU()

    def construct(self, image: Tensor) -> tuple:
        x = self.pre(image)
        features = ()  # type: tuple
        for stack in range(len(self.kps)):
            features += (self.cnvs[stack](self.kps[stack](x)),)
            if stack < len(self.inters):
                x = self.inters[stack](self.relu(self.inters_[stack](x) + self.cnvs_[stack](features[stack])))
        return features


class StackFeatures(nn.Cell):
    """The upsampling of stacked hourglasses: none, the features are unchanged."""

    small_heads = False

    def __init__(self, stacks: int, out_channels: int) -> None:
        super().__init__()
        self.stacks, self.out_channels = stacks, out_channels

    def construct(self, features: tuple) -> tuple:
        return features
