"""Detectors: networks of checkpoints and exported files, ready for inference; export of a detector."""
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from ..core import interrupts
from ..core.backups import require_ours
from ..core.console import LOG, compiling
from ..core.errors import UserError
from ..core.files import atomic_write, write_json
from ..core.project import how_to_install
from ..core.version import version
from ..export.mindir import output_shape, read_mindir, unused_heads
from ..imaging.view import input_spec, pad_batch
from ..model_utils.config import Config
from ..network.centernet import Heatmaps, build_detection, build_network
from ..network.deform_conv import resolve_dcn_impl
from ..network.device_input import Normalize
from ..network.folding import fold_batch_norm
from ..network.graphs import Graphs
from ..tasks import task_of
from ..weights.checkpoints import load_weights, read_parameters, weights_note
from ..weights.side_file import CONSUMER, HAS_SIDE_FILE, row_width, side_file
from .onnx_detector import HAS_ONNX_SIDE_FILE, onnx_side_file

# Evaluation settings that an export fixes: always, and with a fixed input size.
FIXED_ALWAYS = ("eval_config.flip_test", "eval_config.K")
FIXED = ("dataset_config.input_res_test", "eval_config.keep_res", "eval_config.pad_multiple", *FIXED_ALWAYS)


class Detector:
    """A network that detects, called with a batch.

    The batch is float32 [N, 3, H, W] normalized, or uint8 [N, H, W, 3] if from_bytes; the output, detections [N, K, D]
    in output pixels, the task's rows. network is the cell that ends in detections; description, the side file's
    dictionary. With any_size one graph computes images of all sizes (see graphs.Graphs).
    """

    input_res = batch_size = None  # any
    weights = ""  # see checkpoints.weights_note

    def __init__(self, network: nn.Cell, description: dict, down_ratio: int, from_bytes: bool = False,
                 any_size: bool = False):
        self.network, self.description = network, description
        self.down_ratio, self.from_bytes = down_ratio, from_bytes
        shape, kind = ([None, None, None, 3], ms.uint8) if from_bytes else ([None, 3, None, None], ms.float32)
        any_shape = ms.Tensor(shape=shape, dtype=kind) if any_size else None
        self.detections, self.maps = Graphs(network, any_shape), Graphs(Heatmaps(network.maps), any_shape)

    def compile(self, batch: np.ndarray) -> float:
        """Compile the graph for a batch unless it exists; returns the seconds taken."""
        return self.detections.compile(batch)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.detections(batch)

    def heatmap(self, batch: np.ndarray) -> np.ndarray:
        """The heatmaps of a batch: float32 [N, C, H / down_ratio, W / down_ratio] in [0, 1], with a channel for each
        class and, of pose, for each keypoint."""
        return self.maps(batch)


class ExportedDetector:
    """The Detector of an exported file, for its input_res [W, H] and batch_size only; smaller batches are padded."""

    weights = ""  # chosen at export

    def __init__(self, graph: Callable[[ms.Tensor], ms.Tensor], description: dict):
        self.graph, self.description = graph, description
        self.down_ratio, self.from_bytes = description["down_ratio"], description["input_type"] == "uint8"
        self.input_res, self.batch_size = description["input_res"], description["batch_size"]
        self.compiled = False

    def compile(self, batch: np.ndarray) -> float:
        """Compile the graph unless it is compiled; returns the seconds taken. Loaded graphs compile only in a call."""
        if self.compiled:
            return 0.0
        start = time.perf_counter()
        with interrupts.INTERRUPTS.blocked():
            self(batch)
        return time.perf_counter() - start

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        first, self.compiled = not self.compiled, True
        with compiling("the exported network") if first else contextlib.nullcontext():
            return self._output(batch)

    def _output(self, batch: np.ndarray) -> np.ndarray:
        return self.graph(ms.Tensor(pad_batch(batch, self.batch_size))).asnumpy()[: len(batch)]


def load_detector(checkpoint: str, description: dict, eval_config: Config, device_target: str, dcn_impl: str = "auto",
                  from_bytes: bool = False, use_ema: bool = True) -> Detector:
    """Load the Detector of a checkpoint, with eval_config's K and flip_test and with batch norm folded.

    Args: description, from read_side_file; use_ema, see load_weights. With keep_res one graph computes all sizes on a
    CPU; other devices, and the native deformable convolution, have kernels for known shapes only.
    """
    dcn_impl = resolve_dcn_impl(dcn_impl, device_target)
    network = build_network(Config(description["net_config"]), description, dcn_impl)
    parameters = read_parameters(checkpoint)
    load_weights(network, parameters, checkpoint, use_ema=use_ema)
    if left := fold_batch_norm(network):
        LOG.info(f"{left} batch norms not folded: folding would lose precision")
    any_size = takes_any_size(eval_config, device_target, dcn_impl)
    detector = build_detector(network, description, eval_config, any_size, from_bytes)
    detector.weights = weights_note(parameters, use_ema)
    return detector


def takes_any_size(eval_config: Config, device_target: str, dcn_impl: str) -> bool:
    """Whether one graph computes images of all sizes, see load_detector."""
    return eval_config.keep_res and device_target == "CPU" and dcn_impl == "composite"


def build_detector(network: nn.Cell, description: dict, eval_config: Config, any_size: bool,
                   from_bytes: bool = False) -> Detector:
    """The Detector of a CenterNet that folding.fold_batch_norm has modified."""
    options = Config(description["net_config"])
    input_cell = Normalize(description["mean"], description["std"]) if from_bytes else nn.Identity()
    detection = build_detection(network, options, description, eval_config.K, input_cell, eval_config.flip_test)
    return Detector(detection, description, options.down_ratio, from_bytes, any_size)


def load_mindir(path: str, description: dict) -> ExportedDetector:
    """Load the ExportedDetector of a MindIR file; description, from read_exported.

    Raises UserError if it is not a MindIR file.
    """
    try:
        graph = nn.GraphCell(ms.load(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a MindIR file, or damaged ({str(error).splitlines()[0]})") from error
    return ExportedDetector(graph, description)


# ---------------------------------------------------------------- export


def export_detector(detector: Detector, export_config: Config, eval_config: Config,
                    report: Callable[[str], None] = LOG.info) -> str:
    """Export a checkpoint's Detector, for one input size and batch size, with its side file; returns the file's path.

    The side file (same name, .json) has all that a consumer needs, see docs/deployment.md.
    """
    width, height = export_config.input_res
    batch = export_config.batch_size
    ending = export_config.export_format.lower()
    path = export_path(export_config)
    if os.path.realpath(side_file(path)) == os.path.realpath(side_file(export_config.ckpt_file)):
        raise UserError(f"export_config.export_name is {export_config.export_name}: its side file would replace the "
                        f"checkpoint's, {side_file(path)}; choose another name")
    kind, shape = input_spec(detector.from_bytes, batch, height, width)
    with atomic_write(path, HAS_SIDE_FILE, side_file) as partial, tempfile.TemporaryDirectory() as plain, \
            interrupts.INTERRUPTS.blocked():
        # MindSpore rejects paths with unusual characters, which the user's folders may have: write through a link.
        os.symlink(os.path.abspath(os.path.dirname(partial)), os.path.join(plain, "folder"))
        made = os.path.join(plain, "folder", f"network.{ending}")
        ms.export(detector.network, ms.Tensor(np.zeros(shape, kind)), file_name=made,
                  file_format=export_config.export_format)
        if export_config.export_format == "MINDIR":
            require_complete(made, detector)
        os.rename(made, partial)
    description = consumer_description(detector, export_config, eval_config, shape)
    return finish_export(path, side_file(path), description,
                         f"detections {[batch, description['K'], row_width(description)]}", report)


def require_complete(path: str, detector: Detector) -> None:
    """Raise UserError if a MindIR file of a checkpoint's Detector lacks a head or a column of its task's rows."""
    model, task = read_mindir(path), task_of(detector.description)
    if unused := unused_heads(model, detector.network.maps.names):
        raise UserError(f"the MindIR file would lack the head {', '.join(unused)} of the task {task.name}; read it in "
                        f"Decode of {task.package}.device")
    columns, expected = output_shape(model)[-1], row_width(detector.description)
    if columns != expected:
        raise UserError(f"the task {task.name}: Decode of {task.package}.device gives rows of {columns} columns, "
                        f"output_columns of {task.package}.results has {expected}; they must agree")


def export_onnx(detector: Detector, export_config: Config, eval_config: Config,
                report: Callable[[str], None] = LOG.info) -> str:
    """Export a checkpoint's Detector as an ONNX file, with the side file in its metadata; returns the file's path."""
    path = export_path(export_config)
    model, description = build_onnx(detector, export_config, eval_config)
    with atomic_write(path, HAS_ONNX_SIDE_FILE, onnx_side_file) as partial, open(partial, "wb") as file:
        file.write(model.SerializeToString())
    made = [f"{output.name} {[size.dim_param or size.dim_value for size in output.type.tensor_type.shape.dim]}"
            for output in model.graph.output]
    return finish_export(path, onnx_side_file(path), description, ", ".join(made), report)


def build_onnx(detector: Detector, export_config: Config, eval_config: Config) -> tuple[Any, dict]:
    """Return (the ModelProto of a checkpoint's Detector, its description, which is also in the metadata).

    Raises UserError if the package onnx is missing.
    """
    try:
        from ..export.onnx_graph import Graph
        from ..export.onnx_model import build_model
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {how_to_install('onnx')}") from error
    width, height = export_config.input_res
    batch = export_config.batch_size
    sizes = ("batch", "height", "width") if export_config.onnx_dynamic else (batch, height, width)
    shape = input_spec(detector.from_bytes, *sizes)[1]
    description = consumer_description(detector, export_config, eval_config, shape)
    metadata = {name: json.dumps(value) for name, value in description.items()}
    graph = Graph(export_config.onnx_dcn, export_config.onnx_dtype)
    width_of_rows = row_width(description) if export_config.onnx_decode else 0
    model = build_model(task_of(description), detector.network, detector.from_bytes, graph, sizes, width_of_rows,
                        metadata)
    return model, description


def require_room(export_config: Config) -> None:
    """Raise UserError if the export would replace something other than an exported file."""
    if export_config.export_format == "ONNX":
        require_ours(export_path(export_config), HAS_ONNX_SIDE_FILE, onnx_side_file, "--export_config.export_name")
    else:
        require_ours(export_path(export_config), HAS_SIDE_FILE, side_file, "--export_config.export_name")


def export_path(export_config: Config) -> str:
    """The path of the file to write: export_name, with the format's extension added unless it has it."""
    ending = f".{export_config.export_format.lower()}"
    return export_config.export_name.removesuffix(ending) + ending


def finish_export(path: str, side: str, description: dict, outputs: str, report: Callable[[str], None]) -> str:
    """Write the side file of an exported file and report its input and outputs; returns the file's path."""
    write_json(side, description)
    report(f"exported {path}: {description['input_type']} {list(description['input_shape'])} -> {outputs}")
    return path


def consumer_description(detector: Detector, export_config: Config, eval_config: Config, input_shape: list) -> dict:
    """The side file of an exported file; a dynamic batch or size is None, and a name in input_shape."""
    fixed = export_config.export_format != "ONNX" or not export_config.onnx_dynamic
    in_graph = FIXED if fixed else FIXED_ALWAYS
    source = detector.description
    from_task = ("task", "arch", "stride", *task_of(source).targets.METAINFO)
    return {
        **{name: source[name] for name in (*CONSUMER, "input_res_train")},
        "input_res": export_config.input_res if fixed else None,
        "batch_size": export_config.batch_size if fixed else None,
        "input_type": export_config.input_type, "input_shape": input_shape, "down_ratio": detector.down_ratio,
        **{name: source[name] for name in from_task},
        "K": eval_config.K, "flip_test": eval_config.flip_test,
        "evaluation": {name: value for name, value in source["evaluation"].items() if name not in in_graph},
        "version": version(), "mindspore": ms.__version__, "checkpoint": os.path.basename(export_config.ckpt_file),
    }
