"""Faster inference with the same outputs: batch norm folded into the preceding layers."""
from dataclasses import dataclass

import numpy as np
from mindspore import Parameter, Tensor, nn

MAX_MEAN = 80  # 80 * 2^-24 (half the last bit of float32) is 5e-6


@dataclass(frozen=True)
class Normalized:
    """A layer and the batch norm of its output; the norm's parent cell and its name in it; the layer's bias."""

    layer: nn.Cell
    norm: nn.Cell
    cell: nn.Cell
    name: str
    bias: Parameter | None


def fold_batch_norm(network: nn.Cell) -> int:
    """Fold each batch norm of a network, in place, into the layer before it; returns the number of batch norms kept.

    One is kept if folding would lose more than 1e-5 in float32: if a channel's mean is more than MAX_MEAN standard
    deviations.
    """
    pairs = normalized_layers(network)
    foldable = [pair for pair in pairs if can_fold(pair)]
    for pair in foldable:
        weight, bias = folded(pair)
        pair.layer.weight.set_data(weight)
        drop_norm(pair, bias)
    return len(pairs) - len(foldable)


def normalized_layers(network: nn.Cell) -> list[Normalized]:
    """Return the Normalized pairs of a network. In its parent cell a batch norm is defined right after its layer."""
    pairs = []
    for _, cell in network.cells_and_names():
        children = list(cell.name_cells().items())
        pairs += [Normalized(layer, norm, cell, name, layer.bias)
                  for (_, layer), (name, norm) in zip(children, children[1:]) if isinstance(norm, nn.BatchNorm2d)]
    return pairs


def can_fold(pair: Normalized) -> bool:
    """Whether folding a pair's batch norm keeps its outputs in float32."""
    factor, mean, _ = _affine(pair.norm)
    return np.abs(mean * factor).max() <= MAX_MEAN


def folded(pair: Normalized) -> tuple[Tensor, Tensor]:
    """Return (weight, bias) with which a pair's layer alone computes the output of both."""
    factor, mean, beta = _affine(pair.norm)
    bias = 0.0 if pair.bias is None else pair.bias.asnumpy()
    shape = (1, -1, 1, 1) if isinstance(pair.layer, nn.Conv2dTranspose) else (-1, 1, 1, 1)
    weight = pair.layer.weight.asnumpy() * factor.reshape(shape)
    return Tensor(weight.astype(np.float32)), Tensor((beta + (bias - mean) * factor).astype(np.float32))


def drop_norm(pair: Normalized, bias: Tensor) -> None:
    """Remove a pair's batch norm from the network, and set its layer's bias."""
    pair.layer.bias = Parameter(bias, name=pair.norm.beta.name)
    pair.layer.has_bias = True
    if isinstance(pair.cell, nn.SequentialCell):
        pair.cell[int(pair.name)] = nn.Identity()
    else:
        setattr(pair.cell, pair.name, nn.Identity())


def _affine(norm: nn.Cell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factor, mean and beta, float64 [C], of a batch norm: (x - mean) * factor + beta."""
    gamma, beta, mean, variance = (values.asnumpy().astype(np.float64) for values in
                                   (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
    return gamma / np.sqrt(variance + norm.eps), mean, beta
