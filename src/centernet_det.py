"""The detector: backbone, upsampling and heads; its training step; its inference network."""
import math

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.amp import all_finite
from mindspore.common.initializer import HeUniform, Normal

from src.decode import decode
from src.deform_conv import DeformConv2d
from src.losses import CenterNetLoss
from src.resnet import ResNet

BACKBONE_STRIDE = 32
UPSAMPLING_CHANNELS = (256, 128, 64)
MAX_MEAN = 80  # 80 x 2^-24, half the last bit of float32, is 5e-6
STATISTICS = ("moving_mean", "moving_variance")  # endings of the names of batch norm's
LARGEST_SCALE = 2.0**24  # of the loss; beyond it float32 gradients themselves may overflow


class CenterNet(nn.Cell):
    """Image batch [N, 3, H, W], H and W multiples of 32 -> hm [N, C, H/4, W/4] (logits), wh [N, 2 or 2 C, ...], reg [N, 2, ...].

    Without reg_offset there is no reg head, and reg is None. Args: as in net_config; num_classes C; dcn_impl
    "native" or "composite". Source: paper, section 4, and the original's resnet_dcn.py.
    """

    def __init__(self, num_classes, block_class, num_stacks, down_ratio, head_conv, cat_spec_wh, reg_offset, dcn_impl):
        super().__init__()
        self.backbone = ResNet(block_class, num_stacks)
        stages = int(math.log2(BACKBONE_STRIDE // down_ratio))
        layers = []
        channels = self.backbone.out_channels
        for out_channels in UPSAMPLING_CHANNELS[:stages]:
            layers += _upsampling(channels, out_channels, dcn_impl)
            channels = out_channels
        self.deconv_layers = nn.SequentialCell(*layers)
        self.hm = _head(channels, head_conv, num_classes)
        # The prior of a pixel being a centre: sigmoid(-2.19) is 0.1 (Lin et al. 2017, section 4.1).
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
    return CenterNet(
        num_classes, net_config.block_class, net_config.num_stacks, net_config.down_ratio, net_config.head_conv,
        net_config.cat_spec_wh, net_config.reg_offset, dcn_impl,
    )


def build_loss(net_config, ranks=1, sum_over_ranks=None):
    """The CenterNetLoss that net_config describes."""
    return CenterNetLoss(
        net_config.mse_loss, net_config.reg_loss, net_config.dense_wh, net_config.norm_wh, net_config.cat_spec_wh,
        net_config.reg_offset, net_config.hm_weight, net_config.wh_weight, net_config.off_weight, ranks, sum_over_ranks,
    )


def set_precision(network, amp_level):
    """Let a CenterNet compute in float16 where amp_level says so; its parameters stay float32. Returns the network.

    O0 is float32; O2 float16 but for the heads; O3 with the heads; auto leaves the choice to MindSpore, operator by
    operator. Batch norm stays float32 everywhere, the coordinates of the deformable convolutions, too, and so does all
    that follows the network: sigmoid and losses.
    """
    if amp_level == "O0":
        return network
    cells = [cell for _, cell in network.cells_and_names()]
    kept = [cell.conv_offset_mask for cell in cells if isinstance(cell, DeformConv2d)]
    if amp_level != "auto":
        network.to_float(ms.float16)
        kept += [cell for cell in cells if isinstance(cell, nn.BatchNorm2d)]
    if amp_level == "O2":
        kept += [head for head in (network.hm, network.wh, network.reg) if head is not None]
    for cell in kept:
        cell.to_float(ms.float32)
    return ms.amp.auto_mixed_precision(network, "auto") if amp_level == "auto" else network


class NetworkWithLoss(nn.Cell):
    """Network and loss: (image, *targets) -> (loss, hm_loss, wh_loss, off_loss)."""

    def __init__(self, network, loss):
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss

    def construct(self, image, hm, ind, reg, reg_mask, wh, wh_mask):
        hm_out, wh_out, reg_out = self.network(image)
        return self.loss(hm_out, wh_out, reg_out, hm, ind, reg, reg_mask, wh, wh_mask)


_unscale = ops.MultitypeFuncGraph("unscale")


@_unscale.register("Tensor", "Tensor")
def _tensor_unscale(scale, grad):
    return grad.astype(ms.float32) / scale


_copy = ops.MultitypeFuncGraph("copy")


@_copy.register("Tensor")
def _tensor_copy(parameter):
    return parameter * 1.0


_restore = ops.MultitypeFuncGraph("restore")


@_restore.register("Tensor", "Tensor", "Tensor")
def _tensor_restore(wanted, parameter, value):
    return ops.assign(parameter, ops.select(wanted, value, parameter))


class TrainStep(nn.Cell):
    """One training step on any device: a forward and a backward pass, gradients averaged over the devices, one update.

    The loss is multiplied by the scale before the backward pass; if a gradient on any device is not finite, the step
    is skipped everywhere (weights, moments and global step stay). With loss_scale None there is no scale and no check.
    With growth_interval N the scale doubles after N good steps in a row and halves, down to 1, on an overflow. With float16 a loss that
    is not finite is an overflow, too, and batch norm forgets what it saw in the step.

    Args: ranks, grad_reducer and sum_over_ranks (a cell that adds a tensor up over the ranks) of a distributed training; device_input
    makes NetworkWithLoss's batch of the pipeline's. construct: a batch -> loss, hm_loss, wh_loss, off_loss (means over the ranks),
    overflow, scale, learning rate, and whether a rank's parameter `stop` was not 0 (scalars): so all ranks end at the same step.
    """

    def __init__(self, network_with_loss, optimizer, loss_scale=None, clip_grad_norm=0.0, ranks=1, grad_reducer=None, sum_over_ranks=None,
                 growth_interval=0, device_input=None, float16=False):
        super().__init__(auto_prefix=False)
        self.device_input = device_input
        self.network = network_with_loss
        self.network.set_grad()
        self.optimizer = optimizer
        self.check_overflow = loss_scale is not None
        self.scale = Parameter(Tensor(loss_scale or 1.0, ms.float32), name="loss_scale", requires_grad=False)
        self.growth_interval = growth_interval if self.check_overflow else 0
        self.good_steps = Parameter(Tensor(0, ms.int32), name="good_steps", requires_grad=False)
        self.stop = Parameter(Tensor(0.0, ms.float32), name="stop", requires_grad=False)
        self.float16 = float16 and self.check_overflow
        statistics = [parameter for parameter in network_with_loss.get_parameters() if parameter.name.endswith(STATISTICS)]
        self.statistics = ParameterTuple(statistics if self.float16 else [])
        self.clip_grad_norm = clip_grad_norm
        self.ranks = ranks
        self.reduce_gradients = grad_reducer or nn.Identity()
        self.sum_over_ranks = sum_over_ranks or nn.Identity()
        self.map = ops.HyperMap()
        self.forward_backward = ops.value_and_grad(self._scaled_loss, None, optimizer.parameters, has_aux=True)

    def _scaled_loss(self, *batch):
        losses = self.network(*batch)
        return losses[0] * self.scale, losses

    def construct(self, *batch):
        if self.device_input is not None:
            batch = self.device_input(*batch)
        statistics = self.map(_copy, self.statistics) if self.statistics else ()
        (_, losses), grads = self.forward_backward(*batch)
        grads = self.reduce_gradients(grads)
        grads = self.map(ops.partial(_unscale, self.scale), grads)
        learning_rate = self.optimizer.get_lr()
        scale = self.scale * 1.0
        overflows = ops.zeros((), ms.float32)
        if self.check_overflow:
            overflows = ops.logical_not(all_finite(grads)).astype(ms.float32)  # which knows that Ascend 910A saturates
        if self.float16:
            overflows = overflows + ops.logical_not(ops.isfinite(losses[0])).astype(ms.float32)
        sums = self.sum_over_ranks(ops.stack(losses + (overflows, self.stop * 1.0)))
        losses = tuple(sums[i] / self.ranks for i in range(4))
        overflow = sums[4] > 0
        stop = sums[5] > 0
        if not overflow:
            if self.clip_grad_norm > 0:
                grads = ops.clip_by_global_norm(grads, self.clip_grad_norm)
            losses = ops.depend(losses, self.optimizer(grads))
        if self.growth_interval > 0:
            losses = ops.depend(losses, self._adapt_scale(scale, overflow))
        if self.statistics:
            losses = ops.depend(losses, self.map(ops.partial(_restore, overflow), self.statistics, statistics))
        return losses + (overflow, scale, learning_rate, stop)

    def _adapt_scale(self, scale, overflow):
        """The scale for the next step."""
        good_steps = ops.select(overflow, ops.zeros_like(self.good_steps), self.good_steps + 1)
        grow = good_steps >= self.growth_interval
        grown = ops.select(grow, ops.minimum(scale * 2.0, LARGEST_SCALE), scale)
        ops.assign(self.scale, ops.select(overflow, ops.maximum(scale * 0.5, 1.0), grown))
        return ops.assign(self.good_steps, ops.select(grow, ops.zeros_like(good_steps), good_steps))


class HeatmapNetwork(nn.Cell):
    """The network's maps as inference reads them: input batch -> heat [N, C, H/4, W/4] in [0, 1], wh, reg.

    Args: input_cell, which makes the network's input of the batch (Normalize, or nn.Identity for normalised images); with flip_test
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


class MaxPoolOfPositive(nn.Cell):
    """3x3 max-pooling with stride 2 and padding 1 of values that are not negative, [N, C, H, W]: what is padded may then be 0.

    Several times as fast on a CPU as nn.MaxPool2d with padding, whose gradient, however, is faster.
    """

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(3, 2, pad_mode="valid")

    def construct(self, x):
        n, channels, height, width = x.shape
        line = ops.zeros((n, channels, 1, width), x.dtype)
        x = ops.concat((line, x, line), 2)
        column = ops.zeros((n, channels, height + 2, 1), x.dtype)
        return self.pool(ops.concat((column, x, column), 3))


def make_for_inference(network):
    """Change a CenterNet that no longer trains into a faster one with the same outputs; returns how many batch norms stay."""
    network.backbone.maxpool = MaxPoolOfPositive()
    return fold_batch_norm(network)


def fold_batch_norm(network):
    """Put each batch norm of a network that no longer trains into the layer before it; returns how many are left.

    A cell's batch norm follows, in the order of definition, the layer whose output it takes. It stays where float32 would
    lose more than 1e-5 by it: where a channel's mean is more than MAX_MEAN times its standard deviation.
    """
    left = 0
    for _, cell in list(network.cells_and_names()):
        children = list(cell.name_cells().items())
        for (_, layer), (name, norm) in zip(children, children[1:]):
            if isinstance(norm, nn.BatchNorm2d):
                if not _fold(layer, norm):
                    left += 1
                elif isinstance(cell, nn.SequentialCell):
                    cell[int(name)] = nn.Identity()
                else:
                    setattr(cell, name, nn.Identity())
    return left


def _fold(layer, norm):
    gamma, beta, mean, variance = (
        values.asnumpy().astype(np.float64) for values in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    factor = gamma / np.sqrt(variance + norm.eps)
    if np.abs(mean * factor).max() > MAX_MEAN:
        return False
    bias = 0.0 if layer.bias is None else layer.bias.asnumpy()
    shape = (1, -1, 1, 1) if isinstance(layer, nn.Conv2dTranspose) else (-1, 1, 1, 1)
    layer.weight.set_data(Tensor((layer.weight.asnumpy() * factor.reshape(shape)).astype(np.float32)))
    layer.bias = Parameter(Tensor((beta + (bias - mean) * factor).astype(np.float32)), name=norm.beta.name)
    layer.has_bias = True
    return True
