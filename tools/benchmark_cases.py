"""The parts of tools/benchmark.py: generators of timing.Case. Slow imports are local."""
import contextlib
import functools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from src.core.errors import UserError
from src.core.timing import Case, time_interleaved
from tools.benchmark_inputs import (
    CLASSES,
    METAINFO,
    build_detector,
    convert,
    convert_photographs,
    jpeg,
    photograph,
    random_boxes,
    settings,
    training_batch,
    write_coco,
)
from tools.benchmark_onnx import onnx_part
from tools.benchmark_service import serve_part
from tools.benchmark_tasks import SUBJECTS, task_part

PIPELINE_IMAGES = 1280  # enough to make the first and last batches negligible
CONVERTED_IMAGES = 320
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@contextlib.contextmanager
def one_core():
    """Restrict this process, including OpenCV, to one core."""
    import cv2

    cores, threads = os.sched_getaffinity(0), cv2.getNumThreads()
    os.sched_setaffinity(0, {min(cores)})
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)
    os.sched_setaffinity(0, cores)


def input_part(runs):
    """A training sample on one core, its steps, and the input pipeline."""
    import numpy as np

    from src.data.samples import make_sample, sample_layout
    from src.imaging import reading
    from src.tasks.augmentation import ranges_of
    from src.tasks.detection import targets

    config = settings()
    layout, ranges = sample_layout(config, METAINFO), ranges_of(config)
    with one_core():
        for boxes_count, (width, height) in ((8, (640, 480)), *((n, (640, 480)) for n in (1, 2, 4, 16, 32, 64, 128)),
                                             *((8, size) for size in ((320, 240), (1280, 720), (1920, 1080)))):
            image = photograph(width, height)
            data = jpeg(image)
            boxes, labels = random_boxes(boxes_count, width, height)
            name = f"{width}x{height}, {boxes_count} boxes"

            def sample(draw, data=data, boxes=boxes, labels=labels):
                heatmaps = {"hm": np.zeros((CLASSES, 128, 128), np.float32)} if draw else None
                pixels, rng = reading.decode_image(data), np.random.default_rng(1)
                size = pixels.shape[1], pixels.shape[0]
                augmentation = targets.random_augmentation(rng, size, layout.input_size, ranges)
                make_sample(targets, pixels, {"boxes": boxes, "labels": labels}, augmentation, layout, heatmaps)

            for draw, where in ((True, "drawn"), (False, "left to the device")):
                run = functools.partial(repeat, functools.partial(sample, draw), 20)
                yield Case(f"sample of {name}, {where}", run, "ms", 20, (data, boxes, labels) if draw else None)
            if (width, height) == (640, 480) and boxes_count == 8:
                yield from sample_steps(data, boxes, labels, layout)
    with tempfile.TemporaryDirectory() as folder:
        yield from pipeline_cases(folder, runs)


def repeat(function, count):
    """Call a function several times, if one call is too short to time."""
    for _ in range(count):
        function()


def sample_steps(data, boxes, labels, layout):
    """The steps of one training sample."""
    import numpy as np

    from src.data.samples import collate, make_sample
    from src.imaging import geometry, reading
    from src.imaging.color import color_matrix, mean_gray, normalizing_matrix, random_color
    from src.tasks.augmentation import whole_image
    from src.tasks.detection import targets

    pixels = reading.decode_image(data)
    whole = whole_image((640, 480), layout.input_size)
    matrix = geometry.affine_matrix(whole.center, whole.width * 0.9, 0, layout.input_size)
    view = geometry.warp(pixels, matrix, layout.input_size)
    steps, lighting = random_color(np.random.default_rng(0))
    out_boxes = geometry.transform_boxes(boxes, geometry.affine_matrix(whole.center, whole.width, 0, layout.out_size))

    def color():
        change = color_matrix(steps, lighting, mean_gray(view), layout.eig_val, layout.eig_vec)
        normalizing_matrix(change, layout.mean, layout.std)

    def encode(on_host):
        hm = np.zeros((CLASSES, *layout.out_size[::-1]), np.float32) if on_host else None
        targets.encode_targets(out_boxes, labels, layout, hm)

    samples = [make_sample(targets, pixels, {"boxes": boxes, "labels": labels}, whole, layout) for _ in range(16)]
    for name, function in (
        ("  decode", lambda: reading.decode_image(data)),
        ("  warp", lambda: geometry.warp(pixels, matrix, layout.input_size)),
        ("  color map", color), ("  targets, heatmap drawn", lambda: encode(True)),
        ("  targets, heatmap left to the device", lambda: encode(False)),
    ):
        yield Case(name, functools.partial(repeat, function, 20), "ms", 20)
    yield Case("  batching by 16", functools.partial(collate, targets.columns(False), samples, {}), "ms", 16)


def pipeline_cases(folder, runs):
    """MindSpore's input pipeline with one and two workers, and the same batches of 16 made without it on one core."""
    from src.data.train_set import TrainSet

    records = convert_photographs(folder, PIPELINE_IMAGES)
    for where in ("host", "device"):
        args = ["--mindrecord_dir", records, "--train_config.batch_size", 16, "--dataset_config.heatmap_on", where]
        one, two = (TrainSet(settings(*args, "--dataset_config.num_workers", workers)) for workers in (1, 2))
        functions = {"without the pipeline, one core": functools.partial(make_batches, one),
                     "1 worker": functools.partial(read_epoch, one), "2 workers": functools.partial(read_epoch, two)}
        times = time_interleaved(functions, runs)
        for name, seconds in times.items():
            yield Case(f"batches of 16, heatmaps on the {where}: {name}", unit="images/s", count=PIPELINE_IMAGES,
                       seconds=seconds)
        ratios = [alone / both / 2 for alone, both in zip(times["without the pipeline, one core"], times["2 workers"])]
        yield Case("  parallel efficiency of 2 workers", unit="ratio", seconds=ratios)


def make_batches(train_set):
    """Make all batches of an epoch on one core."""
    with one_core():
        for step in range(train_set.steps_per_epoch):
            train_set.make_batch(step)


def read_epoch(train_set):
    """Fetch all batches of an epoch."""
    for _ in train_set.batches(0, train_set.steps_per_epoch).create_tuple_iterator(num_epochs=1):
        pass


def train_part(runs):
    """Training steps, and the startup time and memory of train.py."""
    import mindspore as ms

    from src.model_utils.device_adapter import set_device
    from src.training.engine import build_device_input

    with tempfile.TemporaryDirectory() as folder:
        records = convert_photographs(folder, 32)
        start, peak = train_shortly(folder, records)
        again, _ = train_shortly(folder, records)
    yield Case("train.py, 16 x 128x128, until its first step is done", unit="s", seconds=[start])
    yield Case("  the same with the cached graph", unit="s", seconds=[again])
    yield Case("  peak memory after 20 steps", unit="GB", seconds=[peak])
    set_device("CPU", 0)
    for batch_size, side in ((16, 128), (2, 512)):
        config = settings("--dataset_config.input_res_train", [side, side])
        device_input = build_device_input(config, METAINFO, True)
        step = make_step(config, device_input)
        tensors = [ms.Tensor(array) for array in training_batch(config, batch_size)]
        start = time.perf_counter()
        step(*tensors)[0].asnumpy()
        yield Case(f"first step, {batch_size} x {side}x{side}", unit="s", seconds=[time.perf_counter() - start])
        for draw, where in ((True, "host"), (False, "device")):
            cell = build_device_input(config, METAINFO, draw)
            inputs = [ms.Tensor(array) for array in training_batch(config, batch_size, draw)]
            run = functools.partial(run_cell, cell, inputs)
            yield Case(f"  device preprocessing of a batch, heatmaps drawn on the {where}", run, "ms")
        run = functools.partial(run_step, step, tensors)
        arrays = [value.asnumpy() for value in device_input(*tensors).values()]
        yield Case(f"training step, {batch_size} x {side}x{side}", run, "ms", 1, arrays)
        config = settings("--dataset_config.input_res_train", [side, side], "--train_config.ema_decay", 0.999)
        averaging = make_step(config, device_input)
        times = time_interleaved({"plain": run, "averaging": functools.partial(run_step, averaging, tensors)}, 2 * runs)
        ratios = [with_average / plain for plain, with_average in zip(*times.values())]
        yield Case("  time with weight averaging, relative to without", unit="ratio", seconds=ratios)


def make_step(config, device_input):
    """The training cell of a configuration."""
    from src.network.centernet import build_network
    from src.training.engine import build_train_step
    from src.training.optimizer import build_optimizer

    network = build_network(config.net_config, METAINFO, "composite")
    return build_train_step(network, config, build_optimizer(network, config.train_config, 100, 1), device_input)


def train_shortly(folder, records):
    """Run 20 steps of train.py; return (seconds until the first step is done, peak memory in GB)."""
    command = [sys.executable, os.path.join(ROOT, "train.py"), "--device_target", "CPU", "--mindrecord_dir", records,
               "--train_config.batch_size", "16", "--dataset_config.input_res_train", "[128, 128]",
               "--train_steps", "20", "--epoch_size", "10", "--enable_save_ckpt", "false", "--save_result_dir", folder,
               "--compile_cache_dir", os.path.join(folder, "graphs")]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    first = None
    for line in process.stdout:
        if first is None and line.startswith("epoch:"):
            first = time.perf_counter() - start
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError("train.py failed; its error is above")
    return first, usage.ru_maxrss / 2**20


def run_step(step, tensors):
    """Run one training step to completion."""
    step(*tensors)[0].asnumpy()


def run_cell(cell, inputs):
    """Run a cell to completion."""
    cell(*inputs)["hm"].asnumpy()


def infer_part(runs):
    """The network with decoding, on normalized batches."""
    import numpy as np

    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    detector = build_detector()
    for batch_size in (1, 8):
        batch = np.random.default_rng(0).standard_normal((batch_size, 3, 512, 512)).astype(np.float32)
        yield Case(f"inference, {batch_size} x 512x512", functools.partial(detector, batch), "ms", 1, batch)


def family_part(runs):
    """The other architectures, inference and then training; one at a time, since the largest take gigabytes."""
    import gc

    import numpy as np

    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    batch = np.random.default_rng(0).standard_normal((1, 3, 512, 512)).astype(np.float32)
    for arch in ("res_18", "resdcn_101", "dla_34", "hourglass"):
        detector = build_detector("--net_config.arch", arch)
        yield Case(f"{arch}: inference, 1 x 512x512", functools.partial(detector, batch), "ms", 1, batch)
        del detector
        gc.collect()
    for arch in ("res_18", "resdcn_101", "dla_34"):
        config = settings("--net_config.arch", arch)
        yield from training_cases(config, 2, f"{arch}: training step, 2 x 512x512")
        gc.collect()


def training_cases(config, batch_size, name):
    """The first and the following training steps of a configuration's network and input size."""
    import mindspore as ms

    from src.training.engine import build_device_input

    device_input = build_device_input(config, METAINFO, True)
    step = make_step(config, device_input)
    tensors = [ms.Tensor(array) for array in training_batch(config, batch_size)]
    start = time.perf_counter()
    run_step(step, tensors)
    yield Case(f"{name}, first", unit="s", seconds=[time.perf_counter() - start])
    arrays = [value.asnumpy() for value in device_input(*tensors).values()]
    yield Case(name, functools.partial(run_step, step, tensors), "ms", 1, arrays)


def decode_part(runs):
    """The 100 best peaks of 80 heatmaps."""
    import mindspore as ms
    import numpy as np

    from src.model_utils.device_adapter import set_device
    from src.tasks.detection.device import decode

    set_device("CPU", 0)
    rng = np.random.default_rng(0)
    heat = (1 / (1 + np.exp(-rng.normal(-4, 1, (1, CLASSES, 128, 128))))).astype(np.float32)
    wh, reg = rng.uniform(1, 20, (2, 1, 2, 128, 128)).astype(np.float32)
    tensors = [ms.Tensor(array) for array in (heat, wh, reg)]

    class Decode(ms.nn.Cell):
        def construct(self, heat, wh, reg):
            return decode(heat, wh, reg, 100)

    network = Decode()
    yield Case("decoding, 80 x 128x128", lambda: network(*tensors).asnumpy(), "ms", 1, (heat, wh, reg))


def postprocess_part(runs):
    """Conversion of 100 detections in output pixels to COCO records, on the host."""
    import numpy as np

    from src.imaging.view import View
    from src.native.extensions import extension
    from src.tasks.detection.results import coco_records, merge, to_image

    rng = np.random.default_rng(0)
    boxes, labels = random_boxes(100, 128, 128)
    scores = np.sort(rng.uniform(0.01, 1, 100))[::-1]
    detections = np.hstack([boxes, scores[:, None], labels[:, None]]).astype(np.float32)
    view = View(np.array([320, 240], np.float32), 640.0, (128, 128), 1.0)
    ids = list(range(1, CLASSES + 1))

    def postprocess(use_soft_nms=True):
        coco_records(1, merge([to_image(detections, view)], use_soft_nms, 100), ids)

    run, plain = functools.partial(repeat, postprocess, 50), functools.partial(postprocess, False)
    yield Case("100 boxes to records, 80 classes, soft-NMS", run, "us", 50, detections)
    yield Case("  the same without soft-NMS", functools.partial(repeat, plain, 50), "us", 50)
    one_class, soft_nms = detections[:, :5].copy(), extension("soft_nms").soft_nms
    run = functools.partial(repeat, lambda: soft_nms(one_class), 50)
    yield Case("  soft-NMS of 100 boxes of one class", run, "us", 50, one_class)


def eval_part(runs):
    """Evaluation from files to boxes, and the network alone on the same inputs."""
    import numpy as np

    from src.imaging.reading import read_image
    from src.inference.pipeline import detect_all, make_inputs
    from src.model_utils.device_adapter import set_device

    set_device("CPU", 0)
    detector = build_detector()
    config = settings()
    count = 8
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, f"{number}.jpg") for number in range(count)]
        for number, path in enumerate(paths):
            with open(path, "wb") as file:
                file.write(jpeg(photograph(seed=number)))
        batches = [np.stack([make_inputs(read_image(path), detector, config)[0][0]]) for path in paths]
        functions = {"": lambda: len(list(detect_all(detector, paths, read_image, config))),
                     "network": lambda: [detector(batch) for batch in batches]}
        times = time_interleaved(functions, runs)
        yield Case("evaluation of 640x480 photographs", unit="images/s", count=count, seconds=times[""])
        yield Case("network alone on the same inputs", unit="images/s", count=count, seconds=times["network"])
        ratios = [total / alone for total, alone in zip(times[""], times["network"])]
        yield Case("total time relative to the network alone", unit="ratio", seconds=ratios)


def convert_part(runs):
    """Conversion from COCO to MindRecord."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = write_coco(os.path.join(folder, "coco"), CONVERTED_IMAGES, 640, 480)
        for shards in (1, 4, 16, 64):
            times = []
            for run in range(runs):
                start = time.perf_counter()
                convert(data_dir, os.path.join(folder, f"{shards}_{run}"), shards)
                times.append(time.perf_counter() - start)
            yield Case(f"conversion to {shards} MindRecord files", unit="images/s", count=CONVERTED_IMAGES,
                       seconds=times)


PARTS: dict[str, Callable] = {
    "input": input_part, "train": train_part, "infer": infer_part, "family": family_part,
    **{task: functools.partial(task_part, task) for task in SUBJECTS},
    "onnx": onnx_part, "decode": decode_part, "postprocess": postprocess_part, "eval": eval_part,
    "convert": convert_part, "serve": serve_part,
}
