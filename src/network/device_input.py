"""What the device makes of the bytes that the host sends: normalized images, and in training their heatmaps."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from ..imaging.gaussians import MSRA_SIGMA, gaussian_kernel, gaussian_radius


class Normalize(nn.Cell):
    """Bytes of an image batch [N, H, W, 3], BGR uint8 -> the network's input [N, 3, H, W] float32; mean and std in [0, 1]."""

    def __init__(self, mean, std):
        super().__init__()
        mean, std = (np.asarray(values, np.float64).reshape(1, 3, 1, 1) for values in (mean, std))
        self.factor = Tensor((1 / (255 * std)).astype(np.float32))
        self.shift = Tensor((-mean / std).astype(np.float32))

    def construct(self, image):
        return image.astype(ms.float32).transpose(0, 3, 1, 2) * self.factor + self.shift


class ApplyColor(nn.Cell):
    """image.apply_color for a batch: uint8 [N, H, W, 3] through color maps [N, 3, 4] -> float32 [N, 3, H, W]."""

    def construct(self, image, color):
        n, height, width, _ = image.shape
        pixels = image.astype(ms.float32).transpose(0, 3, 1, 2).reshape(n, 3, height * width)
        return (ops.matmul(color[:, :, :3], pixels) + color[:, :, 3:]).reshape(n, 3, height, width)


class DrawHeatmap(nn.Cell):
    """Heatmaps [N, C, h, w] of objects [N, M, 2] int32 (class, radius; -1 where there is none) with centers ind [N, M] = y * w + x.

    The same as targets.encode_targets draws: the largest of a class's gaussians, of standard deviation (2 radius + 1) / 6, or of
    image.MSRA_SIGMA with mse_loss. The gaussians are products of one along x and one along y, which come from a table: a device's
    own exponential function may be off by several 1e-6.
    """

    def __init__(self, num_classes, out_size, mse_loss=False):
        super().__init__()
        self.num_classes = num_classes
        self.width, self.height = out_size
        self.table = Tensor(gaussian_table(out_size, mse_loss))

    def construct(self, objects, ind):
        n, m, _ = objects.shape
        label = objects[:, :, 0]
        rows = ops.gather(self.table, objects[:, :, 1].reshape(-1) + 1, 0)
        along_x = self._gaussian(rows, ind % self.width, self.width)
        along_y = self._gaussian(rows, ind // self.width, self.height)
        maps = (along_y.reshape(n, m, self.height, 1) * along_x.reshape(n, m, 1, self.width)).reshape(n * m, -1)
        indices = ops.arange(n).reshape(n, 1) * self.num_classes + ops.maximum(label, ops.zeros_like(label))
        largest = ops.unsorted_segment_max(maps, indices.reshape(-1).astype(ms.int32), n * self.num_classes)
        # A class without objects gets the least number there is.
        return ops.maximum(largest, ops.zeros_like(largest)).reshape(n, self.num_classes, self.height, self.width)

    def _gaussian(self, rows, center, length):
        """Rows [N M, L] of the table, each laid around its center: [N M, length]."""
        distance = ops.abs(ops.arange(length).reshape(1, length) - center.reshape(-1, 1)).astype(ms.int32)
        return ops.gather_elements(rows, 1, distance)


def gaussian_table(out_size, mse_loss):
    """float32 [R + 2, L]: row radius + 1 holds a gaussian at the distances 0, 1, ... from its center, 0 beyond the radius; row 0 is 0.

    R is the largest radius that a box in an output of out_size (width, height) can have.
    """
    largest = max(int(gaussian_radius(out_size[1], out_size[0])), 3 * MSRA_SIGMA)
    distance = np.arange(max(*out_size, largest + 1))
    table = np.zeros((largest + 2, len(distance)), np.float32)
    for radius in range(largest + 1):
        kernel = gaussian_kernel(radius, MSRA_SIGMA if mse_loss else (2 * radius + 1) / 6)
        table[radius + 1, : radius + 1] = kernel[radius, radius:]
    return table


class DeviceInput(nn.Cell):
    """A batch of the training pipeline (targets.columns) -> the batch that NetworkWithLoss takes.

    draw_heatmap is a DrawHeatmap if the pipeline sends objects, None if it sends heatmaps.
    """

    def __init__(self, draw_heatmap=None):
        super().__init__()
        self.apply_color = ApplyColor()
        self.draw_heatmap = draw_heatmap

    def construct(self, image, color, hm, *targets):
        if self.draw_heatmap is not None:
            hm = self.draw_heatmap(hm, targets[0])  # at the centers ind
        return self.apply_color(image, color), hm, *targets
