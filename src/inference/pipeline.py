"""Detection in one image or many; without MindSpore, which only the detectors of detector.py need.

A detector is called with a batch: float32 [N, 3, H, W] normalized, or uint8 [N, H, W, 3] if its from_bytes is true. It
returns detections [N, K, D] in output pixels, the task's rows. compile(batch) prepares for a batch and returns the
seconds taken. Attributes: description, the side file's dictionary; down_ratio, input size / output size; input_res
[W, H] and batch_size, None if not fixed.
"""
import collections
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core import errors
from ..imaging.view import Fit, View, make_input, normalize, padded_size, scaled_size
from ..model_utils.config import Config
from ..tasks import task_of

# ---------------------------------------------------------------- one image


def make_inputs(image: np.ndarray, detector: Any, config: Config,
                calib: np.ndarray | None = None) -> list[tuple[np.ndarray, View]]:
    """Make an image's inputs, one for each of eval_config.multi_scales: [(array without the batch axis, View)].

    The fixed size of an exported file overrides keep_res and input_res_test. calib [3, 4] is the image's camera, for
    tasks that need one.
    """
    options, task = config.eval_config, task_of(detector.description)
    keep_res = options.keep_res and detector.input_res is None
    size = detector.input_res or config.dataset_config.input_res_test
    fit = Fit(keep_res, size, options.pad_multiple, detector.description["stride"], task.sees_all)
    inputs = []
    for scale in options.multi_scales:
        pixels, view = make_input(image, scale, fit, detector.down_ratio)
        view = task.results.placed(view, calib, detector.description, options)
        if not detector.from_bytes:
            pixels = normalize(pixels, detector.description["mean"], detector.description["std"])
        inputs.append((pixels, view))
    return inputs


def join_scales(detector: Any, outputs: Sequence[np.ndarray], inputs: list[tuple[np.ndarray, View]],
                use_soft_nms: bool) -> np.ndarray:
    """Rows [K, D] of one image at each scale -> M <= K merged rows in image pixels; inputs, see make_inputs."""
    results = task_of(detector.description).results
    scales = [results.to_image(rows, view) for rows, (_, view) in zip(outputs, inputs)]
    return results.merge(scales, use_soft_nms, len(outputs[0]))


# ---------------------------------------------------------------- many images


@dataclass
class Detected:
    """The result for one item: its image and detections, rows [M, D] in image pixels, or a problem."""

    item: Any
    image: np.ndarray | None = None
    detections: np.ndarray | None = None
    problem: str = ""


@dataclass
class StageTimes:
    """Seconds in each stage of detect_all, over all images; the stages overlap. shapes counts compiled graphs."""

    images: int = 0
    shapes: int = 0
    compiling: float = 0.0
    preparing: float = 0.0
    computing: float = 0.0
    finishing: float = 0.0

    def summary(self, seconds: float) -> str:
        """One line with the rate and the stages; seconds, the total time."""
        per_image = " + ".join(
            f"{stage} {1000 * spent / max(self.images, 1):.1f}"
            for stage, spent in (("preparing", self.preparing), ("network", self.computing), ("boxes", self.finishing))
        )
        return (f"{self.rate(seconds):.2f} images/s ({per_image} ms per image, overlapping), "
                f"after {self.compiling:.1f} s of compiling {self.shapes} graphs")

    def rate(self, seconds: float) -> float:
        """Images per second, compilation excluded."""
        return self.images / max(seconds - self.compiling, 1e-9)


def detect_all(detector: Any, items: Iterable, load: Callable[[Any], np.ndarray], config: Config,
               times: StageTimes | None = None,
               size_of: Callable[[Any], tuple[int, int] | None] | None = None,
               calib_of: Callable[[Any], np.ndarray | None] = lambda item: None) -> Iterator[Detected]:
    """Detect in every item; yields Detected, in order among images of the same input shape.

    load(item) returns an image or raises OSError or ValueError. Threads load and prepare the next images and finish the
    previous ones while the device computes. Images of the same shape are computed in batches of eval_config.batch_size;
    at most two batches of prepared images wait for others. With keep_res, items are sorted by shape if size_of(item)
    returns (width, height), None if unknown. calib_of(item), which may raise them, too, returns its camera, see
    make_inputs.
    """
    if size_of and config.eval_config.keep_res and detector.input_res is None:
        items = by_shape(items, size_of, config.eval_config, detector.description["stride"])
    times = times or StageTimes()
    workers = config.dataset_config.num_workers
    batch_size = detector.batch_size or config.eval_config.batch_size
    waiting = collections.defaultdict(list)  # shapes -> prepared images waiting for a full batch
    with ThreadPoolExecutor(workers) as preparers, ThreadPoolExecutor(1) as finisher:
        finishing: collections.deque[Future] = collections.deque()

        def compute(batch: list[tuple[Detected, list]]) -> None:
            scales = zip(*(inputs for _, inputs in batch))
            stacks = [np.stack([array for array, _ in one_scale]) for one_scale in scales]
            for stack in stacks:
                seconds = detector.compile(stack)
                times.shapes += seconds > 0
                times.compiling += seconds
            start = time.perf_counter()
            outputs = [detector(stack) for stack in stacks]
            times.computing += time.perf_counter() - start
            finishing.append(finisher.submit(_finish, detector, batch, outputs, config.eval_config.SOFT_NMS, times))

        ahead = 2 * max(workers, batch_size)
        for detected, inputs in _prepared(detector, items, lambda item: (load(item), calib_of(item)), config, times,
                                          preparers, ahead):
            if detected.problem:
                yield detected
                continue
            shapes = tuple(array.shape for array, _ in inputs)
            waiting[shapes].append((detected, inputs))
            if len(waiting[shapes]) == batch_size:
                compute(waiting.pop(shapes))
            elif sum(map(len, waiting.values())) > 2 * batch_size:
                compute(waiting.pop(next(iter(waiting))))  # the shape waiting longest
            while len(finishing) > 1:
                yield from finishing.popleft().result()
        for batch in waiting.values():
            compute(batch)
        for future in finishing:
            yield from future.result()


def by_shape(items: Iterable, size_of: Callable[[Any], tuple[int, int] | None], options: Config, stride: int) -> list:
    """Sort items by the shapes of their inputs, those of unknown size last."""

    def shape(item: Any) -> list[tuple]:
        size = size_of(item)
        if not size:
            return [(math.inf,)]
        return [padded_size(*scaled_size(*size, scale), options.pad_multiple, stride) for scale in options.multi_scales]

    return sorted(items, key=shape)


def _prepared(detector: Any, items: Iterable, load: Callable[[Any], tuple[np.ndarray, np.ndarray | None]],
              config: Config, times: StageTimes, pool: ThreadPoolExecutor,
              ahead: int) -> Iterator[tuple[Detected, list]]:
    """Yield (Detected without detections, inputs) of each item in order, from the pool, at most `ahead` in advance.

    load(item) returns its image and camera.
    """

    def prepare(item: Any) -> tuple[np.ndarray, list, float]:
        start = time.perf_counter()
        image, calib = load(item)
        inputs = make_inputs(image, detector, config, calib)
        return image, inputs, time.perf_counter() - start

    coming = ((item, pool.submit(prepare, item)) for item in items)
    queue = collections.deque(itertools.islice(coming, ahead))
    while queue:
        item, future = queue.popleft()
        queue.extend(itertools.islice(coming, 1))
        try:
            image, inputs, seconds = future.result()
        except (OSError, ValueError) as error:
            yield Detected(item, problem=errors.reason(error)), []
        else:
            times.preparing += seconds
            yield Detected(item, image), inputs


def _finish(detector: Any, batch: list[tuple[Detected, list]], outputs: list[np.ndarray], use_soft_nms: bool,
            times: StageTimes) -> list[Detected]:
    """Set the detections of each image in a computed batch; outputs, one array [N, K, D] for each scale."""
    start = time.perf_counter()
    for row, (detected, inputs) in enumerate(batch):
        detected.detections = join_scales(detector, [output[row] for output in outputs], inputs, use_soft_nms)
    times.images += len(batch)
    times.finishing += time.perf_counter() - start
    return [detected for detected, _ in batch]
