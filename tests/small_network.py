"""Small networks that replace resdcn_18 in tests of code around a network, since their graphs compile faster.

A training step's graph takes 12 s of a core for a ResNet with one block per stage, 7 s for SMALL, 4 s for LEAST.
"""
from mindspore import nn

from src.network.architectures import Architecture
from src.network.resnet import BasicBlock, conv, upsampling


class Features(nn.Cell):
    """The backbone's features, [N, 16, H/4, W/4], unchanged."""

    out_channels = 16

    def construct(self, x):
        return x


def small_backbone():
    """Image batch [N, 3, H, W] -> features [N, 32, H/8, W/8]; made of cells that the ONNX export supports."""
    block = BasicBlock(16, 32, 2, nn.SequentialCell(conv(16, 32, 1, 2), nn.BatchNorm2d(32)))
    return nn.SequentialCell(conv(3, 16, 7, 4), nn.BatchNorm2d(16), nn.ReLU(), block)


def _build_small(options, dcn_impl):
    return small_backbone(), upsampling(32, (16,), dcn_impl)


def _build_plain(options, dcn_impl):
    return small_backbone(), upsampling(32, (16,), None)


def _build_least(options, dcn_impl):
    return nn.SequentialCell(conv(3, 16, 7, 4), nn.BatchNorm2d(16), nn.ReLU()), Features()


OWN = {"head_conv": 8, "block_class": "BasicBlock", "num_stacks": (1, 1, 1, 1), "stacks": "nothing"}
SMALL = Architecture(_build_small, stride=8, **OWN)  # each kind of cell once
PLAIN = Architecture(_build_plain, stride=8, **OWN)  # without a deformable convolution
LEAST = Architecture(_build_least, stride=4, **OWN)  # one convolution and the heads
