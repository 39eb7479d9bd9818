"""Detection with a checkpoint or an exported file, on one image or on many; export."""
import collections
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import mindspore as ms
import numpy as np
from mindspore import nn

from src import errors
from src.centernet_det import DetectionNetwork, HeatmapNetwork, build_network, make_for_inference
from src.checkpoint import load_weights, read_checkpoint
from src.deform_conv import resolve_dcn_impl
from src.device_input import Normalize
from src.errors import UserError
from src.model_utils.config import Config
from src.post_process import merge, to_image
from src.pre_process import normalize, place
from src.side_file import CONSUMER, read_exported, read_side_file, side_file
from src.utils import keep_earlier, log, whole_file, write_json

# Evaluation settings that are fixed when a file is exported.
FIXED = ("dataset_config.input_res_test", *(f"eval_config.{name}" for name in ("keep_res", "pad_multiple", "flip_test", "K")))


@dataclass
class Detector:
    """A network that detects. Call it with a batch: float32 [N, 3, H, W] normalised, or uint8 [N, H, W, 3] if from_bytes.

    It gives detections [N, K, 6] in output pixels: x1, y1, x2, y2, score, class. description is the side file's dictionary.
    An exported file takes only its own input_res [W, H] and batch_size (fewer images are filled up), a checkpoint any (None).
    """

    graph: nn.Cell
    description: dict
    down_ratio: int
    from_bytes: bool = False
    input_res: list | None = None
    batch_size: int | None = None
    compiled: set = field(default_factory=set)

    def _tensor(self, batch):
        missing = (self.batch_size or len(batch)) - len(batch)
        if missing > 0:
            batch = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
        return ms.Tensor(batch)

    def compile(self, batch):
        """Compile the graph for a batch's shape, unless it is; returns the seconds it took."""
        start = time.perf_counter()
        if not self.is_compiled(batch):
            with errors.INTERRUPTS.held():
                if self.input_res is None:
                    self.graph.compile(self._tensor(batch))
                else:  # a graph out of a file cannot be compiled but by a call
                    self(batch)
            self.compiled.add(self._graph_shape(batch))
        return time.perf_counter() - start

    def is_compiled(self, batch):
        """Whether the graph is compiled for a batch's shape."""
        return self._graph_shape(batch) in self.compiled

    def _graph_shape(self, batch):
        return (self.batch_size or len(batch), *batch.shape[1:])

    def __call__(self, batch):
        return self.graph(self._tensor(batch)).asnumpy()[: len(batch)]


def load_detector(checkpoint, eval_config, device_target, dcn_impl="auto", from_bytes=False):
    """The Detector of a checkpoint, with eval_config's K and flip_test, its batch norm folded."""
    description = read_side_file(checkpoint)
    options = Config(description["net_config"])
    network = build_network(options, len(description["classes"]), resolve_dcn_impl(dcn_impl, device_target))
    load_weights(network, read_checkpoint(checkpoint), checkpoint)
    if left := make_for_inference(network):
        log(f"{left} batch norms stay: folding them would cost precision")
    input_cell = Normalize(description["mean"], description["std"]) if from_bytes else nn.Identity()
    graph = DetectionNetwork(HeatmapNetwork(network, input_cell, eval_config.flip_test), eval_config.K, options.cat_spec_wh)
    graph.set_train(False)
    return Detector(graph, description, options.down_ratio, from_bytes)


def load_mindir(path):
    """The Detector of an exported MindIR file. Raises UserError if it is none."""
    description = read_exported(path)
    try:
        graph = nn.GraphCell(ms.load(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a MindIR file, or a damaged one ({str(error).splitlines()[0]})") from error
    return Detector(graph, description, description["down_ratio"], description["input_type"] == "uint8", description["input_res"],
                    description["batch_size"])


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


def detect_all(detector, items, load, config, times=None):
    """Detect on every item; yields Detected, images of one shape in their order.

    load(item) gives a picture, or raises OSError or ValueError. Threads load and prepare the next images and finish the
    last ones while the device computes; images of one shape are computed eval_config.batch_size at a time.
    """
    times = times or StageTimes()
    workers = config.dataset_config.num_workers
    batch_size = detector.batch_size or config.eval_config.batch_size
    waiting = collections.defaultdict(list)  # shapes -> prepared images that wait for their batch
    with ThreadPoolExecutor(workers) as preparers, ThreadPoolExecutor(1) as finisher:
        finishing = collections.deque()

        def compute(batch):
            stacks = [np.stack([array for array, _ in one_scale]) for one_scale in zip(*(inputs for _, inputs in batch))]
            for stack in stacks:
                if not detector.is_compiled(stack):
                    times.shapes += 1
                    times.compiling += detector.compile(stack)
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
            while len(finishing) > 1:
                yield from finishing.popleft().result()
        for batch in waiting.values():
            compute(batch)
        for future in finishing:
            yield from future.result()


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

    The side file (same name, .json) tells a consumer all it needs; README, "Deployment", says how to use it.
    """
    width, height = export_config.input_res
    batch = export_config.batch_size
    ending = export_config.export_format.lower()
    path = keep_earlier(f"{export_config.export_name}.{ending}")
    keep_earlier(side_file(path))
    if detector.from_bytes:
        example = np.zeros((batch, height, width, 3), np.uint8)
    else:
        example = np.zeros((batch, 3, height, width), np.float32)
    with whole_file(path) as partial:
        ms.export(detector.graph, ms.Tensor(example), file_name=partial, file_format=export_config.export_format)
    consumer = {name: detector.description[name] for name in CONSUMER}
    consumer.update(
        input_res=[width, height], batch_size=batch, input_type=export_config.input_type, input_shape=list(example.shape),
        down_ratio=detector.down_ratio, K=eval_config.K, flip_test=eval_config.flip_test,
        evaluation={name: value for name, value in detector.description["evaluation"].items() if name not in FIXED},
        mindspore=ms.__version__, checkpoint=os.path.basename(export_config.ckpt_file),
    )
    write_json(side_file(path), consumer)
    return path
