"""Shared by tasks that detect objects as points: losses, peaks, top K (paper, section 3)."""
from dataclasses import dataclass, fields
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ..imaging.gaussians import MSRA_SIGMA, gaussian_kernel, gaussian_radius


def clamped_sigmoid(logits: Tensor) -> Tensor:
    """Sigmoid in float32, clamped to [1e-4, 1 - 1e-4] so that its logarithms stay finite."""
    return ops.clamp(ops.sigmoid(logits.astype(ms.float32)), 1e-4, 1 - 1e-4)


def ones_of(values: Tensor) -> Tensor:
    """1 where values are 1, else 0; float32.

    Not "values == 1.0": MindSpore 2.10 compiles that to EqScalar, which the graph engine of Ascend 910 does not know.
    """
    return ops.equal(values, 1.0).astype(ms.float32)


def total(values: Tensor) -> Tensor:
    """The sum of all values. On a CPU, summing over one axis takes a third of the time of summing over four."""
    return values.reshape(-1).sum()


def focal_loss(prob: Tensor, target: Tensor, norm: Tensor) -> Tensor:
    """Penalty-reduced pixelwise logistic regression (paper, eq. 1; alpha 2, beta 4).

    Args: prob, target [N, C, H, W]; target is 1 at the object centers with gaussians around them; norm, the divisor:
    the number of objects, at least 1.
    """
    positive = ones_of(target)
    positive_loss = ops.log(prob) * ops.square(1.0 - prob) * positive
    negative_loss = ops.log(1.0 - prob) * ops.square(prob) * ops.square(ops.square(1.0 - target))  # 0 at centers
    return -(total(positive_loss) + total(negative_loss)) / norm


def at_least_one(count: Tensor) -> Tensor:
    """The larger of count and 1."""
    return ops.maximum(count, ops.ones_like(count))


def mse_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of the raw heatmap, without sigmoid (the original's `mse_loss` option)."""
    return ops.square(logits.astype(ms.float32) - target).mean()


def gather_at_centers(regression_map: Tensor, ind: Tensor) -> Tensor:
    """[N, D, H, W] and ind [N, M] -> [N, M, D]: the map's values at the object centers."""
    n, depth, height, width = regression_map.shape
    rows = regression_map.transpose(0, 2, 3, 1).reshape(n * height * width, depth)
    first_row = (ops.arange(n).astype(ms.int32) * (height * width)).reshape(n, 1)
    return ops.gather(rows, (ind.astype(ms.int32) + first_row).reshape(-1), 0).reshape(n, -1, depth)


def l1_loss(pred: Tensor, target: Tensor, mask: Tensor, norm: Tensor) -> Tensor:
    """Masked sum of |pred - target|, divided by norm, the number of masked values (the original's RegL1Loss)."""
    return total(ops.abs(pred * mask - target * mask)) / norm


def smooth_l1_loss(pred: Tensor, target: Tensor, mask: Tensor, norm: Tensor) -> Tensor:
    """Huber loss, delta 1, divided by norm, the number of objects, not of values (the original's RegLoss)."""
    diff = ops.abs(pred * mask - target * mask)
    huber = ops.select(ops.less(diff, ops.ones_like(diff)), 0.5 * ops.square(diff), diff - 0.5)
    return total(huber) / norm


def norm_l1_loss(pred: Tensor, target: Tensor, mask: Tensor, norm: Tensor) -> Tensor:
    """L1 loss of pred / target against 1 (the original's NormRegL1Loss)."""
    return l1_loss(pred / (target + 1e-4), ops.ones_like(target), mask, norm)


def suppress_non_peaks(heat: Tensor) -> Tensor:
    """Zero the values of heat [N, C, H, W] that are not the maximum of their 3x3 neighborhood: the paper's NMS.

    The maximum is one of the values itself, bit for bit, on every device: a pooling kernel may compute in float16
    (Ascend 910), and then equals no float32. It is also a little faster than max-pooling on a CPU.
    """
    n, classes, height, width = heat.shape
    maps = heat.reshape(n * classes, height, width)
    wide = ops.concat((maps[:, :, :1], maps, maps[:, :, -1:]), 2)
    peak = ops.maximum(ops.maximum(wide[:, :, :-2], wide[:, :, 2:]), maps)
    high = ops.concat((peak[:, :1], peak, peak[:, -1:]), 1)
    peak = ops.maximum(ops.maximum(high[:, :-2], high[:, 2:]), peak).reshape(n, classes, height, width)
    return heat * (peak == heat).astype(heat.dtype)


def top_k(heat: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest values of heat [N, C, H, W] over all classes, largest first.

    Returns scores, ind (y * W + x), classes: each [N, k]; ind and classes int32.
    """
    n, classes, height, width = heat.shape
    lines = classes * height
    pixels = height * width
    if lines <= k:
        # A map with fewer than k cells: the missing entries have score 0, at the last cell.
        padded = ops.concat((heat.reshape(n, lines * width), ops.full((n, k), -1.0, dtype=heat.dtype)), 1)
        scores, flat = ops.topk(padded, k)
        flat = ops.minimum(flat, lines * width - 1)
        return ops.maximum(scores, 0.0), flat % pixels, flat // pixels
    # The k largest values are in the k lines with the largest maxima.
    heat = heat.reshape(n, lines, width)
    _, best = ops.topk(ops.amax(heat, -1), k)
    image = ops.arange(n).astype(ms.int32).reshape(n, 1)
    candidates = ops.gather(heat.reshape(n * lines, width), (best + image * lines).reshape(-1), 0)
    scores, index = ops.topk(candidates.reshape(n, k * width), k)
    # Not gather_elements, which is an AI CPU kernel on Ascend 910.
    line = ops.gather(best.reshape(-1), (image * k + index // width).reshape(-1), 0).reshape(n, k)
    flat = line * width + index % width
    return scores, flat % pixels, flat // pixels


def top_k_of_channels(heat: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each channel of heat [N, C, H, W], largest first: scores and ind (y * W + x), int32, both
    [N, C, k]."""
    n, channels, height, width = heat.shape
    pixels = height * width
    values = heat.reshape(n, channels, pixels)
    if pixels < k:  # the missing entries have score 0, at the last cell
        values = ops.concat((values, ops.full((n, channels, k), -1.0, dtype=heat.dtype)), 2)
    scores, ind = ops.topk(values, k)
    last = ops.full_like(ind, pixels - 1)
    return ops.maximum(scores, ops.zeros_like(scores)), ops.minimum(ind, last).astype(ms.int32)


def decode_boxes(heat: Tensor, wh: Tensor, reg: Tensor | None, k: int,
                 cat_spec_wh: bool = False) -> tuple[Tensor, Tensor]:
    """Decode boxes from heatmap, size and offset.

    Args: heat [N, C, H, W] after the sigmoid; wh [N, 2 or 2 C, H, W]; reg [N, 2, H, W], or None to put centers in the
    middle of their pixel. Returns [N, k, 6] float32: x1, y1, x2, y2 in output pixels, score, class (0-based); and the
    centers' ind [N, k] int32, y * W + x.
    """
    n, classes, _, width = heat.shape
    scores, ind, labels = top_k(suppress_non_peaks(heat), k)
    x = (ind % width).astype(ms.float32)
    y = (ind // width).astype(ms.float32)
    if reg is None:
        x = x + 0.5
        y = y + 0.5
    else:
        offset = gather_at_centers(reg, ind)
        x = x + offset[:, :, 0]
        y = y + offset[:, :, 1]
    size = gather_at_centers(wh, ind)
    if cat_spec_wh:
        rows = size.reshape(n * k * classes, 2)
        first_row = ops.arange(n * k).astype(ms.int32) * classes
        size = ops.gather(rows, first_row + labels.reshape(-1), 0).reshape(n, k, 2)
    half_w = size[:, :, 0] / 2
    half_h = size[:, :, 1] / 2
    return ops.stack((x - half_w, y - half_h, x + half_w, y + half_h, scores, labels.astype(ms.float32)), -1), ind


@dataclass(frozen=True)
class CommonOptions:
    """The net_config parameters of the same names that every task's loss has."""

    reg_offset: bool = True
    hm_weight: float = 1.0
    wh_weight: float = 0.1
    off_weight: float = 1.0


class TaskLoss(nn.Cell):
    """The base of the tasks' losses, with the fields of options, a dataclass of net_config's parameters, as attributes.

    With several ranks, each sum is divided by the number of objects of all ranks over the number of ranks. So the mean
    over ranks, to which gradients are averaged, is the loss of the global batch, however the objects are distributed.

    Args: options; rank_size, and sum_over_ranks, a cell that sums a tensor over the ranks; micro_batches, the number of
    equal micro-batches that a batch is split into for construct: their losses, with the norms of the full batch, add up
    to the batch's.
    """

    def __init__(self, options: CommonOptions, *, rank_size: int = 1, sum_over_ranks: nn.Cell | None = None,
                 micro_batches: int = 1) -> None:
        super().__init__()
        self.rank_size = rank_size
        self.sum_over_ranks = sum_over_ranks or nn.Identity()
        self.micro_batches = micro_batches
        for field in fields(options):
            setattr(self, field.name, getattr(options, field.name))


def loss_options(kind: Any, net_config: Any) -> Any:
    """An instance of the dataclass `kind` with the net_config parameters of its fields' names."""
    return kind(**{field.name: getattr(net_config, field.name) for field in fields(kind)})


class DrawHeatmap(nn.Cell):
    """Draw heatmaps [N, C, h, w] of objects [N, M, 2] int32 with centers ind [N, M] = y * w + x.

    An object is class and radius, -1 for padding. The result is that of a task's encode_targets: the maximum of a
    class's gaussians, of standard deviation (2 radius + 1) / 6, or gaussians.MSRA_SIGMA with mse_loss. A gaussian is
    the product of one along x and one along y, both from a table: a device's exponential function may be off by several
    1e-6.
    """

    def __init__(self, num_classes: int, out_size: tuple[int, int], mse_loss: bool = False) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.width, self.height = out_size
        table = gaussian_table(out_size, mse_loss)
        self.columns = table.shape[1]
        self.table = Tensor(table.reshape(-1))

    def construct(self, objects: Tensor, ind: Tensor) -> Tensor:
        n, m, _ = objects.shape
        label = objects[:, :, 0]
        first = ((objects[:, :, 1] + 1) * self.columns).reshape(-1, 1)
        along_x = self._gaussian(first, ind % self.width, self.width)
        along_y = self._gaussian(first, ind // self.width, self.height)
        maps = (along_y.reshape(n, m, self.height, 1) * along_x.reshape(n, m, 1, self.width)).reshape(n * m, -1)
        image = ops.arange(n).astype(ms.int32).reshape(n, 1)
        indices = image * self.num_classes + ops.maximum(label, ops.zeros_like(label))
        largest = ops.unsorted_segment_max(maps, indices.reshape(-1), n * self.num_classes)
        # unsorted_segment_max gives the lowest number of the type for classes without objects.
        return ops.maximum(largest, ops.zeros_like(largest)).reshape(n, self.num_classes, self.height, self.width)

    def _gaussian(self, first: Tensor, center: Tensor, length: int) -> Tensor:
        """The table's rows that begin at `first` [N M, 1], centered on their objects: [N M, length]."""
        position = ops.arange(length).astype(ms.int32).reshape(1, length)
        # Not gather_elements, which is an AI CPU kernel on Ascend 910.
        values = ops.gather(self.table, (first + ops.abs(position - center.reshape(-1, 1))).reshape(-1), 0)
        return values.reshape(-1, length)


def gaussian_table(out_size: tuple[int, int], mse_loss: bool) -> np.ndarray:
    """A table of gaussians, float32 [R + 2, L], for an output of out_size (width, height).

    Row radius + 1 has a gaussian at distances 0, 1, ... from its center, 0 beyond the radius; row 0 is 0. R is the
    largest radius of a box in the output.
    """
    largest = max(int(gaussian_radius(out_size[1], out_size[0])), 3 * MSRA_SIGMA)
    distance = np.arange(max(*out_size, largest + 1))
    table = np.zeros((largest + 2, len(distance)), np.float32)
    for radius in range(largest + 1):
        kernel = gaussian_kernel(radius, MSRA_SIGMA if mse_loss else (2 * radius + 1) / 6)
        table[radius + 1, : radius + 1] = kernel[radius, radius:]
    return table
