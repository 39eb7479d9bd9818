"""The detector: backbone, upsampling and heads; its inference network."""
import math

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Normal

from ..tasks.detection.device import decode
from .architectures import ARCHITECTURES, resolved


class CenterNet(nn.Cell):
    """Image batch [N, 3, H, W] -> hm [N, C, H/4, W/4] (logits), wh [N, 2 or 2 C, ...], reg [N, 2, ...], of each stack one after the other.

    What detects are the last three. H and W are multiples of the architecture's stride. Without reg_offset there is no reg head, and reg
    is None. Args: num_classes C; backbone, a cell; upsampling, a cell that makes of what the backbone gives the features that the
    heads read, [N, out_channels, H/4, W/4], or with an attribute stacks a tuple of as many; the others as in net_config.
    Source: paper, section 4.
    """

    def __init__(self, num_classes, backbone, upsampling, *, head_conv=64, cat_spec_wh=False, reg_offset=True):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.deconv_layers = upsampling
        self.stacks = getattr(upsampling, "stacks", 0)  # 0: heads without a number
        channels = upsampling.out_channels
        # The prior of a pixel being a center: sigmoid(-2.19) is 0.1 (Lin et al. 2017, section 4.1).
        self.hm = self._heads(channels, head_conv, num_classes, bias=-2.19)
        self.wh = self._heads(channels, head_conv, 2 * num_classes if cat_spec_wh else 2, Normal(0.001))
        self.reg = self._heads(channels, head_conv, 2, Normal(0.001)) if reg_offset else None

    def _heads(self, *shape, bias=0.0):
        """A head, or a list of one for each stack."""
        heads = [_head(*shape) for _ in range(self.stacks or 1)]
        for head in heads:
            head[2].bias.set_data(Tensor(np.full(head[2].bias.shape, bias, np.float32)))
        return nn.CellList(heads) if self.stacks else heads[0]

    def last_heads(self):
        """The heads hm, wh and reg that detect; reg is None without reg_offset."""
        return [head[-1] if head is not None and self.stacks else head for head in (self.hm, self.wh, self.reg)]

    def construct(self, image):
        features = self.deconv_layers(self.backbone(image))
        if not self.stacks:
            return self.hm(features), self.wh(features), None if self.reg is None else self.reg(features)
        maps = ()
        for stack in range(self.stacks):
            reg = None if self.reg is None else self.reg[stack](features[stack])
            maps += (self.hm[stack](features[stack]), self.wh[stack](features[stack]), reg)
        return maps


def _head(in_channels, head_conv, out_channels, weight_init=None):
    """3x3 convolution to head_conv channels, ReLU, 1x1 convolution to out_channels."""
    init = weight_init or HeUniform(math.sqrt(5))
    return nn.SequentialCell(
        nn.Conv2d(in_channels, head_conv, 3, pad_mode="pad", padding=1, has_bias=True, weight_init=init, bias_init="zeros"),
        nn.ReLU(),
        nn.Conv2d(head_conv, out_channels, 1, has_bias=True, weight_init=init, bias_init="zeros"),
    )


def build_network(net_config, num_classes, dcn_impl):
    """The CenterNet that net_config describes. Raises UserError for what does not go together."""
    options = resolved(net_config.as_dict())
    backbone, upsampling = ARCHITECTURES[options.arch].build(options, dcn_impl)
    return CenterNet(num_classes, backbone, upsampling, head_conv=options.head_conv, cat_spec_wh=options.cat_spec_wh,
                     reg_offset=options.reg_offset)


class HeatmapNetwork(nn.Cell):
    """The network's maps as inference reads them: input batch -> heat [N, C, H/4, W/4] in [0, 1], wh, reg.

    Args: input_cell, which makes the network's input of the batch (Normalize, or nn.Identity for normalized images); with flip_test
    heat and wh are averaged over the image and its mirror image, and reg is the image's alone, as in the original.
    """

    def __init__(self, network, input_cell, flip_test=False):
        super().__init__(auto_prefix=False)
        self.input_cell = input_cell
        self.network = network
        self.flip_test = flip_test
        self.mirror = ops.ReverseV2(axis=[3])

    def construct(self, image):
        image = self.input_cell(image)
        n = image.shape[0]
        if self.flip_test:
            image = ops.concat((image, self.mirror(image)))
        hm, wh, reg = self.network(image)[-3:]
        heat = ops.sigmoid(hm)
        if self.flip_test:
            heat = (heat[:n] + self.mirror(heat[n:])) / 2
            wh = (wh[:n] + self.mirror(wh[n:])) / 2
            reg = None if reg is None else reg[:n]
        return heat, wh, reg


class DetectionNetwork(nn.Cell):
    """Input batch of a HeatmapNetwork -> detections [N, K, 6] as decode.decode gives them, in output pixels."""

    def __init__(self, maps, k, cat_spec_wh):
        super().__init__(auto_prefix=False)
        self.maps = maps
        self.k = k
        self.cat_spec_wh = cat_spec_wh

    def construct(self, image):
        heat, wh, reg = self.maps(image)
        return decode(heat, wh, reg, self.k, self.cat_spec_wh)
