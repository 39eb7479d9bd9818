"""A trained network made faster, with the same outputs: batch norm folded into the layers before it."""
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Normalized:
    """A layer and the batch norm of its output: cells; where the batch norm stands (cell, name); the layer's own bias, None without."""

    layer: nn.Cell
    norm: nn.Cell
    cell: nn.Cell
    name: str
    bias: Parameter | None


def make_for_inference(network):
    """Change a CenterNet that no longer trains into a faster one with the same outputs; returns how many batch norms stay."""
    if hasattr(network.backbone, "maxpool"):  # a ResNet's, behind a ReLU
        network.backbone.maxpool = MaxPoolOfPositive()
    return fold_batch_norm(network)


def fold_batch_norm(network):
    """Put each batch norm of a network that no longer trains into the layer before it; returns how many are left.

    It stays where float32 would lose more than 1e-5 by it: where a channel's mean is more than MAX_MEAN times its standard deviation.
    """
    pairs = normalized_layers(network)
    foldable = [pair for pair in pairs if can_fold(pair)]
    for pair in foldable:
        weight, bias = folded(pair)
        pair.layer.weight.set_data(weight)
        drop_norm(pair, bias)
    return len(pairs) - len(foldable)


def normalized_layers(network):
    """The Normalized pairs of a network. A batch norm follows, in the order of definition in its cell, the layer whose output it takes."""
    pairs = []
    for _, cell in network.cells_and_names():
        children = list(cell.name_cells().items())
        pairs += [Normalized(layer, norm, cell, name, layer.bias) for (_, layer), (name, norm) in zip(children, children[1:])
                  if isinstance(norm, nn.BatchNorm2d)]
    return pairs


def can_fold(pair):
    """Whether float32 keeps a Normalized pair's outputs when its batch norm is folded."""
    factor, mean, _ = _affine(pair.norm)
    return np.abs(mean * factor).max() <= MAX_MEAN


def folded(pair):
    """(weight, bias), Tensors, with which a pair's layer alone gives what both do."""
    factor, mean, beta = _affine(pair.norm)
    bias = 0.0 if pair.bias is None else pair.bias.asnumpy()
    shape = (1, -1, 1, 1) if isinstance(pair.layer, nn.Conv2dTranspose) else (-1, 1, 1, 1)
    weight = pair.layer.weight.asnumpy() * factor.reshape(shape)
    return Tensor(weight.astype(np.float32)), Tensor((beta + (bias - mean) * factor).astype(np.float32))


def drop_norm(pair, bias):
    """Take a pair's batch norm out of the network, and give its layer a bias, a Tensor."""
    pair.layer.bias = Parameter(bias, name=pair.norm.beta.name)
    pair.layer.has_bias = True
    if isinstance(pair.cell, nn.SequentialCell):
        pair.cell[int(pair.name)] = nn.Identity()
    else:
        setattr(pair.cell, pair.name, nn.Identity())


def _affine(norm):
    """A batch norm is (x - mean) * factor + beta: factor, mean and beta, float64 [C]."""
    gamma, beta, mean, variance = (
        values.asnumpy().astype(np.float64) for values in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    return gamma / np.sqrt(variance + norm.eps), mean, beta
