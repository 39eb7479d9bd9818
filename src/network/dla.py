"""DLA-34 (Yu et al. 2018, Deep Layer Aggregation) without classifier; its upsampling with deformable convolutions or
without.

Source: paper, section 5. Cells are named so that weights of the original's pose_dla_dcn.py and dlav0.py map by name
(source_names.py).
"""
import math
from collections.abc import Sequence

import numpy as np
from mindspore import Tensor, nn, ops

from .deform_conv import DeformConv2d
from .resnet import bilinear_deconv, bilinear_kernel, conv

CHANNELS = (16, 32, 64, 128, 256, 512)  # of the levels with strides 1, 2, 4, 8, 16, 32
DEPTHS = {2: 1, 3: 2, 4: 2, 5: 1}  # {level: depth} of the trees


def _conv_norm(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
               relu: bool = True) -> nn.SequentialCell:
    layers = [conv(in_channels, out_channels, kernel_size, stride), nn.BatchNorm2d(out_channels)]
    return nn.SequentialCell(*layers, *([nn.ReLU()] if relu else []))


class TreeBlock(nn.Cell):
    """Two 3x3 convolutions and a given shortcut.

    [N, in, H, W] and [N, channels, H/stride, W/stride] -> [N, channels, H/stride, W/stride].
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor, shortcut: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)


class Root(nn.Cell):
    """A 1x1 convolution that joins maps of one size."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv(in_channels, out_channels, 1)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def construct(self, maps: tuple) -> Tensor:
        return self.relu(self.bn(self.conv(ops.concat(maps, 1))))


class Tree(nn.Cell):
    """A binary tree of TreeBlocks, its right branches ending in Roots: [N, in, H, W] -> [N, out, H/stride, W/stride].

    A Root joins the two branches below it and the maps handed down to it, a tuple: the left branches of the trees above
    and, with keep_input, the tree's input.
    """

    def __init__(self, depth: int, in_channels: int, out_channels: int, stride: int = 1, keep_input: bool = False,
                 handed_down: int = 0) -> None:
        super().__init__()
        self.keep_input = keep_input
        self.deep = depth > 1
        handed_down += in_channels if keep_input else 0
        if self.deep:
            self.tree1 = Tree(depth - 1, in_channels, out_channels, stride)
            self.tree2 = Tree(depth - 1, out_channels, out_channels, handed_down=handed_down + out_channels)
        else:
            self.tree1 = TreeBlock(in_channels, out_channels, stride)
            self.tree2 = TreeBlock(out_channels, out_channels, 1)
            self.root = Root(2 * out_channels + handed_down, out_channels)
        self.pool = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()
        same = in_channels == out_channels
        self.project = nn.Identity() if same else _conv_norm(in_channels, out_channels, 1, relu=False)
        if self.deep:  # unused, as in the original; kept so that weights can be converted back
            for parameter in self.project.get_parameters():
                parameter.requires_grad = False

    def construct(self, x: Tensor, handed_down: tuple = ()) -> Tensor:
        shrunk = self.pool(x)
        if self.keep_input:
            handed_down = handed_down + (shrunk,)
        if self.deep:
            left = self.tree1(x)
            return self.tree2(left, handed_down + (left,))
        left = self.tree1(x, self.project(shrunk))
        right = self.tree2(left, left)
        return self.root((right, left) + handed_down)


class DLA(nn.Cell):
    """Image batch [N, 3, H, W] -> the maps of the levels from stride down_ratio to 32.

    A tuple of [N, channels, H/stride, W/stride]; out_channels lists their channels.
    """

    def __init__(self, down_ratio: int = 4) -> None:
        super().__init__()
        self.first = int(math.log2(down_ratio))
        self.out_channels = CHANNELS[self.first :]
        self.base_layer = _conv_norm(3, CHANNELS[0], 7)
        self.level0 = _conv_norm(CHANNELS[0], CHANNELS[0], 3)
        self.level1 = _conv_norm(CHANNELS[0], CHANNELS[1], 3, 2)
        trees = {level: Tree(depth, CHANNELS[level - 1], CHANNELS[level], 2, keep_input=level > 2)
                 for level, depth in DEPTHS.items()}
        self.level2, self.level3, self.level4, self.level5 = trees.values()

    def construct(self, image: Tensor) -> tuple:
        level2 = self.level2(self.level1(self.level0(self.base_layer(image))))
        level3 = self.level3(level2)
        level4 = self.level4(level3)
        return (level2, level3, level4, self.level5(level4))[self.first - 2 :]


class DeformBlock(nn.Cell):
    """Deformable convolution, norm, ReLU: [N, in, H, W] -> [N, out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, dcn_impl: str) -> None:
        super().__init__()
        self.conv = DeformConv2d(in_channels, out_channels, dcn_impl=dcn_impl)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()

    def construct(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))


def _upsample(channels: int, factor: int) -> nn.Conv2dTranspose:
    """A depthwise transposed convolution, initialized to bilinear upsampling."""
    layer = nn.Conv2dTranspose(channels, channels, 2 * factor, factor, pad_mode="pad", padding=factor // 2,
                               group=channels)
    layer.weight.set_data(Tensor(np.tile(bilinear_kernel(factor), (channels, 1, 1, 1))))
    return layer


class IterativeAggregation(nn.Cell):
    """Bring a tuple of maps to the size and channels of the first one and join each with the one before it: as many
    maps.

    Args: the first map's channels; the others' channels and strides relative to the first map. Maps are added and
    convolved by a deformable convolution, or, if dcn_impl is None, concatenated and convolved by an ordinary one.
    depthwise: each channel is upsampled by itself. shared: all steps use the first one's layers.
    """

    def __init__(self, channels: int, others: Sequence[int], factors: Sequence[int], dcn_impl: str | None,
                 depthwise: bool = True, shared: bool = False) -> None:
        super().__init__()
        self.concatenated = dcn_impl is None
        steps: list[tuple] = []
        for number, (other, factor) in enumerate(zip(others, factors), 1):
            if shared and steps:
                steps.append(steps[0])
                continue
            up = _upsample(channels, factor) if depthwise else bilinear_deconv(channels, channels, factor)
            if dcn_impl is None:
                cells = _conv_norm(other, channels, 1), up, _conv_norm(2 * channels, channels, 3)
            else:
                cells = DeformBlock(other, channels, dcn_impl), up, DeformBlock(channels, channels, dcn_impl)
            for name, cell in zip(("proj", "up", "node"), cells):
                self.insert_child_to_cell(f"{name}_{number}", cell)
            steps.append(cells)
        self.steps = steps

    def construct(self, maps: tuple) -> tuple:
        joined = maps[:1]
        for (project, up, node), features in zip(self.steps, maps[1:]):
            features = up(project(features))
            both = ops.concat((joined[-1], features), 1) if self.concatenated else features + joined[-1]
            joined += (node(both),)
        return joined


class DLAUp(nn.Cell):
    """Aggregate maps from the smallest on: DLA's tuple of maps -> the last map of each step, the largest first.

    Args: the maps' channels, and options of IterativeAggregation.
    """

    def __init__(self, channels: Sequence[int], dcn_impl: str | None, **options: bool) -> None:
        super().__init__()
        self.steps = []
        for step, start in enumerate(range(len(channels) - 2, -1, -1)):
            # The maps joined by an earlier step have the size and channels of that step's first map.
            others = [channels[start + 1]] * (step + 1)
            cell = IterativeAggregation(channels[start], others, [2] * (step + 1), dcn_impl, **options)
            self.insert_child_to_cell(f"ida_{step}", cell)
            self.steps.append((start, cell))

    def construct(self, maps: tuple) -> tuple:
        last = ()  # type: tuple
        for start, aggregation in self.steps:
            maps = maps[:start] + aggregation(maps[start:])
            last = (maps[-1],) + last
        return last


class DLAUpsampling(nn.Cell):
    """DLA's maps with the given channels -> features [N, out_channels, H, W] with the size of the first map."""

    small_heads = False

    def __init__(self, channels: Sequence[int], dcn_impl: str) -> None:
        super().__init__()
        self.out_channels = channels[0]
        self.dla_up = DLAUp(channels, dcn_impl)
        self.ida_up = IterativeAggregation(channels[0], channels[1:-1], _factors(channels[1:-1]), dcn_impl)

    def construct(self, maps: tuple) -> Tensor:
        return self.ida_up(self.dla_up(maps))[-1]


class PlainUpsampling(nn.Cell):
    """DLAUpsampling without deformable convolutions, which ends with the last step (the original's dlav0.py)."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = channels[0]
        self.dla_up = DLAUp(channels, None)

    def construct(self, maps: tuple) -> Tensor:
        return self.dla_up(maps)[0]


class ZooUpsampling(nn.Cell):
    """DLAUpsampling without deformable convolutions, as in the model zoo's pose network.

    The steps from one size to the next share their layers, channels are mixed while they are upsampled, and the last
    aggregation includes the smallest map.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = channels[0]
        self.dla_up = DLAUp(channels, None, depthwise=False, shared=True)
        self.ida_up = IterativeAggregation(channels[0], channels[1:], _factors(channels[1:]), None, depthwise=False)

    def construct(self, maps: tuple) -> Tensor:
        return self.ida_up(self.dla_up(maps) + maps[-1:])[-1]


def _factors(channels: Sequence[int]) -> list[int]:
    """The strides, relative to a first map, of the maps with these channels after it."""
    return [2 ** (number + 1) for number in range(len(channels))]
