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
    {name in logs and records: what charts call it}, the heatmap's first; metrics {name: what reports call it}, AP and AP50 first, of which
    more is better and less than 0 says that there is nothing to measure; package, the Python package that has the rest.

    metainfo is what a data set's annotation file says of its objects: a dictionary with classes, category_ids and what the task reads
    beside them. It travels in manifests and side files, which serve as metainfo. Objects are those of one image: a dictionary of arrays,
    boxes float32 [M, 4] x1, y1, x2, y2, labels int32 [M] and what the task adds. Rows are detections [M, D], as rows.py has them.

    The modules of the package are loaded when they are first used, since device needs MindSpore:

    - targets: METAINFO {name: its test}, read_metainfo(categories), object_columns(metainfo), check_annotation(entry, metainfo) and
      read_object(annotation, metainfo) say what the task adds to metainfo, MindRecord files, annotations and objects. layout_of(config,
      metainfo), random_augmentation(...), warp(objects, matrix, mirrored_in), empty_heatmaps(count, layout), encode(objects, layout,
      heatmaps), columns(heatmaps_on_host) and draws_on_host(config, device_target) make what is trained on.
    - device: heads(net_config, metainfo), the network's Heads in order; build_loss(net_config, ...), a cell with parts, norms(targets) and
      construct(maps, targets, norms) -> {"loss" and each of losses: scalar}, where maps and targets are dictionaries; DrawTargets(layout),
      a cell that completes the targets; Decode(net_config, metainfo, k), a cell of maps -> rows [N, k, D] in output pixels.
    - preview: draw_batch(batch, names, layout, net_config, metainfo), a training batch as one image.
    - onnx: decode(graph, maps, the Decode), the same as ONNX nodes.
    - results: columns(metainfo), the rows' columns; to_image, merge, scaled, of_objects, coco_records, of_records, draw, table_columns and
      table_cells, what becomes of rows.
    - schema: Object, what the web service answers of an object, and objects(rows, metainfo).
    - scores: score(coco, records), class_table(metrics), evaluate, confusion_matrix and image_quality.
    """

    name: str
    heads: tuple[str, ...]
    class_heads: tuple[str, ...]
    losses: dict[str, str]
    metrics: dict[str, str]
    package: str

    def __getattr__(self, name: str) -> ModuleType:
        if name.startswith("_"):
            raise AttributeError(name)
        return importlib.import_module(f"{self.package}.{name}")
