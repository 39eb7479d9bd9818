"""What a task is: all that is particular to what is detected, in one folder."""
import importlib
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Head:
    """One head of the network: the name of its map, which its parameters begin with, and how many channels it has.

    A heatmap's values are logits of a pixel being a center. flip says what the flip test makes of the map and that of the mirror image:
    "mean" of both, or "none", the image's own.
    """

    name: str
    channels: int
    heatmap: bool = False
    flip: str = "none"


@dataclass(frozen=True)
class Task:
    """What is detected.

    Attributes: heads, the names of all that its network may have, and class_heads, of those that the number of classes may shape; losses
    {name in logs and records: what charts call it}, the heatmap's first; width, the columns of a detection; package, the Python package
    that has the rest.

    Its modules are loaded when they are first used, since device needs MindSpore:

    - targets: what is trained on, of arrays: Layout, columns, make_sample, ...
    - device: heads(net_config, num_classes), the network's Heads in order; build_loss(net_config, ...), a cell with norms(targets) and
      construct(maps, targets, norms) -> {"loss" and each of losses: scalar}, where maps and targets are dictionaries; DrawTargets(layout),
      a cell that completes the targets; Decode(net_config, num_classes, k), a cell of maps -> [N, k, width].
    - preview: draw_batch(batch, names, classes, layout, net_config), a training batch as one image.
    - onnx: decode(graph, maps, the Decode), the same as ONNX nodes.
    - results: rows of one image: to_image, merge, coco_records, ...
    - scores: score(ground truth, records).
    """

    name: str
    heads: tuple[str, ...]
    class_heads: tuple[str, ...]
    losses: dict[str, str]
    width: int
    package: str

    def __getattr__(self, name: str) -> ModuleType:
        if name.startswith("_"):
            raise AttributeError(name)
        return importlib.import_module(f"{self.package}.{name}")
