"""On-device preprocessing: normalized images."""
import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


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
    """color.apply_color for a batch: uint8 [N, H, W, 3] through color maps [N, 3, 4] -> float32 [N, 3, H, W]."""

    def construct(self, image, color):
        n, height, width, _ = image.shape
        pixels = image.astype(ms.float32).transpose(0, 3, 1, 2).reshape(n, 3, height * width)
        return (ops.matmul(color[:, :, :3], pixels) + color[:, :, 3:]).reshape(n, 3, height, width)


class NamedColumns(nn.Cell):
    """The columns of a batch -> {name: tensor}."""

    def __init__(self, columns):
        super().__init__()
        self.names = tuple(columns)

    def construct(self, *batch):
        return {name: value for name, value in zip(self.names, batch)}  # noqa: C416  dict() cannot be differentiated


class DeviceInput(nn.Cell):
    """A batch of the training pipeline -> the batch that NetworkWithLoss takes, {name: tensor}.

    columns are the pipeline's, image and color among them; complete, a cell of the other columns {name: tensor} that makes what of the
    targets the host did not, and names them in its attribute names; None if the host made all.
    """

    def __init__(self, columns, complete=None):
        super().__init__()
        self.named = NamedColumns(columns)
        self.given = tuple(name for name in columns if name not in ("image", "color"))
        self.apply_color = ApplyColor()
        self.complete = complete
        self.names = ("image",) + (complete.names if complete is not None else self.given)

    def construct(self, *batch):
        batch = self.named(*batch)
        image = self.apply_color(batch["image"], batch["color"])
        targets = {name: batch[name] for name in self.given}
        if self.complete is not None:
            targets = self.complete(targets)
        return {name: image if name == "image" else targets[name] for name in self.names}
