"""The interface of a task: everything specific to the kind of detection, in one folder."""
import importlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Head:
    """One head of the network: the name of its map and prefix of its parameters, and its number of channels.

    A heatmap's values are logits of a pixel being a center. flip is how the flip test combines the maps of an image and
    of its mirror image: "mean", or "none" for the image's map alone. Before the mean, channel i of the mirrored map is
    replaced by signs[i] times channel mirrored[i], if these are given.
    """

    name: str
    channels: int
    heatmap: bool = False
    flip: str = "none"
    mirrored: tuple[int, ...] = ()
    signs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """A kind of detection.

    Attributes: heads, the names of all heads that its network may have, and class_heads, those whose shape may depend
    on the number of classes or keypoints; losses {name in logs and records, which ends in _loss: label in charts}, the
    heatmap's first; metrics {name: label in reports}, AP and AP50 first, higher is better and negative means undefined;
    package, the Python package of the modules below; optional_metrics, those that may be undefined for a data set with
    objects; annotations, the usual names of its annotation files, with {split}, the one that imports write first;
    options, the parameters that some other task does not have; layers, those of net_config that shape its heads;
    evaluation, those of eval_config that affect its detections alone; recorded {parameter of training: what side files
    have instead}; required {parameter of evaluation: its only value}; sees_all, whether inputs show all of an image,
    else its full width, with the height cut or padded.

    metainfo describes the objects of a data set, from its annotation file: a dictionary with classes, category_ids and
    the task's additions. It is stored in manifests and side files, which serve as metainfo. Objects are those of one
    image: a dictionary of arrays, boxes float32 [M, 4] x1, y1, x2, y2, labels int32 [M] and the task's additions. Rows
    are detections [M, D], as in rows.py.

    The modules of the package are loaded on first use, since device needs MindSpore:

    - targets: METAINFO {name: its check}, read_metainfo(categories, images), object_columns(metainfo),
      check_image(entry, size_of), check_annotation(entry, metainfo, image) and read_object(annotation, metainfo) define
      the task's additions to metainfo, MindRecord files, images, annotations and objects; select(categories,
      annotations), those that are classes and objects; fits(content), whether an unchecked annotation file is the
      task's; unused(config), the task's rows of combinations.py for training;
      is_consistent(metainfo); check_same(ours, theirs) compares a model's metainfo with a data set's;
      configured(metainfo, config) applies a configuration's changes; observed(metainfo, labels, ...) leaves out what
      no object has; counted(objects), a mask of the objects that are no regions to ignore; notes(metainfo) are
      (remarks, warnings). layout_of(config, metainfo), random_augmentation(...),
      warp(objects, place, layout), empty_heatmaps(count, layout), encode(objects, layout, heatmaps),
      columns(heatmaps_on_host) and draws_on_host(config, device_target) create the training targets; where the host
      draws, there is no DrawTargets.
    - device: heads(net_config, metainfo), the network's Heads in order; build_loss(net_config, ...), a cell with
      micro_batches, norms(targets) and construct(maps, targets, norms) -> {"loss" and each of losses: scalar},
      where maps and targets are dictionaries; DrawTargets(layout), a cell that completes the targets;
      Decode(net_config, metainfo, k), a cell of maps -> rows [N, k, D] in output pixels.
    - preview: draw_batch(batch, names, layout, net_config, metainfo), a training batch as one image.
    - onnx: decode(graph, maps, decode_cell), Decode as ONNX nodes.
    - results: output_columns(metainfo), the columns of Decode's rows, and columns(metainfo), those of rows in an
      image; camera_of(entry), an image's calibration, and placed(view, calib, description, eval_config), its View with
      what to_image needs; to_image, merge, scaled, rows_from_objects, coco_records, rows_from_records, draw,
      lines, table_columns and table_cells, the processing of rows; label_values(rows, size) of YOLO's label files;
      category_fields(metainfo) of COCO-style files; attributes(metainfo) and computed(rows) of a Prediction;
      write_files(folder, images, records, classes), further files of an evaluation.
    - schema: Object, the web service's description of an object, and objects(rows, metainfo); about(metainfo), further
      entries of /health.
    - weights: DATASET and SETTINGS of the original's weights, REQUIRED heads, MMDETECTION {head: MMDetection's name},
      describe_heads(weight), counted(weight), counted_names(metainfo), coco_categories(weight), for other projects'
      weights; named_channels(net_config, metainfo), for fine-tuning.
    - scores: check(metainfo, eval_config), score(coco, records, eval_config), score_voc(coco, records),
      class_table(metrics), point_table(metrics), tables(metrics) of a report, evaluate, threshold_curves,
      confusion_matrix, image_quality and QUALITY, words for what it sums up.
    """

    name: str
    heads: tuple[str, ...]
    class_heads: tuple[str, ...]
    losses: dict[str, str]
    metrics: dict[str, str]
    package: str
    optional_metrics: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ("instances_{split}2017.json", "instance_{split}2017.json")
    options: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    evaluation: tuple[str, ...] = ()
    recorded: dict[str, str] = field(default_factory=dict)
    required: dict[str, Any] = field(default_factory=dict)
    sees_all: bool = True

    def __getattr__(self, name: str) -> ModuleType:
        if name.startswith("_"):
            raise AttributeError(name)
        return importlib.import_module(f"{self.package}.{name}")
