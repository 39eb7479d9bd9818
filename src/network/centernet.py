"""The detector: backbone, upsampling and heads; its inference network."""
import math

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Normal

from ..tasks import task_of
from .architectures import ARCHITECTURES, resolved


class CenterNet(nn.Cell):
    """Image batch [N, 3, H, W] -> the maps {head: [N, its channels, H/4, W/4]} of each stack, one after the other.

    What detects are the last stack's. H and W are multiples of the architecture's stride. Args: heads, the task's Heads, whose biases say
    what a heatmap begins with; backbone, a cell; upsampling, a cell that makes of what the backbone gives the features that the
    heads read, [N, out_channels, H/4, W/4], or with an attribute stacks a tuple of as many; head_conv as in net_config.
    Source: paper, section 4.
    """

    def __init__(self, heads, backbone, upsampling, *, head_conv=64):
        super().__init__()
        self.backbone = backbone
        self.deconv_layers = upsampling
        self.stacks = getattr(upsampling, "stacks", 0)  # 0: heads without a number
        self.heads = tuple(head.name for head in heads)
        for head in heads:
            setattr(self, head.name, self._head_of(head, upsampling.out_channels, head_conv))

    def _head_of(self, head, in_channels, head_conv):
        """The cell of a head, or a list of one for each stack."""
        cells = [_head(in_channels, head_conv, head.channels, None if head.heatmap else Normal(0.001)) for _ in range(self.stacks or 1)]
        # The prior of a pixel being a center: sigmoid(-2.19) is 0.1 (Lin et al. 2017, section 4.1).
        for cell in cells:
            cell[2].bias.set_data(Tensor(np.full(cell[2].bias.shape, -2.19 if head.heatmap else 0.0, np.float32)))
        return nn.CellList(cells) if self.stacks else cells[0]

    def last_heads(self):
        """{name: cell} of the heads that detect."""
        return {name: getattr(self, name)[-1] if self.stacks else getattr(self, name) for name in self.heads}

    def construct(self, image):
        features = self.deconv_layers(self.backbone(image))
        # Dictionaries are made by comprehensions: MindSpore cannot differentiate those that are filled entry by entry.
        if not self.stacks:
            return ({name: getattr(self, name)(features) for name in self.heads},)
        maps = ()
        for stack in range(self.stacks):
            maps += ({name: getattr(self, name)[stack](features[stack]) for name in self.heads},)
        return maps


def _head(in_channels, head_conv, out_channels, weight_init=None):
    """3x3 convolution to head_conv channels, ReLU, 1x1 convolution to out_channels."""
    init = weight_init or HeUniform(math.sqrt(5))
    return nn.SequentialCell(
        nn.Conv2d(in_channels, head_conv, 3, pad_mode="pad", padding=1, has_bias=True, weight_init=init, bias_init="zeros"),
        nn.ReLU(),
        nn.Conv2d(head_conv, out_channels, 1, has_bias=True, weight_init=init, bias_init="zeros"),
    )


def build_network(net_config, metainfo, dcn_impl):
    """The CenterNet that net_config describes for a data set's metainfo. Raises UserError for what does not go together."""
    options = resolved(net_config.as_dict())
    backbone, upsampling = ARCHITECTURES[options.arch].build(options, dcn_impl)
    return CenterNet(task_of(net_config).device.heads(net_config, metainfo), backbone, upsampling, head_conv=options.head_conv)


class InferenceMaps(nn.Cell):
    """The network's maps as inference reads them: input batch -> {head: [N, its channels, H/4, W/4]}, heatmaps in [0, 1].

    Args: network; heads, its Heads; input_cell, which makes the network's input of the batch (Normalize, or nn.Identity for normalized
    images); with flip_test the maps are those of the image and its mirror image, as each Head's flip says.
    """

    def __init__(self, network, heads, input_cell, flip_test=False):
        super().__init__(auto_prefix=False)
        self.input_cell = input_cell
        self.network = network
        self.heads = tuple(heads)
        self.names = tuple(head.name for head in heads)
        self.heatmaps = tuple(head.name for head in heads if head.heatmap)
        self.averaged = tuple(head.name for head in heads if head.flip == "mean")
        self.flip_test = flip_test
        self.mirror = ops.ReverseV2(axis=[3])

    def construct(self, image):
        image = self.input_cell(image)
        n = image.shape[0]
        if self.flip_test:
            image = ops.concat((image, self.mirror(image)))
        maps = self.network(image)[-1]
        maps = {name: ops.sigmoid(maps[name]) if name in self.heatmaps else maps[name] for name in self.names}
        if self.flip_test:
            maps = {name: self._flipped(maps[name], n, name in self.averaged) for name in self.names}
        return maps

    def _flipped(self, both, n, averaged):
        """The map of n images, of those and their mirror images."""
        return (both[:n] + self.mirror(both[n:])) / 2 if averaged else both[:n]


class Heatmap(nn.Cell):
    """Input batch -> the heatmap of InferenceMaps alone."""

    def __init__(self, maps):
        super().__init__(auto_prefix=False)
        self.maps = maps
        self.name = maps.heatmaps[0]

    def construct(self, image):
        return self.maps(image)[self.name]


class DetectionNetwork(nn.Cell):
    """Input batch of InferenceMaps -> detections as the task's Decode gives them."""

    def __init__(self, maps, decode):
        super().__init__(auto_prefix=False)
        self.maps = maps
        self.decode = decode

    def construct(self, image):
        return self.decode(self.maps(image))


def build_detection(network, net_config, metainfo, k, input_cell, flip_test=False):
    """The DetectionNetwork of a CenterNet, which net_config describes, for the k best detections; the others as in InferenceMaps."""
    device = task_of(net_config).device
    maps = InferenceMaps(network, device.heads(net_config, metainfo), input_cell, flip_test)
    return DetectionNetwork(maps, device.Decode(net_config, metainfo, k)).set_train(False)
