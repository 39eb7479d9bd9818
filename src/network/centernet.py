"""The detector: backbone, upsampling and heads; its inference network."""
import math
from collections.abc import Sequence
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Normal

from ..tasks import Head, task_of
from .architectures import ARCHITECTURES, resolved


class CenterNet(nn.Cell):
    """Image batch [N, 3, H, W] -> the maps {head: [N, its channels, H/4, W/4]} of each stack, as a tuple.

    Detection uses the last stack's. H and W are multiples of the architecture's stride. Args: heads, the task's Heads,
    which determine the initial biases; backbone, a cell; upsampling, a cell that turns the backbone's output into the
    features for the heads, [N, out_channels, H/4, W/4], or, if it has an attribute stacks, a tuple of that many; heads
    other than heatmaps start near 0, unless it has small_heads = False; head_conv as in net_config. Source: paper,
    section 4; the original's networks, which differ in how their heads start.
    """

    def __init__(self, heads: Sequence[Head], backbone: nn.Cell, upsampling: nn.Cell, *, head_conv: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        self.deconv_layers = upsampling
        self.stacks = getattr(upsampling, "stacks", 0)  # 0: heads without a number
        self.heads = tuple(head.name for head in heads)
        for head in heads:
            setattr(self, head.name, self._head_of(head, upsampling.out_channels, head_conv))

    def _head_of(self, head: Head, in_channels: int, head_conv: int) -> nn.Cell:
        """The cell of a head, or a list with one for each stack."""
        small = not head.heatmap and getattr(self.deconv_layers, "small_heads", True)
        cells = [_head(in_channels, head_conv, head.channels, Normal(0.001) if small else None)
                 for _ in range(self.stacks or 1)]
        # The prior of a pixel being a center: sigmoid(-2.19) is 0.1 (Lin et al. 2017, section 4.1).
        for cell in cells:
            cell[2].bias.set_data(Tensor(np.full(cell[2].bias.shape, -2.19 if head.heatmap else 0.0, np.float32)))
        return nn.CellList(cells) if self.stacks else cells[0]

    def last_heads(self) -> dict[str, nn.Cell]:
        """{name: cell} of the last stack's heads, which detect."""
        return {name: getattr(self, name)[-1] if self.stacks else getattr(self, name) for name in self.heads}

    def construct(self, image: Tensor) -> tuple:
        features = self.deconv_layers(self.backbone(image))
        # Dictionaries are comprehensions: MindSpore cannot differentiate those filled entry by entry.
        if not self.stacks:
            return ({name: getattr(self, name)(features) for name in self.heads},)
        maps = ()  # type: tuple
        for stack in range(self.stacks):
            maps += ({name: getattr(self, name)[stack](features[stack]) for name in self.heads},)
        return maps


def _head(in_channels: int, head_conv: int, out_channels: int, weight_init: Any = None) -> nn.SequentialCell:
    """3x3 convolution to head_conv channels, ReLU, 1x1 convolution to out_channels."""
    init = weight_init or HeUniform(math.sqrt(5))
    return nn.SequentialCell(
        nn.Conv2d(in_channels, head_conv, 3, pad_mode="pad", padding=1, has_bias=True, weight_init=init,
                  bias_init="zeros"),
        nn.ReLU(),
        nn.Conv2d(head_conv, out_channels, 1, has_bias=True, weight_init=init, bias_init="zeros"),
    )


def build_network(net_config: Any, metainfo: dict, dcn_impl: str) -> CenterNet:
    """Build the CenterNet of a net_config for a data set's metainfo. Raises UserError for incompatible settings."""
    options = resolved(net_config.as_dict())
    backbone, upsampling = ARCHITECTURES[options.arch].build(options, dcn_impl)
    heads = task_of(net_config).device.heads(net_config, metainfo)
    return CenterNet(heads, backbone, upsampling, head_conv=options.head_conv)


class InferenceMaps(nn.Cell):
    """The network's maps for inference: input batch -> {head: [N, its channels, H/4, W/4]}, heatmaps in [0, 1].

    Args: network; heads, its Heads; input_cell, which converts the batch into the network's input (Normalize, or
    nn.Identity for normalized images); flip_test combines the maps of the image and its mirror image according to each
    Head's flip.
    """

    def __init__(self, network: nn.Cell, heads: Sequence[Head], input_cell: nn.Cell, flip_test: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.input_cell = input_cell
        self.network = network
        self.heads = tuple(heads)
        self.names = tuple(head.name for head in heads)
        self.heatmaps = tuple(head.name for head in heads if head.heatmap)
        self.halves = nn.CellList([Halves(head) for head in heads])
        self.flip_test = flip_test
        self.mirror = ops.ReverseV2(axis=[3])

    def construct(self, image: Tensor) -> dict:
        image = self.input_cell(image)
        n = image.shape[0]
        if self.flip_test:
            image = ops.concat((image, self.mirror(image)))
        maps = self.network(image)[-1]
        maps = {name: ops.sigmoid(maps[name]) if name in self.heatmaps else maps[name] for name in self.names}
        if self.flip_test:
            maps = {name: halves(maps[name], n) for name, halves in zip(self.names, self.halves)}
        return maps


class Halves(nn.Cell):
    """One Head's maps [2 N, C, H, W] of N images and their mirror images, and N -> [N, C, H, W], combined by flip."""

    def __init__(self, head: Head) -> None:
        super().__init__(auto_prefix=False)
        self.averaged = head.flip == "mean"
        self.mirror = ops.ReverseV2(axis=[3])
        self.order = Tensor(head.mirrored, ms.int32) if head.mirrored else None
        self.signs = Tensor(np.array(head.signs, np.float32).reshape(1, -1, 1, 1)) if head.signs else None

    def construct(self, both: Tensor, n: int) -> Tensor:
        if not self.averaged:
            return both[:n]
        return (both[:n] + self.unmirrored(both[n:])) / 2

    def unmirrored(self, maps: Tensor) -> Tensor:
        """The maps [N, C, H, W] of mirror images as maps of the images."""
        maps = self.mirror(maps)
        if self.order is not None:
            maps = ops.gather(maps, self.order, 1)
        return maps if self.signs is None else maps * self.signs


class Heatmaps(nn.Cell):
    """Input batch -> only the heatmaps of InferenceMaps, [N, their channels, H/4, W/4], that of the centers first."""

    def __init__(self, maps: InferenceMaps) -> None:
        super().__init__(auto_prefix=False)
        self.maps = maps
        self.names = maps.heatmaps

    def construct(self, image: Tensor) -> Tensor:
        maps = self.maps(image)
        return ops.concat(tuple(maps[name] for name in self.names), 1)


class DetectionNetwork(nn.Cell):
    """Input batch of InferenceMaps -> detections of the task's Decode."""

    def __init__(self, maps: InferenceMaps, decode: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.maps = maps
        self.decode = decode

    def construct(self, image: Tensor) -> Tensor:
        return self.decode(self.maps(image))


def build_detection(network: nn.Cell, net_config: Any, metainfo: dict, k: int, input_cell: nn.Cell,
                    flip_test: bool = False) -> DetectionNetwork:
    """Build the DetectionNetwork of a CenterNet and its net_config for the k best detections; see InferenceMaps."""
    device = task_of(net_config).device
    maps = InferenceMaps(network, device.heads(net_config, metainfo), input_cell, flip_test)
    return DetectionNetwork(maps, device.Decode(net_config, metainfo, k)).set_train(False)
