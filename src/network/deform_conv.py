"""Modulated deformable convolution (DCNv2, Zhu et al. 2018), the original's `DCN` layer.

Offsets are channels [all x, all y, mask], one per kernel tap (row by row), the order of `ops.deformable_conv2d`;
converting weights reorders the original's (y, x) pairs per tap.
"""
import math
from typing import Any

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import Uniform, initializer

from ..core.errors import UserError

# The device's operator, which ops.deformable_conv2d wraps; that function will be removed after MindSpore 2.9.
DeformableOffsets: Any = getattr(ops.operations, "DeformableOffsets", None)


def resolve_dcn_impl(dcn_impl: str, device_target: str) -> str:
    """Resolve "auto" to "native" on Ascend and "composite" elsewhere, which is faster there and gives the same results.

    If MindSpore lacks the operator, "auto" is composite, and "native" raises UserError.
    """
    if dcn_impl == "native" and DeformableOffsets is None:
        raise UserError(f"net_config.dcn_impl is native, but MindSpore {ms.__version__} has no DeformableOffsets; "
                        "use auto or composite")
    if dcn_impl != "auto":
        return dcn_impl
    return "native" if device_target == "Ascend" and DeformableOffsets else "composite"


def deform_conv_native(x: Tensor, offset_mask: Tensor, weight: Tensor) -> Tensor:
    """Sample with the device's operator, then apply one convolution; arguments as in deform_conv_composite.

    The operator samples in the type of its inputs, and coordinates need float32.
    """
    out_channels, _, kernel, _ = weight.shape
    sample = DeformableOffsets((1, 1, 1, 1), (kernel // 2,) * 4, (kernel, kernel))
    sampled = sample(x.astype(ms.float32), offset_mask.astype(ms.float32))  # [N, C, k H, k W]
    return ops.Conv2D(out_channels, kernel, stride=kernel)(sampled.astype(x.dtype), weight.astype(x.dtype))


def deform_conv_composite(x: Tensor, offset_mask: Tensor, weight: Tensor) -> Tensor:
    """Deformable convolution, stride 1, same size, composed of one gather and two matrix products.

    Args: x [N, C, H, W]; offset_mask [N, 3 k k, H, W] (x offsets, y offsets in input pixels, mask factors); weight [O,
    C, k, k], k odd. Returns [N, O, H, W]. Samples outside the image count as 0.
    """
    n, channels, height, width = x.shape
    out_channels, _, kernel, _ = weight.shape
    taps = kernel * kernel
    # Rows in the order (image, pixel, tap): the gathered rows need no transpose before the matrix product.
    offset_mask = offset_mask.astype(ms.float32).reshape(n, 3, taps, height * width).transpose(1, 0, 3, 2)
    pixel = ops.arange(height * width).astype(ms.int32).reshape(height * width, 1)
    tap = ops.arange(taps).astype(ms.int32).reshape(1, taps)
    base_x = (pixel % width + tap % kernel - kernel // 2).astype(ms.float32)
    base_y = (pixel // width + tap // kernel - kernel // 2).astype(ms.float32)

    table = x.transpose(0, 2, 3, 1).reshape(n * height * width, channels)
    first_row = (ops.arange(n).astype(ms.int32) * (height * width)).reshape(n, 1, 1)
    columns = _neighbors(base_x + offset_mask[0], width)
    indices, factors = (), ()  # type: tuple, tuple
    for row, share_y in _neighbors(base_y + offset_mask[1], height):
        for column, share_x in columns:
            indices += (first_row + row * width + column,)
            factors += (share_y * share_x * offset_mask[2],)
    corners = ops.gather(table, ops.stack(indices, -1).reshape(-1), 0).reshape(-1, 4, channels)
    # On a CPU a matrix product takes a third less time than scaling and adding the four corners.
    samples = ops.BatchMatMul()(ops.stack(factors, -1).reshape(-1, 1, 4).astype(x.dtype), corners)
    matrix = weight.transpose(2, 3, 1, 0).reshape(taps * channels, out_channels)
    # Not ops.matmul: MindSpore logs warnings for it if height and width vary.
    out = ops.MatMul()(samples.reshape(n * height * width, taps * channels), matrix.astype(x.dtype))
    return out.reshape(n, height, width, out_channels).transpose(0, 3, 1, 2)


def _neighbors(coordinates: Tensor, size: int) -> tuple:
    """The pixels below and above coordinates on an axis of a size: for each (index, clipped; weight, 0 outside)."""
    # Coordinates two pixels outside sample nothing; clipping keeps extreme offsets inside the integer range.
    coordinates = ops.clamp(coordinates, -2.0, size + 1.0)
    below = ops.floor(coordinates)
    fraction = coordinates - below
    pairs = ()  # type: tuple
    for pixel, share in ((below, 1.0 - fraction), (below + 1.0, fraction)):
        index = ops.clamp(pixel, 0.0, size - 1.0)
        pairs += ((index.astype(ms.int32), share * (index == pixel).astype(ms.float32)),)
    return pairs


class DeformConv2d(nn.Cell):
    """The original's DCN layer: a convolution predicts offsets and masks for the sampling of another one.

    [N, in_channels, H, W] -> [N, out_channels, H, W]; stride 1, same size. Initialized to a plain convolution of half
    strength: offsets 0, masks sigmoid(0). The bias is redundant before a batch norm, but lets weights convert to the
    original and back unchanged.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, dcn_impl: str = "composite") -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(in_channels * kernel_size**2)
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = Parameter(initializer(Uniform(bound), shape, ms.float32), name="weight")
        self.bias = Parameter(initializer("zeros", (out_channels,), ms.float32), name="bias")
        self.taps = kernel_size**2
        self.conv_offset_mask = nn.Conv2d(
            in_channels, 3 * self.taps, kernel_size, pad_mode="pad", padding=kernel_size // 2, has_bias=True,
            weight_init="zeros", bias_init="zeros",
        )
        self.sample = deform_conv_native if dcn_impl == "native" else deform_conv_composite

    def construct(self, x: Tensor) -> Tensor:
        offset_mask = self.conv_offset_mask(x)
        offset = offset_mask[:, : 2 * self.taps]
        mask = ops.sigmoid(offset_mask[:, 2 * self.taps :])
        out = self.sample(x, ops.concat((offset, mask), 1), self.weight)
        return out + self.bias.astype(out.dtype).reshape(1, -1, 1, 1)
