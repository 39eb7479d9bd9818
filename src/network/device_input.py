"""On-device preprocessing: colors, normalization, completion of targets."""
from collections.abc import Iterable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


class Normalize(nn.Cell):
    """Image batch [N, H, W, 3], BGR uint8 -> the network's input [N, 3, H, W] float32; mean and std in [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        center, scale = (np.asarray(values, np.float64).reshape(1, 3, 1, 1) for values in (mean, std))
        self.factor = Tensor((1 / (255 * scale)).astype(np.float32))
        self.shift = Tensor((-center / scale).astype(np.float32))

    def construct(self, image: Tensor) -> Tensor:
        return image.astype(ms.float32).transpose(0, 3, 1, 2) * self.factor + self.shift


class ApplyColor(nn.Cell):
    """color.apply_color for a batch: uint8 [N, H, W, 3] and color maps [N, 3, 4] -> float32 [N, 3, H, W]."""

    def construct(self, image: Tensor, color: Tensor) -> Tensor:
        n, height, width, _ = image.shape
        pixels = image.astype(ms.float32).transpose(0, 3, 1, 2).reshape(n, 3, height * width)
        return (ops.matmul(color[:, :, :3], pixels) + color[:, :, 3:]).reshape(n, 3, height, width)


class NamedColumns(nn.Cell):
    """The columns of a batch -> {name: tensor}."""

    def __init__(self, columns: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(columns)

    def construct(self, *batch: Tensor) -> dict:
        return {name: value for name, value in zip(self.names, batch)}  # noqa: C416  dict() cannot be differentiated


class DeviceInput(nn.Cell):
    """A batch of the training pipeline -> the batch for NetworkWithLoss, {name: tensor}.

    columns are the pipeline's, including image and color; complete, a cell that completes the targets {name: tensor}
    where the host left some to the device and has their names as the attribute names; None if the host made all.
    """

    def __init__(self, columns: Sequence[str], complete: nn.Cell | None = None) -> None:
        super().__init__()
        self.named = NamedColumns(columns)
        self.given = tuple(name for name in columns if name not in ("image", "color"))
        self.apply_color = ApplyColor()
        self.complete = complete
        self.names = ("image",) + (complete.names if complete is not None else self.given)

    def construct(self, *batch: Tensor) -> dict:
        batch = self.named(*batch)
        image = self.apply_color(batch["image"], batch["color"])  # type: ignore[call-overload]
        targets = {name: batch[name] for name in self.given}  # type: ignore[call-overload]
        if self.complete is not None:
            targets = self.complete(targets)
        return {name: image if name == "image" else targets[name] for name in self.names}
