"""Detection with a checkpoint or an exported file, on one image or on many; export."""
import collections
import itertools
import math
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import nn

from src import errors
from src.centernet_det import DetectionNetwork, HeatmapNetwork, build_network
from src.checkpoint import load_weights, read_checkpoint
from src.deform_conv import resolve_dcn_impl
from src.device_input import Normalize
from src.errors import UserError
from src.folding import make_for_inference
from src.graphs import Graphs, filled
from src.model_utils.config import Config
from src.post_process import merge, to_image
from src.pre_process import kept_size, normalize, place, scaled_size
from src.side_file import CONSUMER, read_exported, read_side_file, side_file
from src.utils import keep_earlier, log, whole_file, write_json

# Evaluation settings that are fixed when a file is exported.
FIXED = ("dataset_config.input_res_test", *(f"eval_config.{name}" for name in ("keep_res", "pad_multiple", "flip_test", "K")))


class Detector:
    """A network that detects. Call it with a batch: float32 [N, 3, H, W] normalized, or uint8 [N, H, W, 3] if from_bytes.

    It gives detections [N, K, 6] in output pixels: x1, y1, x2, y2, score, class. description is the side file's dictionary; network is
    the cell that ends in detections. With any_size one graph computes all sizes of images, as graphs.Graphs says.
    """

    input_res = batch_size = None  # it takes batches of any

    def __init__(self, network, description, down_ratio, from_bytes=False, any_size=False):
        self.network, self.description, self.down_ratio, self.from_bytes = network, description, down_ratio, from_bytes
        shape, kind = ([None, None, None, 3], ms.uint8) if from_bytes else ([None, 3, None, None], ms.float32)
        any_shape = ms.Tensor(shape=shape, dtype=kind) if any_size else None
        self.detections, self.maps = Graphs(network, any_shape), Graphs(network.maps, any_shape)

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
        with errors.INTERRUPTS.held():
            self(batch)
        return time.perf_counter() - start

    def __call__(self, batch):
        self.compiled = True
        return self.graph(ms.Tensor(filled(batch, self.batch_size))).asnumpy()[: len(batch)]


def load_detector(checkpoint, eval_config, device_target, dcn_impl="auto", from_bytes=False):
    """The Detector of a checkpoint, with eval_config's K and flip_test, its batch norm folded.

    Where images keep their sizes, one graph computes all on a CPU; other devices have kernels for known shapes.
    """
    description = read_side_file(checkpoint)
    options = Config(description["net_config"])
    network = build_network(options, len(description["classes"]), resolve_dcn_impl(dcn_impl, device_target))
    load_weights(network, read_checkpoint(checkpoint), checkpoint)
    if left := make_for_inference(network):
        log(f"{left} batch norms stay: folding them would cost precision")
    input_cell = Normalize(description["mean"], description["std"]) if from_bytes else nn.Identity()
    detection = DetectionNetwork(HeatmapNetwork(network, input_cell, eval_config.flip_test), eval_config.K, options.cat_spec_wh)
    detection.set_train(False)
    return Detector(detection, description, options.down_ratio, from_bytes, eval_config.keep_res and device_target == "CPU")


def load_mindir(path):
    """The ExportedDetector of a MindIR file. Raises UserError if it is none."""
    description = read_exported(path)
    try:
        graph = nn.GraphCell(ms.load(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a MindIR file, or a damaged one ({str(error).splitlines()[0]})") from error
    return ExportedDetector(graph, description)


# ---------------------------------------------------------------- one image


def make_inputs(picture, detector, config):
    """A picture's inputs, one for each of eval_config.multi_scales: [(array without the batch axis, View)].

    An exported file's size is its own, whatever keep_res and input_res_test say.
    """
    options = config.eval_config
    keep_res = options.keep_res and detector.input_res is None
    size = detector.input_res or config.dataset_config.input_res_test
    inputs = []
    for scale in options.multi_scales:
        pixels, view = place(picture, scale, keep_res, size, detector.down_ratio, options.pad_multiple)
        if not detector.from_bytes:
            pixels = normalize(pixels, detector.description["mean"], detector.description["std"])
        inputs.append((pixels, view))
    return inputs


def join_scales(outputs, inputs, use_soft_nms):
    """The network's detections [K, 6] of one image at each scale -> at most K, [M, 6], in its pixels; inputs as make_inputs gives them."""
    return merge([to_image(output, view) for output, (_, view) in zip(outputs, inputs)], use_soft_nms, len(outputs[0]))


# ---------------------------------------------------------------- many images


@dataclass
class Detected:
    """What came of one item: its picture and detections [M, 6] in the picture's pixels (x1, y1, x2, y2, score, class), or a problem."""

    item: object
    picture: np.ndarray | None = None
    detections: np.ndarray | None = None
    problem: str = ""


@dataclass
class StageTimes:
    """Seconds spent in each stage of detect_all, which overlap, over all images; `shapes` graphs were compiled."""

    images: int = 0
    shapes: int = 0
    compiling: float = 0.0
    preparing: float = 0.0
    computing: float = 0.0
    finishing: float = 0.0

    def summary(self, seconds):
        """The rate and the stages as a line; seconds is what the whole took."""
        per_image = " + ".join(
            f"{what} {1000 * spent / max(self.images, 1):.1f}"
            for what, spent in (("preparing", self.preparing), ("network", self.computing), ("boxes", self.finishing))
        )
        return (f"{self.rate(seconds):.2f} images/s ({per_image} ms an image, at the same time), "
                f"after {self.compiling:.1f} s for compiling {self.shapes} graphs")

    def rate(self, seconds):
        """Images a second, without the time that compiling took."""
        return self.images / max(seconds - self.compiling, 1e-9)


def detect_all(detector, items, load, config, times=None, size_of=None):
    """Detect on every item; yields Detected, images of one shape in their order.

    load(item) gives a picture, or raises OSError or ValueError. Threads load and prepare the next images and finish the
    last ones while the device computes; images of one shape are computed eval_config.batch_size at a time. Where images keep their
    sizes, size_of(item), (width, height) or None, lets those of one shape follow each other. No more than twice a batch of prepared
    images wait for others of their shape.
    """
    if size_of and config.eval_config.keep_res and detector.input_res is None:
        items = by_shape(items, size_of, config.eval_config)
    times = times or StageTimes()
    workers = config.dataset_config.num_workers
    batch_size = detector.batch_size or config.eval_config.batch_size
    waiting = collections.defaultdict(list)  # shapes -> prepared images that wait for their batch
    with ThreadPoolExecutor(workers) as preparers, ThreadPoolExecutor(1) as finisher:
        finishing = collections.deque()

        def compute(batch):
            stacks = [np.stack([array for array, _ in one_scale]) for one_scale in zip(*(inputs for _, inputs in batch))]
            for stack in stacks:
                seconds = detector.compile(stack)
                times.shapes += seconds > 0
                times.compiling += seconds
            start = time.perf_counter()
            outputs = [detector(stack) for stack in stacks]
            times.computing += time.perf_counter() - start
            finishing.append(finisher.submit(_finish, batch, outputs, config.eval_config.SOFT_NMS, times))

        for detected, inputs in _prepared(detector, items, load, config, times, preparers, 2 * max(workers, batch_size)):
            if detected.problem:
                yield detected
                continue
            shapes = tuple(array.shape for array, _ in inputs)
            waiting[shapes].append((detected, inputs))
            if len(waiting[shapes]) == batch_size:
                compute(waiting.pop(shapes))
            elif sum(map(len, waiting.values())) > 2 * batch_size:
                compute(waiting.pop(next(iter(waiting))))  # the shape that has waited longest
            while len(finishing) > 1:
                yield from finishing.popleft().result()
        for batch in waiting.values():
            compute(batch)
        for future in finishing:
            yield from future.result()


def by_shape(items, size_of, options):
    """The items in an order in which those whose inputs have one shape follow each other; those of unknown size come last."""

    def shape(item):
        size = size_of(item)
        return [kept_size(*scaled_size(*size, scale), options.pad_multiple) for scale in options.multi_scales] if size else [(math.inf,)]

    return sorted(items, key=shape)


def _prepared(detector, items, load, config, times, pool, ahead):
    """(Detected without detections, inputs) of every item in order, made on the pool, at most `ahead` items in advance."""

    def prepare(item):
        start = time.perf_counter()
        picture = load(item)
        inputs = make_inputs(picture, detector, config)
        return picture, inputs, time.perf_counter() - start

    coming = ((item, pool.submit(prepare, item)) for item in items)
    queue = collections.deque(itertools.islice(coming, ahead))
    while queue:
        item, future = queue.popleft()
        queue.extend(itertools.islice(coming, 1))
        try:
            picture, inputs, seconds = future.result()
        except (OSError, ValueError) as error:
            yield Detected(item, problem=errors.reason(error)), []
        else:
            times.preparing += seconds
            yield Detected(item, picture), inputs


def _finish(batch, outputs, use_soft_nms, times):
    """Give each image of a computed batch its detections; outputs hold one array [N, K, 6] a scale."""
    start = time.perf_counter()
    for row, (detected, inputs) in enumerate(batch):
        detected.detections = join_scales([output[row] for output in outputs], inputs, use_soft_nms)
    times.images += len(batch)
    times.finishing += time.perf_counter() - start
    return [detected for detected, _ in batch]


# ---------------------------------------------------------------- export


def export_detector(detector, export_config, eval_config):
    """Write a checkpoint's Detector for one input size and batch as export_config says, and its side file; returns the file's path.

    The side file (same name, .json) tells a consumer all it needs; docs/deployment.md says how to use it.
    """
    width, height = export_config.input_res
    batch = export_config.batch_size
    ending = export_config.export_format.lower()
    path = f"{export_config.export_name}.{ending}"
    if os.path.realpath(side_file(path)) == os.path.realpath(side_file(export_config.ckpt_file)):
        raise UserError(f"export_config.export_name is {export_config.export_name}, whose side file would take the place of the "
                        f"checkpoint's, {side_file(path)}; name another")
    keep_earlier(path)
    keep_earlier(side_file(path))
    if detector.from_bytes:
        example = np.zeros((batch, height, width, 3), np.uint8)
    else:
        example = np.zeros((batch, 3, height, width), np.float32)
    with whole_file(path) as partial, tempfile.TemporaryDirectory() as plain, errors.INTERRUPTS.held():
        # MindSpore takes names of a few characters alone, which those of the user's folders may not be: it gets a link's.
        os.symlink(os.path.abspath(os.path.dirname(partial)), os.path.join(plain, "folder"))
        made = os.path.join(plain, "folder", f"network.{ending}")
        ms.export(detector.network, ms.Tensor(example), file_name=made, file_format=export_config.export_format)
        os.rename(made, partial)
    consumer = {name: detector.description[name] for name in CONSUMER}
    consumer.update(
        input_res=[width, height], batch_size=batch, input_type=export_config.input_type, input_shape=list(example.shape),
        down_ratio=detector.down_ratio, K=eval_config.K, flip_test=eval_config.flip_test,
        evaluation={name: value for name, value in detector.description["evaluation"].items() if name not in FIXED},
        mindspore=ms.__version__, checkpoint=os.path.basename(export_config.ckpt_file),
    )
    write_json(side_file(path), consumer)
    return path
