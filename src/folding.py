"""A trained network made faster, with the same outputs: batch norm folded into the layers before it."""
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

MAX_MEAN = 80  # 80 x 2^-24, half the last bit of float32, is 5e-6


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
    if hasattr(network.backbone, "maxpool"):  # a ResNet's, behind a ReLU
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
