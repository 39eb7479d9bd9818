"""The detector: backbone, upsampling and heads; its inference network."""
import math

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import HeUniform, Normal

from src.decode import decode
from src.deform_conv import DeformConv2d
from src.resnet import ResNet

BACKBONE_STRIDE = 32
UPSAMPLING_CHANNELS = (256, 128, 64)


class CenterNet(nn.Cell):
    """Image batch [N, 3, H, W], H and W multiples of 32 -> hm [N, C, H/4, W/4] (logits), wh [N, 2 or 2 C, ...], reg [N, 2, ...].

    Without reg_offset there is no reg head, and reg is None. Args: as in net_config; num_classes C; dcn_impl
    "native" or "composite". Source: paper, section 4, and the original's resnet_dcn.py.
    """

    def __init__(self, num_classes, backbone, *, down_ratio=4, head_conv=64, cat_spec_wh=False, reg_offset=True, dcn_impl="composite"):
        super().__init__()
        self.backbone = backbone
        stages = int(math.log2(BACKBONE_STRIDE // down_ratio))
        layers = []
        channels = self.backbone.out_channels
        for out_channels in UPSAMPLING_CHANNELS[:stages]:
            layers += _upsampling(channels, out_channels, dcn_impl)
            channels = out_channels
        self.deconv_layers = nn.SequentialCell(*layers)
        self.hm = _head(channels, head_conv, num_classes)
        # The prior of a pixel being a center: sigmoid(-2.19) is 0.1 (Lin et al. 2017, section 4.1).
        self.hm[2].bias.set_data(Tensor(np.full(num_classes, -2.19, np.float32)))
        self.wh = _head(channels, head_conv, 2 * num_classes if cat_spec_wh else 2, Normal(0.001))
        self.reg = _head(channels, head_conv, 2, Normal(0.001)) if reg_offset else None

    def construct(self, image):
        features = self.deconv_layers(self.backbone(image))
        reg = None if self.reg is None else self.reg(features)
        return self.hm(features), self.wh(features), reg


def _upsampling(in_channels, out_channels, dcn_impl):
    """One stage: deformable convolution, then a transposed one that doubles the resolution."""
    return [
        DeformConv2d(in_channels, out_channels, dcn_impl=dcn_impl),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        _bilinear_deconv(out_channels),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    ]


def _bilinear_deconv(channels):
    """4x4 transposed convolution, stride 2, that starts as bilinear upsampling of every channel, with some noise between channels.

    The original starts so in its first channel alone, and as noise in the others; from scratch, places are then learnt much later.
    """
    deconv = nn.Conv2dTranspose(channels, channels, 4, 2, pad_mode="pad", padding=1, weight_init=HeUniform(math.sqrt(5)))
    ramp = 1 - np.abs(np.arange(4) / 2 - 0.75)
    weight = 0.3 * deconv.weight.asnumpy()
    weight[np.arange(channels), np.arange(channels)] = np.outer(ramp, ramp)
    deconv.weight.set_data(Tensor(weight))
    return deconv


def _head(in_channels, head_conv, out_channels, weight_init=None):
    """3x3 convolution to head_conv channels, ReLU, 1x1 convolution to out_channels."""
    init = weight_init or HeUniform(math.sqrt(5))
    return nn.SequentialCell(
        nn.Conv2d(in_channels, head_conv, 3, pad_mode="pad", padding=1, has_bias=True, weight_init=init, bias_init="zeros"),
        nn.ReLU(),
        nn.Conv2d(head_conv, out_channels, 1, has_bias=True, weight_init=init, bias_init="zeros"),
    )


def build_network(net_config, num_classes, dcn_impl):
    """The CenterNet that net_config describes."""
    backbone = ResNet(net_config.block_class, net_config.num_stacks)
    return CenterNet(num_classes, backbone, down_ratio=net_config.down_ratio, head_conv=net_config.head_conv,
                     cat_spec_wh=net_config.cat_spec_wh, reg_offset=net_config.reg_offset, dcn_impl=dcn_impl)


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
        hm, wh, reg = self.network(image)
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
