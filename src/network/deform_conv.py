"""Modulated deformable convolution (DCNv2, Zhu et al. 2018) as the original's `DCN` layer.

Offsets are channels [all x, all y, mask], one channel per kernel tap (row by row), the order of
`ops.deformable_conv2d`; the original's (y, x) pairs per tap are put in this order when weights are converted.
"""
import math

import mindspore as ms
from mindspore import Parameter, nn, ops
from mindspore.common.initializer import Uniform, initializer

from ..core.errors import UserError

# The device's operator, of which ops.deformable_conv2d is made; MindSpore announces that function's removal after 2.9.
DeformableOffsets = getattr(ops.operations, "DeformableOffsets", None)


def resolve_dcn_impl(dcn_impl, device_target):
    """Return "native" or "composite" for "auto": native on Ascend, composite elsewhere (faster there, same numbers).

    Where MindSpore lacks the operator, "auto" is composite, and "native" raises UserError.
    """
    if dcn_impl == "native" and DeformableOffsets is None:
        raise UserError(f"net_config.dcn_impl is native, and MindSpore {ms.__version__} has no DeformableOffsets; use auto or composite")
    if dcn_impl != "auto":
        return dcn_impl
    return "native" if device_target == "Ascend" and DeformableOffsets else "composite"


def deform_conv_native(x, offset_mask, weight):
    """The device's own operator, which samples, and one convolution; arguments as deform_conv_composite.

    It samples in the type of its inputs, and coordinates need float32.
    """
    out_channels, _, kernel, _ = weight.shape
    sample = DeformableOffsets((1, 1, 1, 1), (kernel // 2,) * 4, (kernel, kernel))
    sampled = sample(x.astype(ms.float32), offset_mask.astype(ms.float32))  # [N, C, k H, k W]
    return ops.Conv2D(out_channels, kernel, stride=kernel)(sampled.astype(x.dtype), weight.astype(x.dtype))


def deform_conv_composite(x, offset_mask, weight):
    """Deformable convolution, stride 1, same size, out of one gather and two matrix products.

    Args: x [N, C, H, W]; offset_mask [N, 3 k k, H, W] (x offsets, y offsets in input pixels, mask factors);
    weight [O, C, k, k], k odd. Returns [N, O, H, W]. Samples outside the image count as 0.
    """
    n, channels, height, width = x.shape
    out_channels, _, kernel, _ = weight.shape
    taps = kernel * kernel
    # Rows in the order (image, pixel, tap), so that the gathered rows are the matrix product's rows as they lie.
    offset_mask = offset_mask.astype(ms.float32).reshape(n, 3, taps, height * width).transpose(1, 0, 3, 2)
    pixel = ops.arange(height * width).reshape(height * width, 1)
    tap = ops.arange(taps).reshape(1, taps)
    base_x = (pixel % width + tap % kernel - kernel // 2).astype(ms.float32)
    base_y = (pixel // width + tap // kernel - kernel // 2).astype(ms.float32)

    table = x.transpose(0, 2, 3, 1).reshape(n * height * width, channels)
    first_row = (ops.arange(n) * (height * width)).reshape(n, 1, 1)
    columns = _neighbors(base_x + offset_mask[0], width)
    indices, factors = (), ()
    for row, share_y in _neighbors(base_y + offset_mask[1], height):
        for column, share_x in columns:
            indices += (first_row + row * width + column,)
            factors += (share_y * share_x * offset_mask[2],)
    corners = ops.gather(table, ops.stack(indices, -1).reshape(-1), 0).reshape(-1, 4, channels)
    # A product of matrices takes a third less time on a CPU than scaling and adding the four corners.
    samples = ops.BatchMatMul()(ops.stack(factors, -1).reshape(-1, 1, 4).astype(x.dtype), corners)
    matrix = weight.transpose(2, 3, 1, 0).reshape(taps * channels, out_channels)
    # Not ops.matmul, of which MindSpore warns where height and width vary.
    out = ops.MatMul()(samples.reshape(n * height * width, taps * channels), matrix.astype(x.dtype))
    return out.reshape(n, height, width, out_channels).transpose(0, 3, 1, 2)


def _neighbors(coordinates, size):
    """The pixels below and above coordinates on an axis of a size: two pairs of index, clipped to the axis, and share, 0 outside."""
    # Two pixels outside nothing is sampled any more: the clip keeps wild offsets inside the integer range.
    coordinates = ops.clamp(coordinates, -2.0, size + 1.0)
    below = ops.floor(coordinates)
    fraction = coordinates - below
    pairs = ()
    for pixel, share in ((below, 1.0 - fraction), (below + 1.0, fraction)):
        index = ops.clamp(pixel, 0.0, size - 1.0)
        pairs += ((index.astype(ms.int32), share * (index == pixel).astype(ms.float32)),)
    return pairs


class DeformConv2d(nn.Cell):
    """The original's DCN layer: a convolution predicts offsets and masks, with which another one samples.

    [N, in_channels, H, W] -> [N, out_channels, H, W]; stride 1, same size. It starts as a plain convolution
    of half strength: offsets 0, masks sigmoid(0). The bias is kept, though a batch norm follows, so that
    weights go to the original and back unchanged.
    """

    def __init__(self, in_channels, out_channels, kernel_size=3, dcn_impl="composite"):
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

    def construct(self, x):
        offset_mask = self.conv_offset_mask(x)
        offset = offset_mask[:, : 2 * self.taps]
        mask = ops.sigmoid(offset_mask[:, 2 * self.taps :])
        out = self.sample(x, ops.concat((offset, mask), 1), self.weight)
        return out + self.bias.astype(out.dtype).reshape(1, -1, 1, 1)
