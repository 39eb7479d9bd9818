"""ResNet 18/34/50/101 without the classifier (He et al. 2015), as the original's backbone.

Cells are named as in PyTorch's ResNet, so that weights map name by name. A block's stride sits in its 3x3 convolution.
"""
from mindspore import nn
from mindspore.common.initializer import HeNormal


def _conv(in_channels, out_channels, kernel_size, stride=1):
    return nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, pad_mode="pad", padding=kernel_size // 2,
        weight_init=HeNormal(mode="fan_out", nonlinearity="relu"),
    )


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions and a shortcut: [N, in, H, W] -> [N, channels, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, in_channels, channels, stride, downsample):
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def construct(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))


class Bottleneck(nn.Cell):
    """1x1, 3x3, 1x1 convolutions and a shortcut: [N, in, H, W] -> [N, 4 channels, H/stride, W/stride]."""

    expansion = 4

    def __init__(self, in_channels, channels, stride, downsample):
        super().__init__()
        self.conv1 = _conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv(channels, channels * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = downsample

    def construct(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.downsample(x))


BLOCKS = {"BasicBlock": BasicBlock, "Bottleneck": Bottleneck}


class ResNet(nn.Cell):
    """Image batch [N, 3, H, W] -> features [N, out_channels, H/32, W/32].

    Args: block_class "BasicBlock" (18, 34) or "Bottleneck" (50, 101); num_stacks the blocks stacked in each of
    the four stages ([2, 2, 2, 2] is ResNet18).
    """

    def __init__(self, block_class="BasicBlock", num_stacks=(2, 2, 2, 2)):
        super().__init__()
        block = BLOCKS[block_class]
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, pad_mode="pad", padding=1)
        self.layer1 = _stage(block, 64, 64, num_stacks[0], 1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, num_stacks[1], 2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, num_stacks[2], 2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, num_stacks[3], 2)
        self.out_channels = 512 * block.expansion

    def construct(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


def _stage(block, in_channels, channels, depth, stride):
    out_channels = channels * block.expansion
    shortcut = nn.Identity()
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.SequentialCell(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
    blocks = [block(in_channels, channels, stride, shortcut)]
    blocks += [block(out_channels, channels, 1, nn.Identity()) for _ in range(1, depth)]
    return nn.SequentialCell(*blocks)
