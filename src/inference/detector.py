"""Detectors: a checkpoint's network or an exported file, made ready to detect, and their export."""
import json
import os
import tempfile
import time

import mindspore as ms
import numpy as np
from mindspore import nn

from ..core import interrupts
from ..core.backups import require_ours
from ..core.console import LOG
from ..core.errors import UserError
from ..core.files import atomic_write, write_json
from ..core.project import how_to_install
from ..core.version import version
from ..imaging.view import batch_kind, pad_batch
from ..model_utils.config import Config
from ..network.centernet import Heatmap, build_detection, build_network
from ..network.deform_conv import resolve_dcn_impl
from ..network.device_input import Normalize
from ..network.folding import make_for_inference
from ..network.graphs import Graphs
from ..tasks import task_of
from ..weights.checkpoints import load_weights, read_parameters, weights_taken
from ..weights.side_file import CONSUMER, HAS_SIDE_FILE, row_width, side_file
from .onnx_detector import HAS_ONNX_SIDE_FILE, onnx_side_file

# Evaluation settings that are fixed when a file is exported.
FIXED_ALWAYS = ("eval_config.flip_test", "eval_config.K")
FIXED = ("dataset_config.input_res_test", "eval_config.keep_res", "eval_config.pad_multiple", *FIXED_ALWAYS)  # with their size


class Detector:
    """A network that detects. Call it with a batch: float32 [N, 3, H, W] normalized, or uint8 [N, H, W, 3] if from_bytes.

    It gives detections [N, K, D] in output pixels, rows as the task has them. description is the side file's dictionary; network is
    the cell that ends in detections. With any_size one graph computes all sizes of images, as graphs.Graphs says.
    """

    input_res = batch_size = None  # it takes batches of any
    weights = ""  # as checkpoints.weights_taken says

    def __init__(self, network, description, down_ratio, from_bytes=False, any_size=False):
        self.network, self.description, self.down_ratio, self.from_bytes = network, description, down_ratio, from_bytes
        shape, kind = ([None, None, None, 3], ms.uint8) if from_bytes else ([None, 3, None, None], ms.float32)
        any_shape = ms.Tensor(shape=shape, dtype=kind) if any_size else None
        self.detections, self.maps = Graphs(network, any_shape), Graphs(Heatmap(network.maps), any_shape)

    def compile(self, batch):
        """Compile the graph that a batch needs, unless it is there; returns the seconds it took."""
        return self.detections.compile(batch)

    def __call__(self, batch):
        return self.detections(batch)

    def heatmap(self, batch):
        """The heatmap of a batch: float32 [N, C, H / down_ratio, W / down_ratio] in [0, 1]."""
        return self.maps(batch)


class ExportedDetector:
    """The Detector of an exported file, which takes only its own input_res [W, H] and batch_size; fewer images are filled up."""

    weights = ""  # those that were exported

    def __init__(self, graph, description):
        self.graph, self.description = graph, description
        self.down_ratio, self.from_bytes = description["down_ratio"], description["input_type"] == "uint8"
        self.input_res, self.batch_size = description["input_res"], description["batch_size"]
        self.compiled = False

    def compile(self, batch):
        """Compile the graph, unless it is; returns the seconds it took. A graph out of a file can be compiled only by a call."""
        if self.compiled:
            return 0.0
        start = time.perf_counter()
        with interrupts.INTERRUPTS.blocked():
            self(batch)
        return time.perf_counter() - start

    def __call__(self, batch):
        self.compiled = True
        return self.graph(ms.Tensor(pad_batch(batch, self.batch_size))).asnumpy()[: len(batch)]


def load_detector(checkpoint: str, description: dict, eval_config: Config, device_target: str, dcn_impl: str = "auto",
                  from_bytes: bool = False, use_ema: bool = True) -> Detector:
    """The Detector of a checkpoint that read_side_file describes, with eval_config's K and flip_test, its batch norm folded; use_ema as in
    load_weights.

    Where images keep their sizes, one graph computes all on a CPU; other devices, and the native deformable convolution, have kernels
    for known shapes.
    """
    dcn_impl = resolve_dcn_impl(dcn_impl, device_target)
    network = build_network(Config(description["net_config"]), description, dcn_impl)
    parameters = read_parameters(checkpoint)
    load_weights(network, parameters, checkpoint, use_ema=use_ema)
    if left := make_for_inference(network):
        LOG.info(f"{left} batch norms stay: folding them would cost precision")
    detector = build_detector(network, description, eval_config, takes_any_size(eval_config, device_target, dcn_impl), from_bytes)
    detector.weights = weights_taken(parameters, use_ema)
    return detector


def takes_any_size(eval_config, device_target, dcn_impl):
    """Whether one graph is to compute images of all sizes, as load_detector says."""
    return eval_config.keep_res and device_target == "CPU" and dcn_impl == "composite"


def build_detector(network, description, eval_config, any_size, from_bytes=False):
    """The Detector of a CenterNet that folding.make_for_inference has changed."""
    options = Config(description["net_config"])
    input_cell = Normalize(description["mean"], description["std"]) if from_bytes else nn.Identity()
    detection = build_detection(network, options, description, eval_config.K, input_cell, eval_config.flip_test)
    return Detector(detection, description, options.down_ratio, from_bytes, any_size)


def load_mindir(path: str, description: dict) -> ExportedDetector:
    """The ExportedDetector of a MindIR file that read_exported describes. Raises UserError if it is none."""
    try:
        graph = nn.GraphCell(ms.load(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a MindIR file, or a damaged one ({str(error).splitlines()[0]})") from error
    return ExportedDetector(graph, description)


# ---------------------------------------------------------------- export


def export_detector(detector, export_config, eval_config, tell=LOG.info):
    """Write a checkpoint's Detector for one input size and batch as export_config says, and its side file; returns the file's path.

    The side file (same name, .json) tells a consumer all it needs; docs/deployment.md says how to use it.
    """
    width, height = export_config.input_res
    batch = export_config.batch_size
    ending = export_config.export_format.lower()
    path = exported_path(export_config)
    if os.path.realpath(side_file(path)) == os.path.realpath(side_file(export_config.ckpt_file)):
        raise UserError(f"export_config.export_name is {export_config.export_name}, whose side file would take the place of the "
                        f"checkpoint's, {side_file(path)}; name another")
    kind, shape = batch_kind(detector.from_bytes, batch, height, width)
    with atomic_write(path, HAS_SIDE_FILE, side_file) as partial, tempfile.TemporaryDirectory() as plain, interrupts.INTERRUPTS.blocked():
        # MindSpore takes names of a few characters alone, which those of the user's folders may not be: it gets a link's.
        os.symlink(os.path.abspath(os.path.dirname(partial)), os.path.join(plain, "folder"))
        made = os.path.join(plain, "folder", f"network.{ending}")
        ms.export(detector.network, ms.Tensor(np.zeros(shape, kind)), file_name=made, file_format=export_config.export_format)
        os.rename(made, partial)
    return finish_export(path, side_file(path), consumer_description(detector, export_config, eval_config, shape), tell)


def export_onnx(detector, export_config, eval_config, tell=LOG.info):
    """Write a checkpoint's Detector as an ONNX file, which has in its metadata what its side file says; returns the file's path."""
    try:
        from ..export.onnx_model import build_model
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {how_to_install('onnx')}") from error
    path = exported_path(export_config)
    width, height = export_config.input_res
    sizes = ("batch", "height", "width") if export_config.onnx_dynamic else (export_config.batch_size, height, width)
    description = consumer_description(detector, export_config, eval_config, batch_kind(detector.from_bytes, *sizes)[1])
    metadata = {name: json.dumps(value) for name, value in description.items()}
    outputs = export_config.onnx_dcn, sizes, row_width(description)
    model = build_model(task_of(description), detector.network, detector.from_bytes, *outputs, metadata)
    with atomic_write(path, HAS_ONNX_SIDE_FILE, onnx_side_file) as partial, open(partial, "wb") as file:
        file.write(model.SerializeToString())
    return finish_export(path, onnx_side_file(path), description, tell)


def require_room(export_config):
    """Raise UserError if what lies where the file is to go is no exported file."""
    if export_config.export_format == "ONNX":
        require_ours(exported_path(export_config), HAS_ONNX_SIDE_FILE, onnx_side_file, "--export_config.export_name")
    else:
        require_ours(exported_path(export_config), HAS_SIDE_FILE, side_file, "--export_config.export_name")


def exported_path(export_config):
    """The path of the file to write: export_name, which may have the format's ending already."""
    ending = f".{export_config.export_format.lower()}"
    return export_config.export_name.removesuffix(ending) + ending


def finish_export(path, side, description, tell):
    """Write the side file of an exported file, and tell what it takes and gives; returns the file's path."""
    write_json(side, description)
    batch = "batch" if description["batch_size"] is None else description["batch_size"]
    tell(f"exported {path}: {description['input_type']} {list(description['input_shape'])} -> detections "
         f"{[batch, description['K'], row_width(description)]}")
    return path


def consumer_description(detector, export_config, eval_config, input_shape):
    """What a consumer of an exported file is to know; a free batch or size is None, and a name in input_shape."""
    fixed = export_config.export_format != "ONNX" or not export_config.onnx_dynamic
    in_graph = FIXED if fixed else FIXED_ALWAYS
    evaluation = detector.description["evaluation"]
    return {
        **{name: detector.description[name] for name in (*CONSUMER, "input_res_train")},
        "input_res": export_config.input_res if fixed else None, "batch_size": export_config.batch_size if fixed else None,
        "input_type": export_config.input_type, "input_shape": input_shape, "down_ratio": detector.down_ratio,
        **{name: detector.description[name] for name in ("task", "arch", "stride", *task_of(detector.description).targets.METAINFO)},
        "K": eval_config.K, "flip_test": eval_config.flip_test,
        "evaluation": {name: value for name, value in evaluation.items() if name not in in_graph},
        "version": version(), "mindspore": ms.__version__, "checkpoint": os.path.basename(export_config.ckpt_file),
    }
